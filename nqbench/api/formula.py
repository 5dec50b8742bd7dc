"""The values of a result that has a structure, by the formula of ``nqbench.api.structure``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.granularity import Per, rows_of
from nqbench.api.hadamard import rotate_back
from nqbench.api.philox import dither, unit_dither
from nqbench.api.structure import UNIT, Placed, Structure, as_stored, units_of_codes
from nqbench.api.tables import table_of

Operation = Callable[..., Tensor]
"""``torch.mul`` and the like: of two tensors, with ``out``."""


class Result(Protocol):
    """What the formula reads of a ``Quantized``."""

    @property
    def symbols(self) -> Tensor: ...

    @property
    def alphabet(self) -> int: ...

    @property
    def sizes(self) -> tuple[int, ...]: ...

    @property
    def side(self) -> Mapping[str, Tensor | int | float]: ...

    @property
    def form(self) -> str: ...

    def find(self, name: str) -> Tensor | int | float | None: ...


def values_of(q: Result, structure: Structure) -> Tensor:
    """(n,) float32, differentiable in the parameters. Raises BadInput where symbols and weights do not fit."""
    table = codebook_of(q, structure)
    books = table.shape[0] if table is not None else 1
    counts = structure.symbols(books)
    if q.symbols.numel() != sum(counts):
        raise BadInput(f"{q.symbols.numel()} symbols where these rows have {sum(counts)}")
    u: Tensor | None = None
    if table is None:
        flat = q.symbols.to(torch.float32) + float(q.side["offset"])
        if q.form == "dithered-grid":
            flat = flat - unit_dither(int(q.side["seed"]), q.sizes, flat.device)
    else:
        flat = _looked_up(q.symbols, table, structure, counts)
        if q.form == "dithered":
            u = dither(int(q.side["seed"]), float(q.side["dither_step"]), q.symbols.numel(), flat.device)
            u = u if structure.dimension == 1 else _repeated(u, structure, counts)
    flat = _with(q, structure, "zero", flat, torch.sub)
    flat = _with(q, structure, "step" if table is None else "scale", flat, torch.mul)
    flat = _with(q, structure, "shift", flat, torch.add)
    if u is not None:
        flat = flat - u
    if structure.hadamard:
        parts = torch.split(flat, list(q.sizes))
        back = [
            rotate_back(part, t.lengths(), structure.hadamard, structure.seed, structure.tile)
            for part, t in zip(parts, structure.tensors, strict=True)
        ]
        flat = _joined(back)
    return _with(q, structure, "equalize", flat, torch.mul)


def codebook_of(q: Result, structure: Structure) -> Tensor | None:
    """(m, k, d) float32 as stored, by its rule if it has one; None for the grids."""
    if q.form in ("grid", "dithered-grid"):
        return None
    d = structure.dimension
    if structure.table:
        table = torch.from_numpy(table_of(structure.table, q.alphabet, d).copy()).to(q.symbols.device)
        return table.reshape(1, q.alphabet, d)
    found = q.find("codebook")
    if not isinstance(found, Tensor):
        raise BadInput(f"form '{q.form}' needs a tensor 'codebook' in parameters or side, or a table by rule")
    shape = found.shape if found.dim() == 3 else (1, *found.shape) if found.dim() == 2 else (1, *found.shape, 1)
    return as_stored(found, structure.stored.get("codebook")).reshape(shape)


def _looked_up(symbols: Tensor, table: Tensor, structure: Structure, counts: tuple[int, ...]) -> Tensor:
    """(n,) float32: the table's values of all kept weights."""
    m, k, d = table.shape
    each = m if structure.summed else 1
    index = symbols
    if each == 1 and m > 1:
        index = symbols + k * (_within_row(structure, counts, symbols.device) % m)
    # in one dimension index_select is seven times as fast as in two
    rows = table.reshape(-1) if d == 1 else table.reshape(m * k, d)
    if d == 1:
        return _codewords(rows, index, each, k)
    widths = [_width(t, d) for t in structure.tensors]
    if min(widths, default=d) == d:
        vectors = torch.split(_codewords(rows, index, each, k), [count // each for count in counts])
    else:
        parts = zip(torch.split(index, list(counts)), widths, strict=True)
        vectors = tuple(_codewords(rows[:, :width], part, each, k) for part, width in parts)
    return _joined([_kept(part, t, d) for part, t in zip(vectors, structure.tensors, strict=True)])


def _codewords(rows: Tensor, index: Tensor, each: int, k: int) -> Tensor:
    """(v, ...): for each of v vectors the sum of ``each`` codewords. rows: (m k, ...); index: (v each,), within a
    codebook of k codewords if several are summed. One book after another, so that no more than a sum is in memory."""

    def chosen(index: Tensor) -> Tensor:
        # index_select is twice as fast, but its gradient on a GPU adds in any order
        return rows[index.long()] if rows.requires_grad else rows.index_select(0, index)

    if each == 1:
        return chosen(index)
    index = index.reshape(-1, each)
    total = chosen(index[:, 0])
    for book in range(1, each):
        total = total + chosen(index[:, book] + k * book)
    return total


def _within_row(structure: Structure, counts: tuple[int, ...], device: torch.device) -> Tensor:
    """(symbols,) int64: each symbol's number within its row."""
    found = []
    for t, count in zip(structure.tensors, counts, strict=True):
        each = (-(-t.lengths() // structure.dimension)).to(device)
        first = torch.cumsum(each, 0) - each
        found.append(torch.arange(count, device=device) - torch.repeat_interleave(first, each))
    return _joined(found)


def _width(tensor: Placed, d: int) -> int:
    """How many of a vector's d values a tensor can use: a vector may be many times as long as a row, and a few bytes of
    a file would stand for gigabytes."""
    return min(d, rows_of(tensor.shape)[1]) if tensor.numel else d


def _kept(vectors: Tensor, tensor: Placed, d: int) -> Tensor:
    """(n,): the values of a tensor's vectors, without those past the end of a row. vectors: (v, w), of d values each
    the first w, ``_width``."""
    slots = vectors.reshape(-1)
    if not tensor.numel:
        return slots
    (rows, length), width = rows_of(tensor.shape), vectors.shape[1]
    if tensor.mask is None:
        each = -(-length // d) * width
        return slots if each == length else slots.reshape(rows, each)[:, :length].reshape(-1)
    lengths = tensor.lengths().to(slots.device)
    each_row = -(-lengths // d) * width
    first = torch.cumsum(each_row, 0) - each_row
    row = torch.repeat_interleave(torch.arange(rows, device=slots.device), each_row)
    column = torch.arange(slots.numel(), device=slots.device) - first[row]
    return slots[column < lengths[row]]


def _repeated(u: Tensor, structure: Structure, counts: tuple[int, ...]) -> Tensor:
    """(n,): a value for each vector, (v,), for each of its weights."""
    d, parts = structure.dimension, zip(torch.split(u, list(counts)), structure.tensors, strict=True)
    return _joined([_kept(part[:, None].expand(-1, _width(t, d)), t, d) for part, t in parts])


def _with(q: Result, structure: Structure, name: str, values: Tensor, operation: Operation) -> Tensor:
    """operation(values, the array's entries), if there is such an array; in place where nothing is differentiated: new
    memory takes as long as the operation."""
    array = structure.arrays.get(name)
    if array is None:
        return values
    entries = entries_of(q, structure, name)
    into = None if any(part.requires_grad for part in (values, *entries)) else values
    if array.per.by == "global":
        # the unit is that of the first weight: tensors without weights have none
        return operation(values, next((part for part in entries if part.numel()), entries[0]), out=into)
    split = torch.split(values, list(q.sizes))
    parts = [
        _applied(operation, part, own, array.per, t, in_place=into is not None)
        for part, t, own in zip(split, structure.tensors, entries, strict=True)
    ]
    return _joined(parts) if into is None else values


def _applied(
    operation: Operation, values: Tensor, entries: Tensor, per: Per, tensor: Placed, *, in_place: bool
) -> Tensor:
    if tensor.mask is None:
        view, entries = per.aligned(entries, tensor.shape)
        values = values.reshape(view)
    elif per.by != "layer":
        entries = per.spread(entries, tensor.shape)[tensor.mask.reshape(-1)]
    return operation(values, entries, out=values if in_place else None).reshape(-1)


def entries_of(q: Result, structure: Structure, name: str) -> list[Tensor]:
    """Each tensor's entries of an array, float32, as a decoder has them."""
    array, shapes = structure.arrays[name], structure.shapes
    found = q.find(name)
    if found is None:
        raise BadInput(f"the array '{name}' is missing")
    device = q.symbols.device
    if not array.codes:
        flat = as_stored(torch.as_tensor(found, device=device), structure.stored.get(name)).reshape(-1)
        _fits(name, flat, structure)
        return array.per.split(flat, shapes)
    unit = q.find(name + UNIT)
    if unit is None:
        raise BadInput(f"the array '{name}{UNIT}' is missing")
    units = as_stored(torch.as_tensor(unit, device=device), structure.stored.get(name + UNIT)).reshape(-1)
    codes = torch.as_tensor(found, device=device).reshape(-1)
    _fits(name, codes, structure)
    _fits(name + UNIT, units, structure)
    each = array.unit.split(units, shapes)
    return [
        units_of_codes(array, own, shape, part.numel()) * part.to(torch.float32)
        for part, own, shape in zip(array.per.split(codes, shapes), each, shapes, strict=True)
    ]


def _fits(name: str, entries: Tensor, structure: Structure) -> None:
    if entries.numel() != structure.entries(name):
        raise BadInput(f"{entries.numel()} entries of '{name}' where these tensors have {structure.entries(name)}")


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def ordered_table(q: Result, structure: Structure) -> Tensor | None:
    """(k,) float32 of scalar symbols, one for each weight; None for vectors, several codebooks, grids."""
    if structure.dimension != 1 or q.form in ("grid", "dithered-grid", "plugin"):
        return None
    table = codebook_of(q, structure)
    return None if table is None or math.prod(table.shape[::2]) != 1 else table.reshape(-1)


def has_zero(q: Result, structure: Structure) -> bool:
    """Whether a table entry of 0 deploys as 0: nothing is added to it, and nothing mixes it with others."""
    plain = structure.dimension == 1 and not structure.hadamard and not structure.arrays.keys() & {"zero", "shift"}
    return plain and q.form in ("lookup", "grid")


def parameters_as_stored(parameters: Mapping[str, Tensor], structure: Structure | None) -> dict[str, Tensor]:
    """Each in the dtype in which it is written."""
    stored = structure.stored if structure is not None else {}
    return {name: value.to(stored.get(name, value.dtype)) for name, value in parameters.items()}
