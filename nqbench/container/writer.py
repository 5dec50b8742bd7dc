"""Writes a ``.nqz`` file and says what each part of it costs."""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nqbench.api import (
    BadInput,
    Codec,
    Coder,
    CorruptFile,
    Encoded,
    Group,
    Plugin,
    Positions,
    Quantized,
    Quantizer,
    Stream,
    StreamSpec,
)
from nqbench.container.fields import put_int, put_signed
from nqbench.container.forms import check_form, place_for_zero
from nqbench.container.header import (
    ALIAS,
    BUFFER,
    CODED,
    CONSTANT,
    DTYPES,
    PARAMETER,
    QUANTIZED,
    SECTIONS,
    ArrayEntry,
    GroupEntry,
    Header,
    PluginRef,
    PositionsEntry,
    StreamEntry,
    TensorEntry,
)
from nqbench.container.layout import (
    MODES,
    cpu,
    entropy_bits,
    layout_of,
    merge,
    positions_spec,
    streams_of,
)
from nqbench.container.packing import crc, pack
from nqbench.container.raw import buffers_of, tensor_bytes, written
from nqbench.container.structures import array_spec, as_symbols, code_dtype, entry_of, placed
from nqbench.container.unpacking import unpack
from nqbench.registry import Registry
from nqbench.version import __version__


@dataclass(frozen=True, eq=False)
class Contents:
    """What goes into a file.

    order: every tensor of the state, in its order. groups: the quantized ones. masks: of pruned ones. shapes, dtypes:
    of quantized (or coded) ones, as deployed. raw: the others, as they are before ``unquantized`` rounds them.
    parameters: which raw ones are trainable parameters (the rest are buffers). aliases: name -> the name whose tensor
    it shares. unquantized: how raw floats are stored (``nqbench.container.raw``). codec_data: a codec's bytes, for the
    tensors of ``coded``, in place of groups.
    """

    order: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    raw: Mapping[str, Tensor]
    parameters: frozenset[str]
    groups: tuple[Group, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    quantizer: Quantizer | None = None
    coder: Coder | None = None
    positions: Positions | None = None
    codec: Codec | None = None
    codec_data: bytes = b""
    coded: tuple[str, ...] = ()
    streams: str = "auto"
    unquantized: str = "float32"


@dataclass(frozen=True)
class Written:
    """parts: bytes by section, and ``header`` (with framing and checksums); they sum to file_bytes.

    buffers: of the part ``raw_buffers``, the bytes of each tensor; symbols: their number; entropy_bits: the
    zeroth-order entropy of the streams, in bits, all together; encode_seconds: the coder's time alone.
    """

    file_bytes: int
    parts: dict[str, int]
    buffers: dict[str, int]
    symbols: int
    entropy_bits: float
    encode_seconds: float


@dataclass
class _File:
    """Sections under construction."""

    sections: dict[str, bytearray] = field(default_factory=lambda: {name: bytearray() for name in SECTIONS})
    symbols: int = 0
    entropy: float = 0.0
    seconds: float = 0.0

    def encode(self, coder: Coder, stream: Stream) -> Encoded:
        start = time.perf_counter()
        encoded = coder.encode(stream)
        self.seconds += time.perf_counter() - start
        return encoded


def write(path: str | os.PathLike[str], contents: Contents, registry: Registry, *, read_back: bool = True) -> Written:
    """Write the file in one go (a temporary name, then a rename). Raises BadInput, or what a plugin's encoder does.

    read_back: as for ``encode``.
    """
    data, written = encode(contents, registry, read_back=read_back)
    _replace(Path(path), data)
    return written


def encode(contents: Contents, registry: Registry, *, read_back: bool = True) -> tuple[bytes, Written]:
    """The file's bytes. Raises BadInput where the reader would refuse them.

    read_back: read the header again to be sure of that; for callers that do not decode the file at once.
    """
    file = _File()
    masked = [name for group in contents.groups for name in group.names if name in contents.masks]
    positions = contents.positions if masked else None
    if masked and positions is None:
        raise BadInput("pruned tensors need a way to write their positions")
    place = {name: index for index, name in enumerate(contents.order)}
    if any(place[a] >= place[b] for group in contents.groups for a, b in pairwise(group.names)):
        raise BadInput("a group's tensors are not in the order of the state")
    merged = positions is not None and positions.merges
    groups, streams, mode = _symbols(file, contents, dense=merged)
    positions_coder, entry = _positions(file, contents, masked, positions, registry)
    file.sections["symbols"] += contents.codec_data

    def ref(plugin: Plugin | None, *, needed: bool = True) -> PluginRef:
        """needed: to read the file, so that no parameter may depend on what the defaults are then."""
        if plugin is None:
            return PluginRef()
        parameters = plugin.canonical_json() if needed else plugin.short_json()
        return PluginRef(plugin.name, parameters, *registry.distribution_of(plugin))

    if contents.codec is not None:
        streams, mode = [StreamEntry(0, len(contents.codec_data))], "joint"
    header = Header(
        producer=f"nqbench {__version__}",
        quantizer=ref(contents.quantizer if groups else None, needed=any(g.form == "plugin" for g in groups)),
        coder=ref(contents.coder if groups else None),
        codec=ref(contents.codec),
        positions=ref(positions),
        positions_coder=ref(positions_coder),
        tensors=_tensors(file, contents),
        groups=tuple(groups),
        stream_mode=mode,
        streams=tuple(streams),
        positions_entry=entry,
        sections=tuple(len(file.sections[name]) for name in SECTIONS),
    )
    out = bytearray(_readable(header) if read_back else pack(header))
    for name in SECTIONS:
        section = file.sections[name]
        if section:
            out += section + crc(section)
    parts = {name: len(section) for name, section in file.sections.items()}
    parts = {"header": len(out) - sum(parts.values()), **parts}
    return bytes(out), Written(len(out), parts, buffers_of(header), file.symbols, file.entropy, file.seconds)


def _readable(header: Header) -> bytes:
    """The header's bytes, which the reader takes for this header."""
    packed = pack(header)
    try:
        same = unpack(packed)[0] == header
    except CorruptFile as error:
        raise BadInput(f"this cannot be written: {error.reason}") from None
    if not same:
        raise BadInput("this cannot be written: its header would be read back as another one")
    return packed


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# -- quantized tensors ---------------------------------------------------------------------------------------------
def _symbols(file: _File, contents: Contents, *, dense: bool) -> tuple[list[GroupEntry], list[StreamEntry], str]:
    entries, layouts, symbols = [], [], []
    for group in contents.groups:
        masks = [_mask(contents, name) for name in group.names]
        shapes = [tuple(contents.shapes[name]) for name in group.names]
        quantized = placed(cpu(group.quantized), shapes, masks)
        check_form(quantized, len(group.names))
        merges = dense and any(mask is not None for mask in masks)
        inserted = place_for_zero(quantized) if merges else None
        arrays = _arrays(file, quantized, group.names, contents.coder)
        structure = None if quantized.structure is None else entry_of(quantized.structure)
        entries.append(GroupEntry(quantized.form, quantized.alphabet, arrays, inserted, structure))
        layouts.append(layout_of(quantized, group.names, shapes, masks, inserted, dense=dense))
        kept = tuple(math.prod(s) if m is None else int(m.sum()) for s, m in zip(shapes, masks, strict=True))
        if tuple(quantized.sizes) != kept:
            raise BadInput(f"a group of {kept} kept weights has symbols for {tuple(quantized.sizes)}")
        symbols.append(merge(quantized, masks, inserted) if merges else quantized.symbols.numpy())
    mode = MODES[contents.streams]
    streams = []
    for layout in streams_of(layouts, mode):
        assert contents.coder is not None
        pieces = [symbols[index][first:last] for index, first, last in layout.pieces]
        stream = Stream(pieces[0] if len(pieces) == 1 else np.concatenate(pieces), layout.spec)
        encoded = file.encode(contents.coder, stream)
        file.sections["coder_table"] += encoded.table
        file.sections["symbols"] += encoded.payload
        file.symbols += layout.spec.count
        file.entropy += entropy_bits(stream.counts)
        streams.append(StreamEntry(len(encoded.table), len(encoded.payload)))
    return entries, streams, mode


def _mask(contents: Contents, name: str) -> np.ndarray | None:
    mask = contents.masks.get(name)
    return None if mask is None else mask.cpu().numpy().astype(bool)


def _arrays(file: _File, quantized: Quantized, names: Sequence[str], coder: Coder | None) -> tuple[ArrayEntry, ...]:
    """Parameters, then side: their values go to the section ``codebook``, those that a structure declares to
    ``scales``."""
    entries, section = [], file.sections["codebook"]
    structure = quantized.structure
    scales = structure.array_names() if structure is not None else ()

    def scale(name: str, value: Tensor) -> None:
        assert structure is not None
        codes = structure.arrays[name].codes if name in structure.arrays else 0
        value = value.reshape(-1).to(code_dtype(codes) if codes else structure.stored.get(name, value.dtype))
        entries.append(ArrayEntry(name, name in quantized.parameters, value.dtype, tuple(value.shape)))
        spec = array_spec(structure, name, names)
        file.sections["scales"] += _scale(file, value, codes, spec, coder)

    for name, tensor in quantized.parameters.items():
        if name in scales:
            scale(name, tensor)
            continue
        _storable(name, tensor)
        stored = tensor if structure is None else tensor.to(structure.stored.get(name, tensor.dtype))
        entries.append(ArrayEntry(name, True, stored.dtype, tuple(stored.shape)))
        section += tensor_bytes(stored)
    for name, value in quantized.side.items():
        if name in scales and isinstance(value, Tensor):
            scale(name, value)
        elif isinstance(value, Tensor):
            _storable(name, value)
            entries.append(ArrayEntry(name, False, value.dtype, tuple(value.shape)))
            section += tensor_bytes(value)
        elif isinstance(value, Integral):
            if not -(1 << 63) <= value < 1 << 63:
                raise BadInput(f"'{name}' is {value}, which 64 bits do not hold")
            entries.append(ArrayEntry(name, False, integer=True))
            put_signed(section, int(value))
        else:
            entries.append(ArrayEntry(name, False))
            section += struct.pack("<d", value)
    return tuple(entries)


def _storable(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in DTYPES:
        raise BadInput(f"tensor '{name}' has the dtype {tensor.dtype}, which the container cannot store")


def _scale(file: _File, value: Tensor, codes: int, spec: StreamSpec, coder: Coder | None) -> bytes:
    """An array's bytes: a 1 and its coded streams, or a 0 and the array, whichever is shorter."""
    plain = b"\0" + tensor_bytes(value)
    if coder is None or not value.numel():
        return plain
    coded = bytearray(b"\1")
    for symbols in as_symbols(value, codes):
        encoded = file.encode(coder, Stream(symbols, spec))
        for piece in (encoded.table, encoded.payload):
            put_int(coded, len(piece))
        coded += encoded.table + encoded.payload
    return bytes(coded) if len(coded) < len(plain) else plain


def _positions(
    file: _File, contents: Contents, masked: list[str], positions: Positions | None, registry: Registry
) -> tuple[Coder | None, PositionsEntry | None]:
    if positions is None or positions.merges:
        return None, None
    own = positions.coder
    coder = registry.make("coder", own) if own is not None else contents.coder
    assert isinstance(coder, Coder)
    masks = [contents.masks[name].cpu().numpy().astype(bool) for name in masked]
    stream = positions.to_stream(masks)
    spec = positions_spec(stream.spec.count, stream.spec.alphabet, [mask.shape for mask in masks])
    stream = Stream(stream.symbols, spec)
    encoded = file.encode(coder, stream)
    file.sections["positions"] += encoded.table + encoded.payload
    entry = PositionsEntry(stream.spec.count, stream.spec.alphabet, len(encoded.table), len(encoded.payload))
    return (coder if own is not None else None), entry


# -- every tensor's entry, and the raw ones' bytes -----------------------------------------------------------------
def _tensors(file: _File, contents: Contents) -> tuple[TensorEntry, ...]:
    place = {name: index for index, name in enumerate(contents.order)}
    group_of = {name: index for index, group in enumerate(contents.groups) for name in group.names}
    entries, coded = [], set(contents.coded)
    for name in contents.order:
        if name in contents.aliases:
            entries.append(TensorEntry(name, ALIAS, target=place[contents.aliases[name]]))
        elif name in group_of:
            shape, dtype = tuple(contents.shapes[name]), contents.dtypes[name]
            masked = name in contents.masks
            entries.append(TensorEntry(name, QUANTIZED, shape, dtype, group=group_of[name], masked=masked))
        elif name in coded:
            entries.append(TensorEntry(name, CODED, tuple(contents.shapes[name]), contents.dtypes[name]))
        else:
            entries.append(_raw(file, contents, name))
    return tuple(entries)


def _raw(file: _File, contents: Contents, name: str) -> TensorEntry:
    tensor = contents.raw[name].detach().cpu()
    _storable(name, tensor)
    kind = PARAMETER if name in contents.parameters else BUFFER
    stored, data = written(tensor, contents.unquantized, parameter=kind == PARAMETER)
    item = stored.itemsize
    # codes of a range are never of one value alone
    if tensor.numel() > 1 and data == data[:item] * tensor.numel():
        kind, data = kind | CONSTANT, data[:item]
    file.sections["raw_parameters" if kind & ~CONSTANT == PARAMETER else "raw_buffers"] += data
    return TensorEntry(name, kind, tuple(tensor.shape), tensor.dtype, stored)
