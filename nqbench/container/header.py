"""The header of a ``.nqz`` file as data, its bytes, and its checks. ``nqbench.container`` specifies every byte."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch

from nqbench.api import CorruptFile
from nqbench.container.fields import Fields, put_int, put_text

MAGIC = b"NQZ"
VERSION = 1
SECTIONS = ("codebook", "coder_table", "positions", "symbols", "raw_parameters", "raw_buffers")
DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
FORMS = ("lookup", "grid", "dithered", "plugin")
STREAMS = ("joint", "per-group", "per-tensor")
QUANTIZED, PARAMETER, BUFFER, ALIAS, CODED = range(5)
CONSTANT = 8  # added to PARAMETER or BUFFER: one element stands for all

MAX_HEADER = 1 << 26  # bytes, decompressed
MAX_NAMES = 1 << 24  # bytes of all tensor names together, once their shared prefixes are expanded
MAX_ALPHABET = 1 << 24
MAX_RANK = 32
MAX_ELEMENTS = 1 << 48

# Common words of state dicts: the preset dictionary of the header's deflate stream. Part of format version 1.
DICTIONARY = (
    b'{"}nqbenchlookupsensitivityzerostepcodebookkmeansuniformhuffmanlzwbzip2'
    b"embeddingattentionin_proj_weightout_projencoderdecodernormblocksfeaturesclassifierheadfcdownsample"
    b".num_batches_tracked.running_var.running_mean.bias.weightlinearlayer1.0.bn1.bn2.conv2.conv1.weight"
)


@dataclass(frozen=True)
class PluginRef:
    """Which plugin, with which parameters, from which distribution; all empty where there is none."""

    name: str = ""
    json: str = ""
    distribution: str = ""
    version: str = ""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the state. kind: QUANTIZED, PARAMETER, BUFFER (these two perhaps + CONSTANT), ALIAS or CODED.

    dtype: as deployed. stored: as written (raw ones). group, masked: of a quantized one. target: of an alias.
    """

    name: str
    kind: int
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    stored: torch.dtype = torch.float32
    group: int = 0
    masked: bool = False
    target: int = 0

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class ArrayEntry:
    """A named array or number of a group. dtype None: a 63-bit integer if ``number`` is int, else a float64."""

    name: str
    parameter: bool
    dtype: torch.dtype | None = None
    shape: tuple[int, ...] = ()
    integer: bool = False


@dataclass(frozen=True)
class GroupEntry:
    """One quantizer's result. inserted: the symbol that was inserted for pruned weights, or None."""

    form: str
    alphabet: int
    arrays: tuple[ArrayEntry, ...] = ()
    inserted: int | None = None


@dataclass(frozen=True)
class StreamEntry:
    """Bytes that one coded stream takes in the sections ``coder_table`` and ``symbols``."""

    table: int
    payload: int


@dataclass(frozen=True)
class PositionsEntry:
    """The stream of positions: its table and payload follow one another in the section ``positions``."""

    count: int
    alphabet: int
    table: int
    payload: int


@dataclass(frozen=True)
class Header:
    producer: str
    quantizer: PluginRef
    coder: PluginRef
    codec: PluginRef
    positions: PluginRef
    positions_coder: PluginRef
    tensors: tuple[TensorEntry, ...]
    groups: tuple[GroupEntry, ...]
    stream_mode: str
    streams: tuple[StreamEntry, ...]
    positions_entry: PositionsEntry | None
    sections: tuple[int, ...]
    """Bytes of each of ``SECTIONS``, without its checksum."""

    @property
    def plugins(self) -> tuple[PluginRef, ...]:
        return (self.quantizer, self.coder, self.codec, self.positions, self.positions_coder)

    def decoded_bytes(self) -> int:
        """What the decoded state takes in memory, at 4 bytes or more an element."""
        return sum(max(t.dtype.itemsize, 4) * t.numel for t in self.tensors if t.kind != ALIAS)


def pack(header: Header) -> bytes:
    """Magic, version, lengths, the deflated header and its checksum: everything before the first section."""
    body = bytearray()
    put_text(body, header.producer)
    for plugin in header.plugins:
        put_text(body, plugin.name)
        if plugin.name:
            for text in (plugin.json, plugin.distribution, plugin.version):
                put_text(body, text)
    _put_tensors(body, header.tensors)
    put_int(body, len(header.groups))
    for group in header.groups:
        _put_group(body, group)
    body.append(STREAMS.index(header.stream_mode))
    put_int(body, len(header.streams))
    for stream in header.streams:
        put_int(body, stream.table)
        put_int(body, stream.payload)
    entry = header.positions_entry
    body.append(entry is not None)
    if entry is not None:
        for value in (entry.count, entry.alphabet, entry.table, entry.payload):
            put_int(body, value)
    for size in header.sections:
        put_int(body, size)

    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    packed = deflate.compress(bytes(body)) + deflate.flush()
    out = bytearray(MAGIC)
    out.append(VERSION)
    put_int(out, len(body))
    put_int(out, len(packed))
    out += packed
    out += zlib.crc32(out).to_bytes(4, "little")
    return bytes(out)


def _put_tensors(body: bytearray, tensors: tuple[TensorEntry, ...]) -> None:
    # column by column: equal neighbours deflate to almost nothing
    put_int(body, len(tensors))
    before = b""
    for tensor in tensors:
        name = tensor.name.encode()
        shared = next((i for i, (a, b) in enumerate(zip(name, before, strict=False)) if a != b), -1)
        shared = min(len(name), len(before)) if shared < 0 else shared
        put_int(body, shared)
        put_int(body, len(name) - shared)
        body += name[shared:]
        before = name
    body += bytes(t.kind for t in tensors)
    for tensor in tensors:
        if tensor.kind == ALIAS:
            put_int(body, tensor.target)
            continue
        stored = 0 if tensor.kind in (QUANTIZED, CODED) else DTYPES.index(tensor.stored)
        body.append(DTYPES.index(tensor.dtype) << 4 | stored)
        put_int(body, len(tensor.shape))
        for size in tensor.shape:
            put_int(body, size)
        if tensor.kind == QUANTIZED:
            put_int(body, tensor.group << 1 | tensor.masked)


def _put_group(body: bytearray, group: GroupEntry) -> None:
    body.append(FORMS.index(group.form))
    put_int(body, group.alphabet)
    put_int(body, 0 if group.inserted is None else group.inserted + 1)
    put_int(body, len(group.arrays))
    for array in group.arrays:
        put_text(body, array.name)
        if array.dtype is None:
            body.append(0x20 if array.integer else 0x21)
            continue
        body.append(DTYPES.index(array.dtype) | (0x10 if array.parameter else 0))
        put_int(body, len(array.shape))
        for size in array.shape:
            put_int(body, size)


def unpack(data: bytes) -> tuple[Header, int]:
    """The header and the offset of the first section. Raises CorruptFile(section ``header``)."""
    outer = Fields(data)
    if outer.take(min(3, len(data))) != MAGIC:
        raise CorruptFile("this is not an .nqz file", section="header", offset=0)
    version = outer.take(1)[0]
    if version != VERSION:
        raise outer.corrupt(f"format version {version}; this nqbench reads {VERSION}", 3)
    size = outer.uint(MAX_HEADER, "the header's size")
    packed = outer.take(outer.uint(MAX_HEADER, "the header's compressed size"))
    end = outer.at
    if int.from_bytes(outer.take(4), "little") != zlib.crc32(data[:end]):
        raise outer.corrupt("checksum mismatch: the header is damaged", end)
    inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        body = inflate.decompress(packed, size + 1)
    except zlib.error as error:
        raise CorruptFile(f"cannot be inflated: {error}", section="header") from None
    if len(body) != size or not inflate.eof or inflate.unused_data:
        raise CorruptFile(f"inflates to other than the {size} bytes it states", section="header")
    fields = Fields(body)
    header = _read(fields)
    if fields.left:
        raise fields.corrupt(f"{fields.left} bytes too many")
    return header, outer.at


def _read(fields: Fields) -> Header:
    producer = fields.text(256)
    quantizer, coder, codec, positions, own = (_plugin(fields) for _ in range(5))
    tensors = _tensors(fields)
    groups = tuple(_group(fields) for _ in range(fields.count("the number of groups")))
    mode = fields.uint(len(STREAMS) - 1, "the stream mode")
    streams = tuple(StreamEntry(fields.uint(), fields.uint()) for _ in range(fields.count("the number of streams")))
    entry = None
    if fields.uint(1, "the positions flag"):
        alphabet_limit = MAX_ALPHABET
        count, alphabet = fields.uint(), fields.uint(alphabet_limit, "the positions' alphabet")
        entry = PositionsEntry(count, alphabet, fields.uint(), fields.uint())
    sections = tuple(fields.uint() for _ in SECTIONS)
    header = Header(
        producer, quantizer, coder, codec, positions, own, tensors, groups, STREAMS[mode], streams, entry, sections
    )
    _check(header, fields)
    return header


def _plugin(fields: Fields) -> PluginRef:
    name = fields.text(256)
    return PluginRef(name, fields.text(), fields.text(256), fields.text(256)) if name else PluginRef()


def _tensors(fields: Fields) -> tuple[TensorEntry, ...]:
    names: list[str] = []
    before, total = b"", 0
    for _ in range(fields.count("the number of tensors")):
        start = fields.at
        shared = fields.uint(len(before), "a shared prefix")
        before = before[:shared] + fields.take(fields.uint(4096, "a name's length"))
        total += len(before)
        if total > MAX_NAMES:
            raise fields.corrupt("the tensors' names are too long", start)
        try:
            names.append(before.decode())
        except UnicodeDecodeError:
            raise fields.corrupt("a tensor's name is not UTF-8", start) from None
    if len(set(names)) != len(names):
        raise fields.corrupt("two tensors have one name")
    kinds = fields.take(len(names))
    return tuple(_tensor(fields, name, kind, len(names)) for name, kind in zip(names, kinds, strict=True))


def _tensor(fields: Fields, name: str, kind: int, tensors: int) -> TensorEntry:
    if kind == ALIAS:
        return TensorEntry(name, kind, target=fields.uint(tensors - 1, "an alias"))
    if kind not in (QUANTIZED, PARAMETER, BUFFER, CODED, PARAMETER | CONSTANT, BUFFER | CONSTANT):
        raise fields.corrupt(f"tensor '{name}' has the unknown kind {kind}")
    dtypes = fields.take(1)[0]
    if dtypes >> 4 >= len(DTYPES) or dtypes & 15 >= len(DTYPES):
        raise fields.corrupt(f"tensor '{name}' has an unknown dtype")
    shape = _shape(fields)
    group = fields.uint() if kind == QUANTIZED else 0
    return TensorEntry(name, kind, shape, DTYPES[dtypes >> 4], DTYPES[dtypes & 15], group >> 1, bool(group & 1))


def _shape(fields: Fields) -> tuple[int, ...]:
    shape = tuple(fields.uint() for _ in range(fields.uint(MAX_RANK, "a rank")))
    # 0 times anything is 0: bound the sizes without their zeros, or a reshape could overflow
    if math.prod(size for size in shape if size) > MAX_ELEMENTS:
        raise fields.corrupt(f"a tensor of the shape {shape} is too large")
    return shape


def _group(fields: Fields) -> GroupEntry:
    form = FORMS[fields.uint(len(FORMS) - 1, "a form")]
    alphabet = fields.uint(MAX_ALPHABET, "an alphabet")
    inserted = fields.uint(MAX_ALPHABET, "an inserted symbol")
    if alphabet < 1 or inserted > alphabet + 1:
        raise fields.corrupt(f"an alphabet of {alphabet} with the inserted symbol {inserted - 1}")
    arrays = tuple(_array(fields) for _ in range(fields.count("the number of arrays")))
    return GroupEntry(form, alphabet, arrays, inserted - 1 if inserted else None)


def _array(fields: Fields) -> ArrayEntry:
    name, tag = fields.text(256), fields.take(1)[0]
    if tag in (0x20, 0x21):
        return ArrayEntry(name, parameter=False, integer=tag == 0x20)
    if tag > 0x1F or tag & 15 >= len(DTYPES):
        raise fields.corrupt(f"array '{name}' has the unknown type {tag}")
    return ArrayEntry(name, bool(tag & 0x10), DTYPES[tag & 15], _shape(fields))


def _check(header: Header, fields: Fields) -> None:
    """What one field says of another."""
    for index, tensor in enumerate(header.tensors):
        if tensor.kind == QUANTIZED and tensor.group >= len(header.groups):
            raise fields.corrupt(f"tensor '{tensor.name}' is of group {tensor.group}, there are {len(header.groups)}")
        if tensor.kind == ALIAS and (header.tensors[tensor.target].kind == ALIAS or tensor.target == index):
            raise fields.corrupt(f"tensor '{tensor.name}' is an alias of an alias")
    by_name = dict(zip(SECTIONS, header.sections, strict=True))
    tables, payloads = sum(s.table for s in header.streams), sum(s.payload for s in header.streams)
    if tables != by_name["coder_table"] or payloads != by_name["symbols"]:
        raise fields.corrupt("the streams do not add up to their sections")
    entry = header.positions_entry
    if (entry.table + entry.payload if entry else 0) != by_name["positions"]:
        raise fields.corrupt("the positions do not add up to their section")
