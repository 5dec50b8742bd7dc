"""k-quants: blocks of a few weights whose scales and minima are themselves quantized in super-blocks of 256.

The formats of llama.cpp (ggml's ``block_q4_K``, ``block_q3_K``, ``block_q2_K``), as their C structures define them:
within a super-block of 256 weights with the float16 units d and m,

* ``q4_k``: blocks of 32, value = d c q - m c' with q in [0, 15] and six-bit codes c, c' for scale and minimum: 4.5 bits
* ``q3_k``: blocks of 16, value = d c q with q in [-4, 3] and six-bit codes c in [-32, 31]: 3.4375 bits
* ``q2_k``: blocks of 16, value = d c q - m c' with q in [0, 3] and four-bit codes: 2.625 bits

Here the scale codes of ``q3_k`` are in [0, 31] (a sign is of little use where levels are nearly symmetric). A row whose
length is not a multiple of 256 ends in a shorter super-block; ggml rejects such rows.

Scale and minimum of a block are a least-squares fit: levels from the range, then s and m from the normal equations of
sum v (w - (s q - m))^2 with m >= 0, in ``rounds`` rounds [ggml's make_qkx2_quants does the same over a grid of shrunk
ranges]; v = 1 + |w| / the block's root mean square, the weighting of ggml, times the sensitivity.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import Array, Per, Quantized, Quantizer, Source
from nqbench.api.structure import UNIT
from nqbench.api.toolkit.blocks import Blocks, Entries

SUPER = 256
"""Weights of a super-block."""


class _KQuant(Quantizer):
    """A scale, and for some formats a minimum, per block, coded as multiples of a float per super-block."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"rounds": 0}]})
    takes = frozenset({"none", "diagonal"})
    block: ClassVar[int]
    levels: ClassVar[tuple[int, int]]
    codes: ClassVar[int]
    minimum: ClassVar[bool] = True

    rounds: int = Field(3, ge=0, le=100)
    """Rounds of the least-squares fit that follow the fit to the range."""

    def quantize(self, source: Source) -> Quantized:
        blocks = Blocks(source, Per("group", self.block))
        matrices = blocks.matrices()
        # 0 where there is no weight
        h = blocks.matrices(torch.ones_like(source.weights) if source.h is None else source.h)
        given = [_weight(m) * own for m, own in zip(matrices, h, strict=True)]
        fitted = [self._fit(m, v) for m, v in zip(matrices, given, strict=True)]
        arrays = [_coded("step", torch.cat([s for s, _ in fitted]), blocks, self.codes, 1.0)]
        if self.minimum:
            arrays.append(_coded("shift", torch.cat([m for _, m in fitted]), blocks, self.codes, -1.0))
        scales = blocks.split(arrays[0].values)
        shifts = blocks.split(arrays[1].values) if self.minimum else [None] * len(scales)
        symbols = [
            (self._levels(m, s, t) - self.levels[0]).to(torch.int32)
            for m, s, t in zip(matrices, scales, shifts, strict=True)
        ]
        return Quantized(
            symbols=blocks.kept(symbols),
            alphabet=self.levels[1] - self.levels[0] + 1,
            sizes=source.sizes,
            parameters={k: v for a in arrays for k, v in a.parameters.items()},
            side={"offset": self.levels[0], **{k: v for a in arrays for k, v in a.side.items()}},
            form="grid",
            structure=blocks.structure(*arrays),
        )

    def _levels(self, w: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
        moved = w if shift is None else w - shift[:, None]
        return torch.nan_to_num(moved / scale[:, None], nan=0.0, posinf=0.0, neginf=0.0).round().clamp(*self.levels)

    def _fit(self, w: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(entries,) scale and (entries,) minimum of each row, both >= 0."""
        if not w.numel():
            return w.new_zeros(len(w)), w.new_zeros(len(w))
        lowest, highest = self.levels
        if self.minimum:
            least = (-w.amin(1)).clamp(min=0)
            scale = (w.amax(1).clamp(min=0) + least) / highest
        else:
            least = torch.zeros(len(w), device=w.device)
            scale = torch.maximum(w.amax(1) / highest, w.amin(1) / lowest)
        best, error = (scale, least), self._error(w, v, scale, least)
        for _ in range(self.rounds):
            q = self._levels(w, scale, -least)
            scale, least = _least_squares(w, v, q, self.minimum)
            now = self._error(w, v, scale, least)
            better = (now < error) & (scale > 0)
            best = (torch.where(better, scale, best[0]), torch.where(better, least, best[1]))
            error = torch.where(better, now, error)
        return best

    def _error(self, w: Tensor, v: Tensor, scale: Tensor, least: Tensor) -> Tensor:
        value = self._levels(w, scale, -least) * scale[:, None] - least[:, None]
        return (v * (w - value).square()).sum(1)


class Q4K(_KQuant, name="q4_k", paper="llama.cpp, ggml block_q4_K"):
    """Four bits per weight in blocks of 32; scales and minima in six bits, in super-blocks of 256."""

    block, levels, codes = 32, (0, 15), 64


class Q3K(_KQuant, name="q3_k", paper="llama.cpp, ggml block_q3_K"):
    """Three bits per weight in blocks of 16; scales in five bits, in super-blocks of 256."""

    block, levels, codes, minimum = 16, (-4, 3), 32, False


class Q2K(_KQuant, name="q2_k", paper="llama.cpp, ggml block_q2_K"):
    """Two bits per weight in blocks of 16; scales and minima in four bits, in super-blocks of 256."""

    block, levels, codes = 16, (0, 3), 16


def _weight(w: Tensor) -> Tensor:
    """The weighting of ggml: 1 + |w| / the root mean square of the block."""
    if not w.numel():
        return w
    return torch.nan_to_num(1 + w.abs() / w.square().mean(1, keepdim=True).sqrt(), nan=1.0, posinf=1.0)


def _least_squares(w: Tensor, v: Tensor, q: Tensor, minimum: bool) -> tuple[Tensor, Tensor]:
    """The s and the m >= 0 that minimize sum v (w - (s q - m))^2 for given levels q."""
    n, sq, sqq = v.sum(1), (v * q).sum(1), (v * q * q).sum(1)
    sw, swq = (v * w).sum(1), (v * w * q).sum(1)
    alone = torch.nan_to_num(swq / sqq, nan=0.0, posinf=0.0, neginf=0.0)
    if not minimum:
        return alone, torch.zeros_like(alone)
    determinant = n * sqq - sq * sq
    scale = torch.nan_to_num((n * swq - sq * sw) / determinant, nan=0.0, posinf=0.0, neginf=0.0)
    least = torch.nan_to_num((sq * swq - sqq * sw) / determinant, nan=0.0, posinf=0.0, neginf=0.0)
    below = least < 0
    return torch.where(below, alone, scale), torch.where(below, 0.0, least)


def _coded(name: str, values: Tensor, blocks: Blocks, codes: int, sign: float) -> Entries:
    """Values as codes times a float16 unit per super-block: the unit is the largest value of its blocks divided by
    codes - 1."""
    each = SUPER // blocks.per.size
    supers = Per("group", SUPER)
    units, rounded, read = [], [], []
    for part, shape in zip(blocks.split(values), blocks.shapes, strict=True):
        if not part.numel():
            continue
        rows = shape[0] if len(shape) > 1 else 1
        matrix = part.reshape(rows, -1)
        groups = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % each)).reshape(-1, each)
        unit = groups.amax(1) / (codes - 1)
        half = unit.half().float()
        # where float16 would lose range, the unit is stored as float32
        unit = half if _fits_half(unit) else unit
        code = torch.nan_to_num(groups / unit[:, None], nan=0.0, posinf=0.0).round().clamp(0, codes - 1)
        rounded.append(code.reshape(rows, -1)[:, : matrix.shape[1]].reshape(-1))
        spread = unit.reshape(rows, -1).repeat_interleave(each, dim=1)[:, : matrix.shape[1]].reshape(-1)
        read.append(sign * spread * rounded[-1])
        units.append(sign * unit)
    unit = torch.cat(units)
    stored = {name + UNIT: torch.float16} if _fits_half(unit) else {}
    array = Array(blocks.per, codes, supers)
    side = {name: torch.cat(rounded).to(torch.uint8)}
    return Entries(name, torch.cat(read), array, {name + UNIT: unit}, side, stored)


def _fits_half(unit: Tensor) -> bool:
    """Whether float16 holds them without loss of range."""
    size, limits = unit.abs(), torch.finfo(torch.float16)
    return not bool((size > limits.max).any() | ((size > 0) & (size < limits.smallest_normal)).any())
