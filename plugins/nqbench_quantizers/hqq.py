"""Half-quadratic quantization: zero points for which the error is sparse, found from the weights alone [Badri and Shaji
2023].

A group of weights w has a scale s and a zero point z: q = clamp(round(w / s + z)), value = s (q - z). With s held at
(max - min) / (2^b - 1), z minimizes sum |w - value|^p, p < 1, by half-quadratic splitting with an auxiliary error e,

    e <- shrink(w - s (q - z), beta)        shrink(x, beta) = sign(x) max(0, |x| - |x|^(p-1) / beta)
    z <- mean(q - (w - e) / s)

(equations 4 and 6 of https://mobiusml.github.io/hqq_blog), where beta grows by the factor ``kappa`` in each iteration.
The z of the least mean |w - value|^p over all iterations, each rounded as it is stored, is kept. Neither data nor
gradients are used.

|x|^(p-1) / beta is a weight, so beta has the unit weight^(p-2); here it is given in s^(p-2). Errors lie within s / 2
whatever the range and the bits, and beta then says which of them count as none: those below beta^(1 / (p-2)) s, 0.22 s
at the default. (The authors' 10 for weights as they are, whose groups have ranges of some tenths, is a hundredth of
that: all errors count as none, which leaves the mean error, p = 2.)
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import Knob, Quantized, Quantizer, Source
from nqbench.api.toolkit.blocks import Blocks, Entries, Granularity, Kept, per_of


class HQQ(Quantizer, name="hqq", paper="Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog"):
    """A grid of b bits with a scale and a zero point per group; zero points are chosen for a sparse error."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{}, {"bits": 2, "group": 16}, {"bits": 3, "granularity": "channel", "zeros": "float32"}]
        }
    )

    bits: int = Field(4, ge=1, le=8)
    """Bits per weight, before entropy coding."""
    granularity: Granularity = "group"
    """Which weights share a scale and zero point: those of all tensors (``global``), of a tensor (``layer``), a
    channel, a group."""
    group: int = Field(64, ge=1)
    """Consecutive weights of a channel that share them (``granularity: group``)."""
    scales: Kept = "float16"
    """How scales are stored."""
    zeros: Literal["float32", "float16", "bfloat16"] = "float16"
    """How zero points are stored."""
    p: float = Field(0.7, gt=0, le=1)
    """p, the exponent of the error's norm."""
    beta: float = Field(7.0, gt=0)
    """The first beta, in units of scale^(p - 2)."""
    kappa: float = Field(1.01, ge=1)
    """Factor of beta from one iteration to the next."""
    iterations: int = Field(20, ge=0, le=1000)
    """Number of half-quadratic iterations."""

    def quantize(self, source: Source) -> Quantized:
        most = 2**self.bits - 1
        blocks = Blocks(source, per_of(self.granularity, self.group))
        matrices = blocks.matrices()
        real = blocks.matrices(torch.ones_like(source.weights))
        ends = [_ends(m, r) for m, r in zip(matrices, real, strict=True)]
        farthest = self._farthest(most)
        # a group of equal weights: their magnitude is the scale, and the zero point is -1 or 1
        exact = [
            torch.where(high > low, torch.maximum((high - low) / most, low.abs() / farthest), low.abs())
            for low, high in ends
        ]
        scale = Entries.kept_as("step", torch.cat(exact), blocks, self.scales)
        zeros = [
            self._zero(m, r, s, low, most)
            for m, r, s, (low, _) in zip(matrices, real, blocks.split(scale.values), ends, strict=True)
        ]
        zero = Entries.floats("zero", torch.cat(zeros), blocks, self._dtype)
        levels = [
            _levels(_finite(m / s[:, None]), z, most).to(torch.int32)
            for m, s, z in zip(matrices, blocks.split(scale.values), blocks.split(zero.values), strict=True)
        ]
        return Quantized(
            symbols=blocks.kept(levels),
            alphabet=most + 1,
            sizes=source.sizes,
            parameters={**scale.parameters, **zero.parameters},
            side={"offset": 0, **scale.side},
            form="grid",
            structure=blocks.structure(scale, zero),
        )

    def knob(self, source: Source) -> Knob:
        return Knob("bits", 1, 8, "linear", integer=True, more_bytes="up")

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.zeros)
        return dtype

    def _farthest(self, most: int) -> float:
        """The largest zero point that a scale may ask for: beyond it, a group of nearly equal weights far from 0 gets a
        larger scale, since its zero point would be rounded by more than a sixteenth."""
        return max(float(most), 1 / (8 * torch.finfo(self._dtype).eps))

    def _stored(self, zero: Tensor) -> Tensor:
        """As it is read from the file; 0 where it is too small for the type's whole precision."""
        rounded = zero.to(self._dtype).float()
        return torch.where(rounded.abs() < torch.finfo(self._dtype).smallest_normal, 0.0, rounded)

    def _zero(self, w: Tensor, real: Tensor, scale: Tensor, low: Tensor, most: int) -> Tensor:
        """(entries,) zero points, rounded as they are stored. w: (entries, width); real: the same shape, 1 where there
        is a weight, 0 at padding."""
        count = real.sum(1).clamp(min=1)
        ratio = _finite(w / scale[:, None])
        zero = _finite(-low / scale)
        best = self._stored(zero)
        least = self._distance(ratio, real, best, most)
        beta = self.beta
        for _ in range(self.iterations if w.numel() else 0):
            level = _levels(ratio, zero, most)
            error = ratio - (level - zero[:, None])
            shrunk = error.sign() * _finite(error.abs() - error.abs().pow(self.p - 1) / beta).clamp(min=0)
            zero = ((level - (ratio - shrunk)) * real).sum(1) / count
            rounded = self._stored(zero)
            distance = self._distance(ratio, real, rounded, most)
            better = distance < least
            best, least = torch.where(better, rounded, best), torch.where(better, distance, least)
            beta *= self.kappa
        return best

    def _distance(self, ratio: Tensor, real: Tensor, zero: Tensor, most: int) -> Tensor:
        """(entries,): sum |error|^p, in scales."""
        error = ratio - (_levels(ratio, zero, most) - zero[:, None])
        return (error.abs().pow(self.p) * real).sum(1)


def _ends(w: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest weight of each row, 0 for a row without weights."""
    if not w.numel():
        return w.new_zeros(len(w)), w.new_zeros(len(w))
    there = real > 0
    low, high = w.masked_fill(~there, torch.inf).amin(1), w.masked_fill(~there, -torch.inf).amax(1)
    some = there.any(1)
    return torch.where(some, low, 0.0), torch.where(some, high, 0.0)


def _finite(x: Tensor) -> Tensor:
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def _levels(ratio: Tensor, zero: Tensor, most: int) -> Tensor:
    return torch.round(ratio + zero[:, None]).clamp(0, most)
