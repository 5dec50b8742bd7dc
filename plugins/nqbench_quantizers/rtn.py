"""Rounding to nearest on a grid of b bits, with a scale for each tensor, channel or group: the common baseline.

For the weights w that share a scale (``nqbench.api.toolkit.blocks``):

* symmetric: levels q in [-Q, Q], Q = 2^(b-1) - 1, value = s q, s = max |w| / Q.
* with a zero point: q in [0, 2^b - 1], value = s (q - z), s = (high - low) / (2^b - 1), z = round(-low / s), where
  low = min(w, 0), high = max(w, 0): 0 is always a level [Jacob et al. 2018, 1712.05877, section 2.1].

``fit: search`` looks for the scale of the least squared error sum h (w - value)^2, h the sensitivity or 1: the range is
multiplied by ``tries`` factors from ``shrink`` to 1; each time the least-squares scale for the resulting levels is
taken, s = sum h w l / sum h l^2 (l = q, or q - z), and the levels are rounded again. The best scale of all is kept [as
in OCTAV, 2206.06501; the refit is step b of Lloyd's method for one parameter].
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import Knob, Quantized, Quantizer, Source
from nqbench.api.toolkit.blocks import Blocks, Entries, Granularity, Kept, per_of
from nqbench_quantizers.block_levels import extremes, grid_levels, quotient

_AT_ONCE = 1 << 22  # weights searched at a time: bounds the memory


class RTN(Quantizer, name="rtn", paper="arXiv:1712.05877, section 2.1"):
    """A grid of b bits with a scale, or scale and zero point, for each tensor, channel or group of weights."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"bits": 4, "granularity": "group", "group": 16, "scales": "float16"},
                {"bits": 3, "symmetric": False, "granularity": "group", "group": 8, "scales": "codes"},
                {"bits": 2, "symmetric": False, "granularity": "layer", "fit": "search"},
                {"bits": 3, "granularity": "global", "fit": "search"},
            ]
        }
    )
    takes = frozenset({"none", "diagonal"})

    bits: int = Field(4, ge=2, le=16)
    """Bits per weight, before entropy coding: 2^bits levels, or one less for a symmetric grid."""
    symmetric: bool = True
    """Whether the grid is symmetric about 0; otherwise it has a zero point."""
    granularity: Granularity = "channel"
    """Which weights share a scale: those of all tensors (``global``), of a tensor (``layer``), an output channel, or a
    group."""
    group: int = Field(64, ge=1)
    """Consecutive weights of a channel that share a scale (``granularity: group``)."""
    scales: Kept = "float32"
    """How scales are stored; ``codes``: as 8-bit multiples of one float per tensor."""
    fit: Literal["max", "search"] = "max"
    """How the scale is chosen: to reach the largest weight, or for the least (sensitivity-weighted) squared error."""
    shrink: float = Field(0.4, gt=0, le=1)
    """With ``fit: search``: the smallest factor of the range that is tried."""
    tries: int = Field(20, ge=1, le=1000)
    """With ``fit: search``: the number of factors that are tried."""

    def quantize(self, source: Source) -> Quantized:
        blocks = Blocks(source, per_of(self.granularity, self.group))
        matrices = blocks.matrices()
        weights = blocks.matrices(source.h) if source.h is not None and self.fit == "search" else [None] * len(matrices)
        fitted = [self._fitted(m, h) for m, h in zip(matrices, weights, strict=True)]
        scale = Entries.kept_as("step", torch.cat([s for s, _ in fitted]), blocks, self.scales)
        arrays = [scale]
        zeros: list[Tensor | None] = [None] * len(matrices)
        if not self.symmetric:
            arrays.append(Entries.integers("zero", torch.cat([z for _, z in fitted]), blocks, 2**self.bits))
            zeros = [z for _, z in fitted]
        lowest = self._lowest
        levels = [
            grid_levels(m, s, z, *self._ends)
            for m, s, z in zip(matrices, blocks.split(scale.values), zeros, strict=True)
        ]
        return Quantized(
            symbols=blocks.kept(levels),
            alphabet=self._ends[1] - lowest + 1,
            sizes=source.sizes,
            parameters={k: v for a in arrays for k, v in a.parameters.items()},
            side={"offset": lowest, **{k: v for a in arrays for k, v in a.side.items()}},
            form="grid",
            structure=blocks.structure(*arrays),
        )

    def knob(self, source: Source) -> Knob:
        return Knob("bits", 2, 8, "linear", integer=True, more_bytes="up")

    @property
    def _ends(self) -> tuple[int, int]:
        """The lowest and the highest level."""
        most = 2 ** (self.bits - 1) - 1
        return (-most, most) if self.symmetric else (0, 2**self.bits - 1)

    @property
    def _lowest(self) -> int:
        return self._ends[0]

    def _fitted(self, matrix: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        """The scale and the zero point (0 for a symmetric grid) of each row."""
        if self.fit == "max" or not matrix.numel():
            return self._ranged(matrix, 1.0)
        at_once = max(1, _AT_ONCE // matrix.shape[1])
        found = [
            self._searched(rows, None if h is None else h[start : start + at_once])
            for start, rows in zip(range(0, len(matrix), at_once), torch.split(matrix, at_once), strict=True)
        ]
        return torch.cat([s for s, _ in found]), torch.cat([z for _, z in found])

    def _ranged(self, matrix: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The same if each row's range is multiplied by ``share``."""
        if not matrix.numel():
            return matrix.new_zeros(len(matrix)), matrix.new_zeros(len(matrix))
        low, high = extremes(matrix)
        lowest, highest = self._ends
        if self.symmetric:
            scale = torch.maximum(-low, high) * (share / highest)
            return scale, torch.zeros_like(scale)
        low, high = low.clamp(max=0) * share, high.clamp(min=0) * share
        scale = (high - low) / (highest - lowest)
        return scale, torch.round(quotient(-low, scale)).clamp(lowest, highest)

    def _searched(self, matrix: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        best_scale, best_zero = self._ranged(matrix, 1.0)
        best = _error(matrix, h, best_scale, best_zero, *self._ends)
        for share in torch.linspace(self.shrink, 1.0, self.tries).tolist():
            scale, zero = self._ranged(matrix, share)
            level = _levels(matrix, scale, zero, *self._ends) - zero[:, None]
            weighted = level if h is None else h * level
            refit = quotient((weighted * matrix).sum(1), (weighted * level).sum(1))
            scale = torch.where(refit > 0, refit, scale)
            error = _error(matrix, h, scale, zero, *self._ends)
            better = error < best
            best = torch.where(better, error, best)
            best_scale, best_zero = torch.where(better, scale, best_scale), torch.where(better, zero, best_zero)
        return best_scale, best_zero


def _levels(matrix: Tensor, scale: Tensor, zero: Tensor, lowest: int, highest: int) -> Tensor:
    """(entries, width) float32 integers: the nearest level of each weight; where the scale is 0, the level of the value
    0."""
    return (torch.round(quotient(matrix, scale[:, None])) + zero[:, None]).clamp_(lowest, highest)


def _error(matrix: Tensor, h: Tensor | None, scale: Tensor, zero: Tensor, lowest: int, highest: int) -> Tensor:
    value = (_levels(matrix, scale, zero, lowest, highest) - zero[:, None]) * scale[:, None]
    squares = (matrix - value).square_()
    return (squares if h is None else squares * h).sum(1)
