"""Half-quadratic quantization: zero points for which the error is sparse, found from the weights alone [Badri and Shaji
2023].

A group of weights w has a scale s and a zero point z: q = clamp(round(w / s + z)), value = s (q - z). With s held at
(max - min) / (2^b - 1), z minimizes sum |w - value|^p, p < 1, by half-quadratic splitting with an auxiliary error e,

    e <- shrink(w - s (q - z), beta)        shrink(x, beta) = sign(x) max(0, |x| - |x|^(p-1) / beta)
    z <- mean(q - (w - e) / s)

(equations 4 and 6 of https://mobiusml.github.io/hqq_blog), where beta grows by the factor ``kappa`` in each iteration.
The z of the least mean |w - value| over all iterations is kept. Neither data nor gradients are used.
"""

from __future__ import annotations

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import Knob, Quantized, Quantizer, Source
from nqbench.api.toolkit.blocks import Blocks, Entries, Granularity, Kept, per_of


class HQQ(Quantizer, name="hqq", paper="Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog"):
    """A grid of b bits with a scale and a zero point per group; zero points are chosen for a sparse error."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"bits": 2, "group": 16}, {"bits": 3, "granularity": "channel"}]}
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
    p: float = Field(0.7, gt=0, le=1)
    """p, the exponent of the error's norm."""
    beta: float = Field(10.0, gt=0)
    """The first beta, in units of 1 / the group's range."""
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
        # a group of equal weights: their magnitude is the scale, and the zero point is -1 or 1
        exact = [torch.where(high > low, (high - low) / most, low.abs()) for low, high in ends]
        scale = Entries.kept_as("step", torch.cat(exact), blocks, self.scales)
        zeros = [
            self._zero(m, r, s, low, most)
            for m, r, s, (low, _) in zip(matrices, real, blocks.split(scale.values), ends, strict=True)
        ]
        zero = Entries.floats("zero", torch.cat(zeros), blocks, torch.float32)
        levels = [
            _levels(m, s, z, most).to(torch.int32)
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

    def _zero(self, w: Tensor, real: Tensor, scale: Tensor, low: Tensor, most: int) -> Tensor:
        """(entries,) zero points. w: (entries, width); real: the same shape, 1 where there is a weight, 0 at
        padding."""
        count = real.sum(1).clamp(min=1)
        zero = torch.nan_to_num(-low / scale, nan=0.0, posinf=0.0, neginf=0.0)
        s = scale[:, None]
        best, least = zero, _distance(w, real, s, zero, most) / count
        beta = self.beta
        for _ in range(self.iterations if w.numel() else 0):
            level = _levels(w, scale, zero, most)
            # in units of the scale, so that beta means the same for groups of any size
            error = torch.nan_to_num((w - s * (level - zero[:, None])) / s, nan=0.0, posinf=0.0, neginf=0.0)
            e = s * error.sign() * (error.abs() - error.abs().pow(self.p - 1) / (beta * most)).clamp(min=0)
            moved = (level - torch.nan_to_num((w - e) / s, nan=0.0, posinf=0.0, neginf=0.0)) * real
            zero = moved.sum(1) / count
            distance = _distance(w, real, s, zero, most) / count
            better = distance < least
            best, least = torch.where(better, zero, best), torch.where(better, distance, least)
            beta *= self.kappa
        return best


def _ends(w: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest weight of each row, 0 for a row without weights."""
    if not w.numel():
        return w.new_zeros(len(w)), w.new_zeros(len(w))
    there = real > 0
    low, high = w.masked_fill(~there, torch.inf).amin(1), w.masked_fill(~there, -torch.inf).amax(1)
    some = there.any(1)
    return torch.where(some, low, 0.0), torch.where(some, high, 0.0)


def _levels(w: Tensor, scale: Tensor, zero: Tensor, most: int) -> Tensor:
    ratio = torch.nan_to_num(w / scale[:, None], nan=0.0, posinf=0.0, neginf=0.0)
    return torch.round(ratio + zero[:, None]).clamp(0, most)


def _distance(w: Tensor, real: Tensor, s: Tensor, zero: Tensor, most: int) -> Tensor:
    value = s * (_levels(w, s[:, 0], zero, most) - zero[:, None])
    return ((w - value).abs() * real).sum(1)
