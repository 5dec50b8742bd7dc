"""How groups of symbols become coded streams, and back: the order, the merging of pruned weights, who shares a table.

The same functions serve the writer and the reader, from what both know: shapes, masks, codebooks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from nqbench.api import BadInput, CorruptFile, Quantized, StreamSpec, StreamTensor
from nqbench.api.granularity import rows_of
from nqbench.container.forms import is_ordered, one_symbol_a_weight, zero_of
from nqbench.container.structures import placed

MODES = {"auto": "per-group", "joint": "joint", "per-tensor": "per-tensor"}
"""A trial's ``streams`` -> the file's stream mode."""


@dataclass(frozen=True, eq=False)
class Part:
    """One tensor of a group: its symbols stand for ``count`` weights. mask: None where every place has one.

    symbols: their number, where they are the tensor's own; None where vectors may cross to the next tensor. as_read:
    the shape in which a coder sees them, if that is not the tensor's.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    mask: np.ndarray | None = None
    symbols: int | None = None
    as_read: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class GroupLayout:
    """What one group's symbols look like in a stream, after merging."""

    parts: tuple[Part, ...]
    alphabet: int
    dimension: int
    ordered: bool
    zero: int | None

    @property
    def crossing(self) -> bool:
        """Whether a vector may hold weights of two tensors."""
        return self.dimension != 1 and len(self.parts) > 1 and self.parts[0].symbols is None

    @cached_property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """(first symbol, last symbol + 1) of each part; crossing ones share the symbol at their border."""
        found, at = [], 0
        for part in self.parts:
            if part.symbols is not None:
                found.append((at, at + part.symbols))
                at += part.symbols
            else:
                found.append((at // self.dimension, math.ceil((at + part.count) / self.dimension)))
                at += part.count
        return tuple(found)

    @property
    def count(self) -> int:
        """Number of symbols."""
        return self.bounds[-1][1] if self.parts else 0


def layout_of(
    quantized: Quantized,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    masks: Sequence[np.ndarray | None],
    inserted: int | None,
    *,
    dense: bool,
) -> GroupLayout:
    """A group's layout. ``quantized`` needs no symbols yet. dense: pruned weights have symbols too (merged)."""
    parts = []
    for name, shape, mask in zip(names, shapes, masks, strict=True):
        whole = mask is None or dense
        count = math.prod(shape) if whole or mask is None else int(np.count_nonzero(mask))
        parts.append(Part(name, tuple(shape), count, None if whole else mask))
    if quantized.structure is not None:
        parts = _own(quantized, parts)
    extra = inserted is not None
    return GroupLayout(
        tuple(parts),
        quantized.alphabet + extra,
        quantized.dimension,
        is_ordered(quantized),
        inserted if extra else zero_of(quantized),
    )


def _own(quantized: Quantized, parts: Sequence[Part]) -> list[Part]:
    """The parts with the symbols that a structure gives each; a coder sees those of vectors as a matrix, row by row."""
    structure = placed(quantized, [p.shape for p in parts], [p.mask for p in parts]).structure
    assert structure is not None
    books = quantized.books
    if structure.dimension == 1 and books == 1:
        return [replace(part, symbols=part.count) for part in parts]
    found = []
    for part, symbols in zip(parts, structure.symbols(books), strict=True):
        rows = rows_of(part.shape)[0]
        matrix = part.mask is None and symbols > 0
        found.append(replace(part, symbols=symbols, as_read=(rows, symbols // rows) if matrix else (symbols,)))
    return found


def merge(quantized: Quantized, masks: Sequence[np.ndarray | None], inserted: int | None) -> np.ndarray:
    """(numel,) int32: a symbol for every place of the group's tensors, pruned ones the zero symbol.

    Raises BadInput for vectors (d > 1), whose symbols stand for several weights at once.
    """
    if not one_symbol_a_weight(quantized):
        raise BadInput("positions 'merged into the symbols' need one symbol per weight; this quantizer's are vectors")
    symbols = quantized.symbols.cpu().numpy()
    zero = zero_of(quantized)
    if inserted is not None:
        symbols, zero = symbols + (symbols >= inserted), inserted
    out, start = [], 0
    for mask, size in zip(masks, quantized.sizes, strict=True):
        kept = symbols[start : start + size]
        start += size
        if mask is not None:
            whole = np.full(mask.size, zero, dtype=np.int32)
            whole[mask.reshape(-1)] = kept
            kept = whole
        out.append(kept.astype(np.int32, copy=False))
    return np.concatenate(out)


def unmerge(
    symbols: np.ndarray, parts: Sequence[Part], masked: Sequence[bool], inserted: int
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Kept symbols, and each pruned tensor's mask, from merged symbols with an inserted one. Raises CorruptFile where a
    tensor that was not pruned has it."""
    kept = symbols != inserted
    masks: list[np.ndarray | None] = []
    start = 0
    for part, pruned in zip(parts, masked, strict=True):
        piece = kept[start : start + part.count]
        start += part.count
        if not pruned and not piece.all():
            raise CorruptFile(f"tensor '{part.name}' was not pruned and has pruned weights", section="symbols")
        masks.append(piece.reshape(part.shape) if pruned else None)
    symbols = symbols[kept]
    return (symbols - (symbols > inserted)).astype(np.int32), masks


@dataclass(frozen=True, eq=False)
class StreamLayout:
    """One stream: what its decoder is told, and which symbols of which groups it holds, in order."""

    spec: StreamSpec
    pieces: tuple[tuple[int, int, int], ...]
    """(group, first symbol, last symbol + 1)"""


def streams_of(groups: Sequence[GroupLayout], mode: str) -> list[StreamLayout]:
    """The streams of a file. Raises BadInput where one table a tensor is asked for and vectors cross tensors."""
    if mode == "joint":
        return [_stream(groups, [(i, 0, g.count, slice(None)) for i, g in enumerate(groups)])] if groups else []
    if mode == "per-group":
        return [_stream(groups, [(i, 0, g.count, slice(None))]) for i, g in enumerate(groups)]
    streams = []
    for i, group in enumerate(groups):
        if group.crossing:
            raise BadInput("streams 'per-tensor' need one symbol per weight, or granularity 'layer'")
        for j, (start, stop) in enumerate(group.bounds):
            streams.append(_stream(groups, [(i, start, stop, slice(j, j + 1))]))
    return streams


def _stream(groups: Sequence[GroupLayout], pieces: Sequence[tuple[int, int, int, slice]]) -> StreamLayout:
    """pieces: (group, first symbol, last symbol + 1, which of its parts they are of)."""
    tensors, at = [], 0
    for index, first, last, parts in pieces:
        group = groups[index]
        for part, (start, stop) in zip(group.parts[parts], group.bounds[parts], strict=True):
            begin, end = at + start - first, at + stop - first
            if part.as_read is None:
                tensors.append(StreamTensor(part.name, part.shape, begin, end, group.zero, part.mask))
            else:
                tensors.append(StreamTensor(part.name, part.as_read, begin, end))
        at += last - first
    used = [groups[index] for index, *_ in pieces]
    spec = StreamSpec(
        count=at,
        alphabet=max(g.alphabet for g in used),
        ordered=all(g.ordered for g in used),
        dimension=max(g.dimension if g.parts[0].symbols is None else 1 for g in used),
        tensors=tuple(tensors),
    )
    return StreamLayout(spec, tuple((index, first, last) for index, first, last, _ in pieces))


def positions_spec(count: int, alphabet: int, shapes: Sequence[tuple[int, ...]]) -> StreamSpec:
    """What a coder is told of a stream of positions: the pruned tensors in order, so that it may model their places.
    Which symbols are whose only the positions know, so the parts are empty: start = stop = 0."""
    return StreamSpec(count, alphabet, tensors=tuple(StreamTensor("", tuple(shape), 0, 0) for shape in shapes))


def split(
    decoded: Sequence[np.ndarray], layouts: Sequence[StreamLayout], groups: Sequence[GroupLayout]
) -> list[np.ndarray]:
    """Each group's symbols from the decoded streams; a symbol outside its group's alphabet is a CorruptFile."""
    out = [np.empty(group.count, dtype=np.int32) for group in groups]
    for symbols, layout in zip(decoded, layouts, strict=True):
        at = 0
        for index, first, last in layout.pieces:
            piece = symbols[at : at + last - first]
            if piece.size and int(piece.max()) >= groups[index].alphabet:
                raise CorruptFile(f"a symbol lies outside the alphabet of group {index}", section="symbols")
            out[index][first:last] = piece
            at += last - first
    return out


def entropy_bits(counts: np.ndarray) -> float:
    """Zeroth-order entropy of a whole stream in bits: sum_s n_s log2(n / n_s)."""
    used = counts[counts > 0].astype(np.float64)
    return float((used * np.log2(used.sum() / used)).sum()) if used.size else 0.0


def cpu(quantized: Quantized) -> Quantized:
    """The same on the CPU."""

    def move(value: torch.Tensor | int | float) -> torch.Tensor | int | float:
        return value.detach().cpu() if isinstance(value, torch.Tensor) else value

    return replace(
        quantized,
        symbols=quantized.symbols.cpu(),
        parameters={k: v.detach().cpu() for k, v in quantized.parameters.items()},
        side={k: move(v) for k, v in quantized.side.items()},
        held={k: v.cpu() for k, v in quantized.held.items()},
        structure=None if quantized.structure is None else quantized.structure.to("cpu"),
    )
