"""A header's bytes. ``nqbench.container`` specifies every one; ``unpacking`` reads them."""

from __future__ import annotations

import zlib

from nqbench.api import Per
from nqbench.api.granularity import BYS
from nqbench.api.structure import ARRAYS
from nqbench.container.fields import put_int, put_text
from nqbench.container.header import (
    ALIAS,
    CODED,
    DICTIONARY,
    DTYPES,
    FORMS,
    MAGIC,
    QUANTIZED,
    SECTIONS,
    SINCE_2,
    STORED,
    STREAMS,
    GroupEntry,
    Header,
    TensorEntry,
)
from nqbench.container.structures import StructureEntry


def pack(header: Header) -> bytes:
    """Magic, version, lengths, the deflated header and its checksum: everything before the first section."""
    return frame(body(header), header.version)


def frame(plain: bytes, version: int) -> bytes:
    """Everything before the first section, around the header's plain bytes."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    packed = deflate.compress(plain) + deflate.flush()
    out = bytearray(MAGIC)
    out.append(version)
    put_int(out, len(plain))
    put_int(out, len(packed))
    out += packed
    return bytes(out) + crc(out)


def crc(data: bytes | bytearray) -> bytes:
    """CRC-32, 4 bytes."""
    return zlib.crc32(data).to_bytes(4, "little")


def body(header: Header) -> bytes:
    """The header's plain bytes."""
    out = bytearray()
    put_text(out, header.producer)
    for plugin in header.plugins:
        put_text(out, plugin.name)
        if plugin.name:
            for text in (plugin.json, plugin.distribution, plugin.version):
                put_text(out, text)
    _put_tensors(out, header.tensors)
    put_int(out, len(header.groups))
    for group in header.groups:
        _put_group(out, group)
        if header.version > 1:
            _put_structure(out, group.structure)
    out.append(STREAMS.index(header.stream_mode))
    put_int(out, len(header.streams))
    for stream in header.streams:
        put_int(out, stream.table)
        put_int(out, stream.payload)
    entry = header.positions_entry
    out.append(entry is not None)
    if entry is not None:
        for value in (entry.count, entry.alphabet, entry.table, entry.payload):
            put_int(out, value)
    for name, size in zip(SECTIONS, header.sections, strict=True):
        if header.version > 1 or name not in SINCE_2:
            put_int(out, size)
    return bytes(out)


def _put_tensors(out: bytearray, tensors: tuple[TensorEntry, ...]) -> None:
    # column by column: equal neighbours deflate to almost nothing
    put_int(out, len(tensors))
    before = b""
    for tensor in tensors:
        name = tensor.name.encode()
        shared = next((i for i, (a, b) in enumerate(zip(name, before, strict=False)) if a != b), -1)
        shared = min(len(name), len(before)) if shared < 0 else shared
        put_int(out, shared)
        put_int(out, len(name) - shared)
        out += name[shared:]
        before = name
    out += bytes(t.kind for t in tensors)
    for tensor in tensors:
        if tensor.kind == ALIAS:
            put_int(out, tensor.target)
            continue
        stored = 0 if tensor.kind in (QUANTIZED, CODED) else STORED.index(tensor.stored)
        out.append(DTYPES.index(tensor.dtype) << 4 | stored)
        put_int(out, len(tensor.shape))
        for size in tensor.shape:
            put_int(out, size)
        if tensor.kind == QUANTIZED:
            put_int(out, tensor.group << 1 | tensor.masked)


def _put_group(out: bytearray, group: GroupEntry) -> None:
    out.append(FORMS.index(group.form))
    put_int(out, group.alphabet)
    put_int(out, 0 if group.inserted is None else group.inserted + 1)
    put_int(out, len(group.arrays))
    for array in group.arrays:
        put_text(out, array.name)
        if array.dtype is None:
            out.append(0x20 if array.integer else 0x21)
            continue
        out.append(DTYPES.index(array.dtype) | (0x10 if array.parameter else 0))
        put_int(out, len(array.shape))
        for size in array.shape:
            put_int(out, size)


def _put_structure(out: bytearray, structure: StructureEntry | None) -> None:
    out.append(structure is not None)
    if structure is None:
        return
    put_int(out, structure.dimension)
    out.append(structure.summed)
    put_text(out, structure.table)
    put_int(out, structure.hadamard + (structure.tile << 16))
    if structure.hadamard or structure.tile:
        put_int(out, structure.seed)
    put_int(out, len(structure.arrays))
    for name, array in structure.arrays:
        out.append(ARRAYS.index(name))
        _put_per(out, array.per)
        put_int(out, array.codes)
        if array.codes:
            _put_per(out, array.unit)


def _put_per(out: bytearray, per: Per) -> None:
    out.append(BYS.index(per.by))
    if per.by in ("channel", "group"):
        put_int(out, per.size)
