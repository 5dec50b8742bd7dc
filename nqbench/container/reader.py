"""Reads a ``.nqz`` file from nothing but its bytes, believing none of them before it has checked."""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
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
    NotRegistered,
    Plugin,
    Positions,
    Quantized,
    Quantizer,
    StreamSpec,
)
from nqbench.container.fields import Fields
from nqbench.container.header import (
    ALIAS,
    BUFFER,
    CODED,
    CONSTANT,
    PARAMETER,
    QUANTIZED,
    SECTIONS,
    GroupEntry,
    Header,
    PluginRef,
    TensorEntry,
    unpack,
)
from nqbench.container.layout import GroupLayout, layout_of, split, streams_of, unmerge
from nqbench.registry import Registry

LIMIT = 16 << 30
"""Default limit of what a file may stand for, in bytes of decoded tensors."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """tensors: the whole state, by name, in its order, on the CPU. decode_seconds: the coder's time alone."""

    tensors: dict[str, Tensor]
    header: Header
    decode_seconds: float


@dataclass(frozen=True, eq=False)
class Sections:
    """A file whose checksums hold."""

    header: Header
    data: Mapping[str, bytes]
    file_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part, as a record lists them."""
        parts = {name: len(self.data[name]) for name in SECTIONS}
        return {"header": self.file_bytes - sum(parts.values()), **parts}


def read_sections(path: str | os.PathLike[str]) -> Sections:
    """Header and sections, checksums verified. Raises CorruptFile, or BadInput where there is no such file."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None
    try:
        return _sections(data)
    except CorruptFile as error:
        raise error.at(path=str(path)) from None


def _sections(data: bytes) -> Sections:
    header, at = unpack(data)
    sections = {}
    for name, size in zip(SECTIONS, header.sections, strict=True):
        if not size:
            sections[name] = b""
            continue
        left = len(data) - at
        if left < size + 4:
            raise CorruptFile(f"the file is truncated: {size + 4} bytes expected, {left} left", section=name, offset=0)
        sections[name] = data[at : at + size]
        stored = int.from_bytes(data[at + size : at + size + 4], "little")
        if zlib.crc32(sections[name]) != stored:
            raise CorruptFile("checksum mismatch: the section is damaged", section=name)
        at += size + 4
    if at != len(data):
        raise CorruptFile(f"{len(data) - at} bytes too many after the last section", section=SECTIONS[-1])
    return Sections(header, sections, len(data))


def read(path: str | os.PathLike[str], registry: Registry, *, limit: int = LIMIT) -> Decoded:
    """Decode a file. Raises CorruptFile (which section, which byte, what is wrong), NotRegistered (a plugin that the
    file needs is not installed, and which distribution it is of), BadInput (no such file)."""
    try:
        return _Reader(read_sections(path), registry, limit).decode()
    except CorruptFile as error:
        raise error.at(path=str(path)) from None
    except NotRegistered as error:
        raise NotRegistered(f"{path}: {error}") from None


class _Reader:
    """One file's decoding: positions, then codebooks, then symbols, then the tensors."""

    def __init__(self, sections: Sections, registry: Registry, limit: int) -> None:
        self.header = sections.header
        self.data = sections.data
        self.registry = registry
        self.seconds = 0.0
        size = self.header.decoded_bytes()
        if size > limit:
            raise CorruptFile(
                f"stands for {size} bytes of tensors, more than the limit of {limit}: raise the limit to decode it",
                section="header",
            )

    def decode(self) -> Decoded:
        header, tensors = self.header, {}
        by_group: list[list[TensorEntry]] = [[] for _ in header.groups]
        for entry in header.tensors:
            if entry.kind == QUANTIZED:
                by_group[entry.group].append(entry)
        if any(not members for members in by_group):
            raise CorruptFile("a group has no tensor", section="header")
        tensors.update(self._quantized(by_group))
        tensors.update(self._coded())
        tensors.update(self._raw())
        state = {}
        for entry in header.tensors:
            source = header.tensors[entry.target].name if entry.kind == ALIAS else entry.name
            state[entry.name] = tensors[source]
        return Decoded(state, header, self.seconds)

    # -- plugins -----------------------------------------------------------------------------------------------------
    def _plugin(self, kind: str, ref: PluginRef) -> Plugin:
        try:
            return self.registry.make(kind, ref.name, ref.json)
        except NotRegistered:
            raise NotRegistered(
                f"needs the {kind} '{ref.name}' of the distribution '{ref.distribution}' {ref.version}, "
                f"which is not installed here: pip install {ref.distribution}"
            ) from None
        except BadInput as error:
            raise CorruptFile(str(error), section="header") from None

    def _decode(self, coder: Coder, table: bytes, payload: bytes, spec: StreamSpec, section: str) -> np.ndarray:
        start = time.perf_counter()
        try:
            symbols = coder.decode(Encoded(table, payload), spec)
        except CorruptFile as error:
            raise error.at(section=section) from None
        except Exception as error:  # a stranger's decoder may fail in any way on damaged bytes
            raise CorruptFile(
                f"coder '{coder.name}' failed: {type(error).__name__}: {error}", section=section
            ) from error
        self.seconds += time.perf_counter() - start
        if symbols.shape != (spec.count,):
            raise CorruptFile(f"{symbols.size} symbols decoded, {spec.count} expected", section=section)
        if symbols.size and (int(symbols.min()) < 0 or int(symbols.max()) >= spec.alphabet):
            raise CorruptFile(f"a symbol lies outside [0, {spec.alphabet})", section=section)
        return np.asarray(symbols, dtype=np.int32)

    # -- quantized tensors -------------------------------------------------------------------------------------------
    def _quantized(self, by_group: list[list[TensorEntry]]) -> dict[str, Tensor]:
        header = self.header
        if not by_group:
            return {}
        coder = self._plugin("coder", header.coder)
        assert isinstance(coder, Coder)
        masked = [e for members in by_group for e in members if e.masked]
        dense, masks = self._masks(masked, coder)
        fields = Fields(self.data["codebook"], "codebook")
        shells = [_shell(fields, entry) for entry in header.groups]
        if fields.left:
            raise fields.corrupt(f"{fields.left} bytes too many")
        layouts = [
            self._layout(shell, entry, members, masks, dense=dense)
            for shell, entry, members in zip(shells, header.groups, by_group, strict=True)
        ]
        symbols = self._symbols(layouts, coder)
        tensors: dict[str, Tensor] = {}
        for index, members in enumerate(by_group):
            tensors.update(
                self._reconstruct(shells[index], header.groups[index], members, layouts[index], symbols[index], masks)
            )
        return tensors

    def _masks(self, masked: list[TensorEntry], coder: Coder) -> tuple[bool, dict[str, np.ndarray]]:
        """Whether pruned weights are merged into the symbols; else each pruned tensor's mask."""
        entry = self.header.positions_entry
        if not masked:
            if entry is not None:
                raise CorruptFile("positions of no tensor", section="header")
            return False, {}
        positions = self._plugin("positions", self.header.positions)
        assert isinstance(positions, Positions)
        if positions.merges:
            return True, {}
        if entry is None:
            raise CorruptFile(f"positions '{positions.name}' have no stream", section="header")
        shapes = [e.shape for e in masked]
        if entry.count > positions.max_count(shapes) or entry.alphabet < 1:
            raise CorruptFile(f"{entry.count} positions of {entry.alphabet} kinds are impossible", section="header")
        if self.header.positions_coder.name:
            own = self._plugin("coder", self.header.positions_coder)
            assert isinstance(own, Coder)
            coder = own
        data, spec = self.data["positions"], StreamSpec(entry.count, entry.alphabet)
        symbols = self._decode(coder, data[: entry.table], data[entry.table :], spec, "positions")
        try:
            found = positions.from_stream(symbols, shapes)
        except CorruptFile as error:
            raise error.at(section="positions") from None
        except Exception as error:  # as with a stranger's decoder
            raise CorruptFile(f"positions '{positions.name}' failed: {error}", section="positions") from error
        if [m.shape for m in found] != shapes:
            raise CorruptFile("the masks have other shapes than their tensors", section="positions")
        return False, {e.name: m for e, m in zip(masked, found, strict=True)}

    def _layout(
        self,
        shell: Quantized,
        entry: GroupEntry,
        members: list[TensorEntry],
        masks: Mapping[str, np.ndarray],
        *,
        dense: bool,
    ) -> GroupLayout:
        try:
            if dense and shell.dimension != 1:
                raise BadInput("positions merged into the symbols of vectors")
            table = shell.table if shell.form in ("lookup", "dithered") else None
            if table is not None and (table.shape[0] != shell.alphabet or not bool(torch.isfinite(table).all())):
                raise BadInput(f"a codebook of {table.shape[0]} entries for {shell.alphabet} symbols, or not finite")
            names, shapes = [e.name for e in members], [e.shape for e in members]
            group_masks = [masks.get(e.name) for e in members]
            return layout_of(shell, names, shapes, group_masks, entry.inserted, dense=dense)
        except (BadInput, KeyError, ValueError, IndexError) as error:
            raise CorruptFile(f"not a codebook of the form '{shell.form}': {error}", section="codebook") from None

    def _symbols(self, layouts: list[GroupLayout], coder: Coder) -> list[np.ndarray]:
        try:
            streams = streams_of(layouts, self.header.stream_mode)
        except BadInput as error:
            raise CorruptFile(str(error), section="header") from None
        if len(streams) != len(self.header.streams):
            raise CorruptFile(f"{len(self.header.streams)} streams, {len(streams)} expected", section="header")
        decoded, table, payload = [], 0, 0
        for stream, size in zip(streams, self.header.streams, strict=True):
            tables = self.data["coder_table"][table : table + size.table]
            payloads = self.data["symbols"][payload : payload + size.payload]
            decoded.append(self._decode(coder, tables, payloads, stream.spec, "symbols"))
            table, payload = table + size.table, payload + size.payload
        return split(decoded, streams, layouts)

    def _reconstruct(
        self,
        shell: Quantized,
        entry: GroupEntry,
        members: list[TensorEntry],
        layout: GroupLayout,
        symbols: np.ndarray,
        masks: Mapping[str, np.ndarray],
    ) -> dict[str, Tensor]:
        found = [masks.get(e.name) for e in members]
        if entry.inserted is not None:
            symbols, unmerged = unmerge(symbols, layout.parts, entry.inserted)
            found = list(unmerged)
        sizes = tuple(
            e.numel if mask is None else int(np.count_nonzero(mask)) for e, mask in zip(members, found, strict=True)
        )
        quantized = Quantized(
            torch.from_numpy(symbols), shell.alphabet, sizes, shell.parameters, shell.side, shell.form
        )
        flat = self._values(quantized)
        tensors = {}
        for e, mask, kept in zip(members, found, torch.split(flat, list(sizes)), strict=True):
            if mask is None:
                whole = kept.reshape(e.shape)
            else:
                whole = torch.zeros(e.shape).masked_scatter_(torch.from_numpy(mask), kept)
            tensors[e.name] = whole.to(e.dtype)
        return tensors

    def _values(self, quantized: Quantized) -> Tensor:
        """By the base form; only form ``plugin`` needs the quantizer that made it."""
        try:
            if quantized.form != "plugin":
                values = quantized.reconstruct()
            else:
                quantizer = self._plugin("quantizer", self.header.quantizer)
                assert isinstance(quantizer, Quantizer)
                values = quantizer.reconstruct(quantized)
        except (NotRegistered, CorruptFile):
            raise
        except Exception as error:  # what a damaged codebook does to a plugin's arithmetic is not known
            raise CorruptFile(
                f"cannot be reconstructed: {type(error).__name__}: {error}", section="codebook"
            ) from error
        if values.shape != (quantized.n,):
            raise CorruptFile(f"{tuple(values.shape)} values for {quantized.n} weights", section="codebook")
        return values.to(torch.float32) + 0.0  # -0 is deployed as +0

    # -- the rest --------------------------------------------------------------------------------------------------
    def _coded(self) -> dict[str, Tensor]:
        entries = [e for e in self.header.tensors if e.kind == CODED]
        if not entries:
            return {}
        codec = self._plugin("codec", self.header.codec)
        assert isinstance(codec, Codec)
        start = time.perf_counter()
        try:
            arrays = codec.decompress(self.data["symbols"])
        except Exception as error:  # a published codec's decoder may fail in any way on damaged bytes
            raise CorruptFile(f"codec '{codec.name}' failed: {error}", section="symbols") from error
        self.seconds += time.perf_counter() - start
        tensors = {}
        for e in entries:
            array = arrays.get(e.name)
            if array is None or tuple(array.shape) != e.shape:
                raise CorruptFile(f"codec '{codec.name}' gave no tensor '{e.name}' of {e.shape}", section="symbols")
            tensors[e.name] = torch.from_numpy(np.array(array, dtype=np.float32)).to(e.dtype)
        return tensors

    def _raw(self) -> dict[str, Tensor]:
        tensors = {}
        for base, section in ((PARAMETER, "raw_parameters"), (BUFFER, "raw_buffers")):
            fields = Fields(self.data[section], section)
            for e in self.header.tensors:
                if e.kind & ~CONSTANT != base or e.kind == ALIAS:
                    continue
                if e.kind & CONSTANT:
                    one = _array(fields, e.stored, ())
                    tensors[e.name] = one.expand(e.shape).clone().to(e.dtype)
                else:
                    tensors[e.name] = _array(fields, e.stored, e.shape).to(e.dtype)
            if fields.left:
                raise fields.corrupt(f"{fields.left} bytes too many")
        return tensors


def _shell(fields: Fields, entry: GroupEntry) -> Quantized:
    """A group without its symbols: its parameters and side information."""
    parameters: dict[str, Tensor] = {}
    side: dict[str, Tensor | int | float] = {}
    for array in entry.arrays:
        if array.dtype is None:
            side[array.name] = fields.signed() if array.integer else fields.float64()
        elif array.parameter:
            parameters[array.name] = _array(fields, array.dtype, array.shape)
        else:
            side[array.name] = _array(fields, array.dtype, array.shape)
    empty = torch.empty(0, dtype=torch.int32)
    return Quantized(empty, entry.alphabet, (), parameters, side, entry.form)  # type: ignore[arg-type]


def _array(fields: Fields, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    data = fields.take(math.prod(shape) * dtype.itemsize)
    if not data:
        return torch.empty(shape, dtype=dtype)
    if dtype == torch.bool and max(data) > 1:
        raise fields.corrupt("a bool is neither 0 nor 1")
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)
