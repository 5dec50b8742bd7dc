"""Reads a ``.nqz`` file. Every value from the file is checked before it is used."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nqbench.api import BadInput, CorruptFile, Encoded, NotRegistered, Quantized, Structure
from nqbench.api.plain import plain
from nqbench.api.structure import NARROW
from nqbench.container.calls import Calls
from nqbench.container.fields import Fields
from nqbench.container.forms import check_form, one_symbol_a_weight, zero_of
from nqbench.container.header import (
    ALIAS,
    BUFFER,
    CODED,
    CONSTANT,
    PARAMETER,
    QUANTIZED,
    GroupEntry,
    Header,
    TensorEntry,
)
from nqbench.container.layout import GroupLayout, layout_of, split, streams_of, unmerge
from nqbench.container.memory import allocating, default_limit
from nqbench.container.raw import ENDS, is_codes, read_back
from nqbench.container.sections import Sections, read_sections
from nqbench.container.structures import array_spec, from_symbols, placed, structure_of
from nqbench.registry import Registry


@dataclass(frozen=True, eq=False)
class Decoded:
    """tensors: the whole state, by name, in its order, on the CPU. decode_seconds: the coder's time alone."""

    tensors: dict[str, Tensor]
    header: Header
    decode_seconds: float


def read(path: str | os.PathLike[str], registry: Registry, *, limit: int | None = None) -> Decoded:
    """Decode a file that stands for at most ``limit`` bytes of tensors (None: what this machine can hold). Raises
    CorruptFile (which section, which byte, what is wrong), NotRegistered (a plugin that the file needs is not
    installed, and which distribution it is of), BadInput (no such file, or too little memory for what it stands
    for)."""
    try:
        return decode(read_sections(path), registry, limit=limit)
    except CorruptFile as error:
        raise error.at(path=str(path)) from None
    except NotRegistered as error:
        raise NotRegistered(f"{path}: {error}") from None
    except MemoryError:
        raise BadInput(f"{path}: there is not enough memory to decode it: use a machine with more") from None


def decode(sections: Sections, registry: Registry, *, limit: int | None = None) -> Decoded:
    """Decode what ``read_sections`` gave. Raises what ``read`` does, and MemoryError.

    Takes at most ten times the memory of what the file stands for, beside the file itself, compiled code, and what its
    coder takes for the alphabet (measured: 5 for a look-up, 6 for a dither with gaps, 8 with merged zeros).
    """
    header = sections.header
    size, limit = header.decoded_bytes(), default_limit() if limit is None else limit
    if size > limit:
        raise CorruptFile(
            f"decodes to {size} bytes of tensors, more than the limit of {limit}: raise the limit to decode it",
            section="header",
        )
    calls = Calls(header, registry)
    with allocating():
        tensors = _quantized(sections, calls) if header.groups else {}
        tensors.update(_coded(sections, calls))
        tensors.update(_raw(sections))
    state = {}
    for entry in header.tensors:
        source = header.tensors[entry.target].name if entry.kind == ALIAS else entry.name
        state[entry.name] = tensors[source]
    return Decoded(state, header, calls.seconds)


# -- quantized tensors ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Group:
    """One group before its symbols are known."""

    entry: GroupEntry
    members: list[TensorEntry]
    shell: Quantized
    layout: GroupLayout
    masks: list[np.ndarray | None]


def _quantized(sections: Sections, calls: Calls) -> dict[str, Tensor]:
    """Positions, then codebooks, then symbols, then values."""
    header = sections.header
    members: list[list[TensorEntry]] = [[] for _ in header.groups]
    for entry in header.tensors:
        if entry.kind == QUANTIZED:
            members[entry.group].append(entry)
    masks = _masks(sections, calls, [e for group in members for e in group if e.masked])
    fields = Fields(sections.data["codebook"], "codebook")
    scales = Scales(Fields(sections.data["scales"], "scales"), calls)
    groups = [_group(fields, scales, entry, of, masks) for entry, of in zip(header.groups, members, strict=True)]
    for section in (fields, scales.fields):
        if section.left:
            raise section.corrupt(f"{section.left} bytes too many")
    tensors = {}
    for group, symbols in zip(groups, _symbols(sections, calls, groups), strict=True):
        tensors.update(_values(group, symbols, calls))
    return tensors


def _masks(sections: Sections, calls: Calls, masked: list[TensorEntry]) -> dict[str, np.ndarray] | None:
    """Each pruned tensor's mask; None where pruned weights are merged into the symbols."""
    if not masked:
        return {}
    entry = sections.header.positions_entry
    if calls.positions.merges != (entry is None):
        has = "no" if entry is None else "a"
        raise CorruptFile(f"positions '{calls.positions.name}' with {has} stream of their own", section="header")
    if entry is None:
        return None
    found = calls.masks(sections.data["positions"], entry, [e.shape for e in masked])
    return {e.name: mask for e, mask in zip(masked, found, strict=True)}


def _group(
    fields: Fields,
    scales: Scales,
    entry: GroupEntry,
    members: list[TensorEntry],
    masks: Mapping[str, np.ndarray] | None,
) -> _Group:
    start = fields.at
    shell = _shell(fields, scales, entry, members)
    merges = masks is None and any(e.masked for e in members)
    try:
        check_form(shell, len(members))
        if merges and not one_symbol_a_weight(shell):
            raise BadInput("pruned weights merged into the symbols of vectors")
        if merges and (entry.inserted is None) != (zero_of(shell) is not None):
            raise BadInput("pruned weights need exactly one symbol of their own")
    except BadInput as error:
        raise CorruptFile(f"not of the form '{entry.form}': {error}", section="codebook", offset=start) from None
    found = [None if masks is None else masks.get(e.name) for e in members]
    names, shapes = [e.name for e in members], [e.shape for e in members]
    layout = layout_of(shell, names, shapes, found, entry.inserted, dense=masks is None)
    return _Group(entry, members, shell, layout, found)


def _symbols(sections: Sections, calls: Calls, groups: list[_Group]) -> list[np.ndarray]:
    """Each group's symbols."""
    layouts = [group.layout for group in groups]
    try:
        streams = streams_of(layouts, sections.header.stream_mode)
    except BadInput as error:
        raise CorruptFile(str(error), section="header") from None
    coder = calls.coder
    decoded, table, payload = [], 0, 0
    for stream, size in zip(streams, sections.header.streams, strict=True):
        encoded = Encoded(
            sections.data["coder_table"][table : table + size.table],
            sections.data["symbols"][payload : payload + size.payload],
        )
        decoded.append(calls.symbols(coder, encoded, stream.spec, "symbols", (table, payload)))
        table, payload = table + size.table, payload + size.payload
    return split(decoded, streams, layouts)


def _values(group: _Group, symbols: np.ndarray, calls: Calls) -> dict[str, Tensor]:
    masks = group.masks
    if group.entry.inserted is not None:
        pruned = [e.masked for e in group.members]
        symbols, masks = unmerge(symbols, group.layout.parts, pruned, group.entry.inserted)
    sizes = tuple(
        e.numel if mask is None else int(np.count_nonzero(mask)) for e, mask in zip(group.members, masks, strict=True)
    )
    shell = placed(group.shell, [e.shape for e in group.members], masks)
    quantized = replace(shell, symbols=torch.from_numpy(symbols), sizes=sizes)
    tensors = {}
    kept = torch.split(calls.values(quantized), list(sizes))
    for e, mask, values in zip(group.members, masks, kept, strict=True):
        if mask is not None:
            values = torch.zeros(e.shape).masked_scatter_(torch.from_numpy(mask), values)
        tensors[e.name] = values.reshape(e.shape).to(e.dtype)
    return tensors


# -- the rest ------------------------------------------------------------------------------------------------------
def _coded(sections: Sections, calls: Calls) -> dict[str, Tensor]:
    entries = {e.name: e for e in sections.header.tensors if e.kind == CODED}
    if not entries:
        return {}
    shapes, dtypes = {n: e.shape for n, e in entries.items()}, {n: e.dtype for n, e in entries.items()}
    return calls.coded(sections.data["symbols"], shapes, dtypes)


def _raw(sections: Sections) -> dict[str, Tensor]:
    tensors = {}
    for base, section in ((PARAMETER, "raw_parameters"), (BUFFER, "raw_buffers")):
        fields = Fields(sections.data[section], section)
        for e in sections.header.tensors:
            if e.kind == base:
                if is_codes(e.stored, e.dtype):
                    tensors[e.name] = read_back(fields.take(ENDS + e.numel), e.stored, e.dtype, e.shape)
                else:
                    tensors[e.name] = _array(fields, e.stored, e.shape).to(e.dtype)
            elif e.kind == base | CONSTANT:
                tensors[e.name] = plain(_array(fields, e.stored, ()).to(e.dtype).expand(e.shape))
    return tensors


def _shell(fields: Fields, scales: Scales, entry: GroupEntry, members: list[TensorEntry]) -> Quantized:
    """A group without its symbols: its parameters and side information."""
    parameters: dict[str, Tensor] = {}
    side: dict[str, Tensor | int | float] = {}
    shapes = [e.shape for e in members]
    stored = {a.name: a.dtype for a in entry.arrays if a.parameter and a.dtype in NARROW}
    structure = None if entry.structure is None else structure_of(entry.structure, shapes, stored)
    declared = () if structure is None else structure.array_names()
    for array in entry.arrays:
        if array.dtype is None:
            side[array.name] = fields.signed() if array.integer else fields.float64()
            continue
        if structure is not None and array.name in declared:
            value = scales.read(structure, array.name, array.dtype, [e.name for e in members])
        else:
            value = _array(fields, array.dtype, array.shape)
        if array.parameter:
            parameters[array.name] = value if structure is None else value.to(torch.float32)
        else:
            side[array.name] = value
    empty = torch.empty(0, dtype=torch.int32)
    return Quantized(empty, entry.alphabet, (), parameters, side, entry.form, structure=structure)  # type: ignore[arg-type]


class Scales:
    """The section of the arrays that structures declare: each plain, or coded by the file's coder."""

    def __init__(self, fields: Fields, calls: Calls) -> None:
        self.fields = fields
        self.calls = calls

    def read(self, structure: Structure, name: str, dtype: torch.dtype, names: list[str]) -> Tensor:
        """(E,) of this dtype."""
        fields = self.fields
        spec = array_spec(structure, name, names)
        if not fields.uint(1, "an array's way"):
            return _array(fields, dtype, (spec.count,))
        streams = []
        codes = structure.arrays[name].codes if name in structure.arrays else 0
        for _ in range(1 if codes else dtype.itemsize):
            table, payload = fields.uint(), fields.uint()
            at = fields.at
            encoded = Encoded(fields.take(table), fields.take(payload))
            streams.append(self.calls.symbols(self.calls.coder, encoded, spec, "scales", (at, at + table)))
        return from_symbols(streams, dtype)


def _array(fields: Fields, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    data = fields.take(math.prod(shape) * dtype.itemsize)
    if not data:
        return torch.empty(shape, dtype=dtype)
    if dtype == torch.bool and max(data) > 1:
        raise fields.corrupt("a bool is neither 0 nor 1")
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)
