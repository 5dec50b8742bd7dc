"""A header from untrusted bytes: every field in its range, every name one that can be printed.

What one field says of another is checked by ``nqbench.container.consistency``. ``packing`` is the other direction.
"""

from __future__ import annotations

import json
import math
import zlib

from nqbench.api import Array, CorruptFile, Per
from nqbench.api.granularity import BYS
from nqbench.api.structure import ARRAYS
from nqbench.container.consistency import check
from nqbench.container.fields import Fields
from nqbench.container.header import (
    ALIAS,
    BUFFER,
    CODED,
    CONSTANT,
    DICTIONARY,
    DTYPES,
    FORMS,
    MAGIC,
    MAX_ALPHABET,
    MAX_ARRAYS,
    MAX_ELEMENTS,
    MAX_HEADER,
    MAX_NAMES,
    MAX_RANK,
    MAX_TENSORS,
    PARAMETER,
    QUANTIZED,
    SECTIONS,
    SINCE_2,
    STORED,
    STREAMS,
    VERSIONS,
    ArrayEntry,
    GroupEntry,
    Header,
    PluginRef,
    PositionsEntry,
    StreamEntry,
    TensorEntry,
)
from nqbench.container.structures import StructureEntry

KINDS = (QUANTIZED, PARAMETER, BUFFER, CODED, PARAMETER | CONSTANT, BUFFER | CONSTANT)


def unpack(data: bytes) -> tuple[Header, int]:
    """The header and the offset of the first section. Raises CorruptFile(section ``header``)."""
    plain, end, version = unframe(data)
    fields = Fields(plain)
    header = _header(fields, version)
    if fields.left:
        raise fields.corrupt(f"{fields.left} bytes too many")
    if header.version != version:
        raise fields.corrupt(f"format version {version} is stated where version {header.version} describes this header")
    check(header)
    return header, end


def unframe(data: bytes) -> tuple[bytes, int, int]:
    """The header's plain bytes, where it ends in the file, and the format's version. Raises CorruptFile."""
    outer = Fields(data)
    if outer.take(min(len(MAGIC), len(data))) != MAGIC:
        raise CorruptFile("this is not an .nqz file", section="header", offset=0)
    version = outer.take(1)[0]
    if version not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise outer.corrupt(f"format version {version}; this nqbench reads {known}", len(MAGIC))
    size = outer.uint(MAX_HEADER, "the header's size")
    packed = outer.take(outer.uint(MAX_HEADER, "the header's compressed size"))
    end = outer.at
    if int.from_bytes(outer.take(4), "little") != zlib.crc32(data[:end]):
        raise outer.corrupt("checksum mismatch: the header is damaged", end)
    inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        plain = inflate.decompress(packed, size + 1)
    except zlib.error as error:
        raise CorruptFile(f"cannot be inflated: {error}", section="header") from None
    if len(plain) != size or not inflate.eof or inflate.unused_data:
        raise CorruptFile(f"does not decompress to the {size} bytes that it states", section="header")
    return plain, outer.at, version


def _header(fields: Fields, version: int) -> Header:
    return Header(
        fields.text(256),
        _plugin(fields),
        _plugin(fields),
        _plugin(fields),
        _plugin(fields),
        _plugin(fields),
        _tensors(fields),
        tuple(_group(fields, version) for _ in range(fields.uint(MAX_TENSORS, "the number of groups"))),
        STREAMS[fields.uint(len(STREAMS) - 1, "the stream mode")],
        tuple(
            StreamEntry(fields.uint(), fields.uint()) for _ in range(fields.uint(MAX_TENSORS, "the streams' number"))
        ),
        _positions(fields),
        tuple(fields.uint() if version > 1 or name not in SINCE_2 else 0 for name in SECTIONS),
    )


def _plugin(fields: Fields) -> PluginRef:
    name = fields.word()
    if not name:
        return PluginRef()
    start, text = fields.at, fields.text(1 << 16)
    try:
        parameters = json.loads(text)
    except (ValueError, RecursionError):
        parameters = None
    if not isinstance(parameters, dict):
        raise fields.corrupt(f"the parameters of plugin '{name}' are not a JSON object", start)
    return PluginRef(name, text, fields.word(), fields.word())


def _tensors(fields: Fields) -> tuple[TensorEntry, ...]:
    names: list[str] = []
    before, total = b"", 0
    for _ in range(fields.uint(MAX_TENSORS, "the number of tensors")):
        start = fields.at
        shared = fields.uint(len(before), "a shared prefix")
        before = before[:shared] + fields.take(fields.uint(4096, "a name's length"))
        total += len(before)
        if total > MAX_NAMES:
            raise fields.corrupt("the tensors' names are too long", start)
        names.append(fields.decode(before, start))
    if len(set(names)) != len(names):
        raise fields.corrupt("two tensors have the same name")
    kinds = fields.take(len(names))
    return tuple(_tensor(fields, name, kind, len(names)) for name, kind in zip(names, kinds, strict=True))


def _tensor(fields: Fields, name: str, kind: int, tensors: int) -> TensorEntry:
    if kind == ALIAS:
        return TensorEntry(name, kind, target=fields.uint(tensors - 1, "an alias"))
    if kind not in KINDS:
        raise fields.corrupt(f"tensor '{name}' has the unknown kind {kind}")
    dtypes = fields.take(1)[0]
    if dtypes >> 4 >= len(DTYPES) or dtypes & 15 >= len(STORED):
        raise fields.corrupt(f"tensor '{name}' has an unknown dtype")
    shape = _shape(fields)
    group = fields.uint(2 * MAX_TENSORS, "a group") if kind == QUANTIZED else 0
    return TensorEntry(name, kind, shape, DTYPES[dtypes >> 4], STORED[dtypes & 15], group >> 1, bool(group & 1))


def _shape(fields: Fields) -> tuple[int, ...]:
    shape = tuple(fields.uint() for _ in range(fields.uint(MAX_RANK, "a rank")))
    # 0 times anything is 0: bound the sizes without their zeros, or a reshape could overflow
    if math.prod(size for size in shape if size) > MAX_ELEMENTS:
        raise fields.corrupt(f"a tensor of the shape {shape} is too large")
    return shape


def _group(fields: Fields, version: int) -> GroupEntry:
    form = FORMS[fields.uint(len(FORMS) - 1, "a form")]
    alphabet = fields.uint(MAX_ALPHABET, "an alphabet")
    inserted = fields.uint(MAX_ALPHABET, "an inserted symbol")
    if alphabet < 1 or inserted > alphabet + 1 or alphabet + (inserted > 0) > MAX_ALPHABET:
        raise fields.corrupt(f"an alphabet of {alphabet} with the inserted symbol {inserted - 1}")
    arrays = tuple(_array(fields) for _ in range(fields.uint(MAX_ARRAYS, "the number of arrays")))
    structure = _structure(fields) if version > 1 and fields.uint(1, "a structure") else None
    return GroupEntry(form, alphabet, arrays, inserted - 1 if inserted else None, structure)


def _structure(fields: Fields) -> StructureEntry:
    dimension, summed, table = fields.uint(), bool(fields.uint(1, "a sum")), fields.word()
    transform = fields.uint((1 << 32) - 1, "a transform's block")
    seed = fields.uint() if transform else 0
    arrays = []
    for _ in range(fields.uint(len(ARRAYS), "the number of arrays")):
        name, per, codes = ARRAYS[fields.uint(len(ARRAYS) - 1, "an array")], _per(fields), fields.uint(1 << 16, "codes")
        arrays.append((name, Array(per, codes, _per(fields)) if codes else Array(per)))
    if len({name for name, _ in arrays}) != len(arrays):
        raise fields.corrupt("an array is declared twice")
    return StructureEntry(dimension, summed, table, transform % (1 << 16), seed, transform >> 16, tuple(arrays))


def _per(fields: Fields) -> Per:
    start, by = fields.at, BYS[fields.uint(len(BYS) - 1, "a granularity")]
    size = fields.uint(MAX_ELEMENTS, "a granularity") if by in ("channel", "group") else 0
    if by == "group" and not size:
        raise fields.corrupt("a block size of 0 weights", start)
    return Per(by, size)


def _array(fields: Fields) -> ArrayEntry:
    name, tag = fields.text(256), fields.take(1)[0]
    if tag in (0x20, 0x21):
        return ArrayEntry(name, parameter=False, integer=tag == 0x20)
    if tag > 0x1F or tag & 15 >= len(DTYPES):
        raise fields.corrupt(f"array '{name}' has the unknown type {tag}")
    return ArrayEntry(name, bool(tag & 0x10), DTYPES[tag & 15], _shape(fields))


def _positions(fields: Fields) -> PositionsEntry | None:
    if not fields.uint(1, "the positions flag"):
        return None
    count, alphabet = fields.uint(), fields.uint(MAX_ALPHABET, "the positions' alphabet")
    if not alphabet:
        raise fields.corrupt("the positions' alphabet is empty")
    return PositionsEntry(count, alphabet, fields.uint(), fields.uint())
