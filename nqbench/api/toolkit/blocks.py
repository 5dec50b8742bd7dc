"""A source's weights by channel or by group, for quantizers with a scale each: matrices with a row an entry, and back.

    blocks = Blocks(source, per_of("group", 64))
    scales = [matrix.abs().amax(1) for matrix in blocks.matrices()]       # one (entries, width) matrix per tensor
    stored = Entries.floats("scale", torch.cat(scales), blocks, torch.float16)
    structure = blocks.structure(stored)

Places that are pruned, and those that fill up a row's last block, are 0 in the matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from nqbench.api.granularity import Per
from nqbench.api.source import Source
from nqbench.api.structure import UNIT, Array, Structure

Granularity = Literal["global", "layer", "channel", "group"]
Kept = Literal["float32", "float16", "bfloat16", "codes"]


def per_of(granularity: Granularity, group: int) -> Per:
    """``global``: one entry for all tensors; ``layer``: one per tensor; ``channel``: one per output channel; ``group``:
    one for each ``group`` consecutive weights of a channel."""
    if granularity == "group":
        return Per("group", group)
    return {"global": Per("global"), "layer": Per("layer"), "channel": Per("channel", 0)}[granularity]


class Blocks:
    """A source's weights, arranged by the entries of a granularity; a tensor of no axis counts as of one entry."""

    def __init__(self, source: Source, per: Per) -> None:
        if per.by == "channel" and any(len(t.shape) <= per.size for t in source.tensors):
            per = Per("layer")
        self.source = source
        self.per = per
        self.shapes = tuple(tuple(t.shape) for t in source.tensors)
        self.masks = tuple(None if t.mask is None else t.mask.reshape(-1) for t in source.tensors)

    def matrices(self, values: Tensor | None = None) -> list[Tensor]:
        """A matrix (entries, width) a tensor of (n,) values, by default the weights; one alone, (1, places), of an
        entry for all tensors."""
        flat = self.source.weights if values is None else values
        dense = []
        for part, mask in zip(torch.split(flat, list(self.source.sizes)), self.masks, strict=True):
            if mask is not None:
                part = torch.zeros(mask.shape, dtype=part.dtype, device=part.device).masked_scatter_(mask, part)
            dense.append(part)
        if self.per.by == "global":
            return [torch.cat(dense).reshape(1, -1)]
        return [self.per.gathered(part, shape, 0.0) for part, shape in zip(dense, self.shapes, strict=True)]

    @staticmethod
    def largest(matrix: Tensor) -> Tensor:
        """(entries,): the largest magnitude of each row."""
        return matrix.abs().amax(1) if matrix.numel() else matrix.new_zeros(len(matrix))

    def kept(self, matrices: Sequence[Tensor]) -> Tensor:
        """(n,): the inverse of ``matrices``."""
        if self.per.by == "global":
            dense = list(torch.split(matrices[0].reshape(-1), [math.prod(shape) for shape in self.shapes]))
        else:
            dense = [self.per.scattered(m, shape) for m, shape in zip(matrices, self.shapes, strict=True)]
        parts = [part if mask is None else part[mask] for part, mask in zip(dense, self.masks, strict=True)]
        return torch.cat(parts) if len(parts) > 1 else parts[0].clone()

    def each(self, entries: Tensor) -> Tensor:
        """(n,): the entry of each kept weight, of (E,) entries."""
        parts = []
        for own, shape, mask in zip(self.per.split(entries, self.shapes), self.shapes, self.masks, strict=True):
            whole = self.per.spread(own, shape)
            parts.append(whole if mask is None else whole[mask])
        return torch.cat(parts)

    def split(self, entries: Tensor) -> list[Tensor]:
        """(E,) entries of all tensors -> those of each matrix."""
        return [entries] if self.per.by == "global" else self.per.split(entries, self.shapes)

    def structure(self, *arrays: Entries, **fields: Any) -> Structure:
        """Of the source's tensors, with these arrays."""
        stored = {name: dtype for a in arrays for name, dtype in a.stored.items()}
        return Structure.of(self.source, arrays={a.name: a.array for a in arrays}, stored=stored, **fields)


@dataclass(frozen=True, eq=False)
class Entries:
    """An array as a decoder has it (``values``, (E,) float32), and what of it goes into parameters, side, structure."""

    name: str
    values: Tensor
    array: Array
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    side: Mapping[str, Tensor] = field(default_factory=dict)
    stored: Mapping[str, torch.dtype] = field(default_factory=dict)

    @staticmethod
    def kept_as(name: str, values: Tensor, blocks: Blocks, kept: Kept) -> Entries:
        """As floats of that type, or as 8-bit codes."""
        if kept == "codes":
            return Entries.codes(name, values, blocks, 256)
        return Entries.floats(name, values, blocks, getattr(torch, kept))

    @staticmethod
    def floats(name: str, values: Tensor, blocks: Blocks, dtype: torch.dtype) -> Entries:
        """Rounded to a dtype; left in float32 where that would lose one, or half of its digits."""
        stored = {} if dtype == torch.float32 or _loses(values, dtype) else {name: dtype}
        as_read = values.to(dtype).to(torch.float32) if stored else values
        return Entries(name, as_read, Array(blocks.per), {name: values}, {}, stored)

    @staticmethod
    def codes(name: str, values: Tensor, blocks: Blocks, codes: int) -> Entries:
        """Values that are not negative, in equal steps from 0 to the largest of each tensor (double quantization)."""
        units, rounded, read = [], [], []
        for part in blocks.split(values):
            unit = part.amax() / (codes - 1) if part.numel() else values.new_zeros(())
            code = torch.where(unit > 0, torch.round(part / unit), 0.0).clamp(0, codes - 1)
            # a block that is not all 0 keeps a scale
            code = torch.where((part > 0) & (code == 0), 1.0, code)
            read.append(unit * code)
            rounded.append(code)
            if part.numel():
                units.append(unit)
        unit_per = Per("global") if blocks.per.by == "global" else Per("layer")
        dtype = torch.uint8 if codes <= 256 else torch.int32
        return Entries(
            name,
            torch.cat(read),
            Array(blocks.per, codes, unit_per),
            {name + UNIT: torch.stack(units)},
            {name: torch.cat(rounded).to(dtype)},
        )

    @staticmethod
    def integers(name: str, values: Tensor, blocks: Blocks, codes: int) -> Entries:
        """Whole numbers in [0, codes), as they are."""
        one = torch.ones(1, device=values.device)
        dtype = torch.uint8 if codes <= 256 else torch.int32
        array = Array(blocks.per, codes, Per("global"))
        return Entries(name, values, array, {}, {name: values.to(dtype), name + UNIT: one})


def _loses(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether a value would overflow, or be less than the least normal number."""
    size = values.abs()
    limits = torch.finfo(dtype)
    return bool((size > limits.max).any() | ((size > 0) & (size < limits.smallest_normal)).any())
