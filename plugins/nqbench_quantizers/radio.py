"""Bit allocation to groups by equal slopes of their rate-distortion functions [Radio, 2505.03031; 2009.01174].

The distortion at b bits per weight of a group n of weights, with standard deviation S_n about its mean mu_n and mean
sensitivity G_n, is about

    D_n(b) = G_n S_n^2 2^(-2b)

times a constant. Under a budget of bits, the sum of all D_n is least where their slopes are equal [2505.03031,
equations 5 and 6]::

    b_n = max(0, log2(G_n S_n^2 / theta) / 2)        theta by bisection, for the mean of all b_n to be ``bits``

* With ``companding``, bits are integers: a group takes one bit more as long as that lowers its distortion by more than
  theta per weight, 3/4 G_n S_n^2 4^(-b) > theta. Its 2^b levels are equally spaced in u = (1 + sign(x) (1 - exp(-2^1/2
  |x| / 3))) / 2, x = (w - mu_n) / S_n, the compander for a Laplace distribution: the density of levels is proportional
  to the cube root of its density [2505.03031, section 3.2; Panter and Dite 1951]. A group takes fewer bits if its error
  happens to be smaller with them. Means and standard deviations are stored.
* Without, levels are to be entropy-coded, which needs neither integer bits nor a compander: each group has a grid with
  the step (12 theta / G_n)^1/2, whose distortion is theta, unless the group's distortion without any bits is less (Gish
  and Pierce 1968).

G_n is the mean sensitivity of a group (in the paper the variance of its gradients, which is the ``fisher`` diagonal),
or 1 if there is no sensitivity.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import Knob, Quantized, Quantizer, Source
from nqbench.api.tables import table_of
from nqbench.api.toolkit.blocks import Blocks, Entries, Granularity, Kept, per_of

_HALVINGS = 200
_MOST_LEVEL = 1 << 22
_ROUNDING = 1e-14


class Radio(Quantizer, name="radio", paper="arXiv:2505.03031; arXiv:2009.01174"):
    """Bits (with companded levels) or steps per group, at equal slopes of the rate-distortion functions."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"group": 16},
                {"bits": 2.5, "granularity": "channel", "scales": "codes"},
                {"companding": False, "granularity": "layer", "scales": "float32"},
                {"companding": False, "bits": 2.0, "group": 8},
            ]
        }
    )
    takes = frozenset({"none", "diagonal"})

    bits: float = Field(3.0, gt=0, le=12)
    """Mean number of bits per weight: of fixed-length levels, or, without companding, approximately of an entropy
    code."""
    companding: bool = True
    """Whether groups have integer numbers of bits and companded levels; otherwise each has a step."""
    granularity: Granularity = "group"
    """Which weights share a number of bits or a step: those of all tensors (``global``), of a tensor (``layer``), a
    channel, a group."""
    group: int = Field(64, ge=1)
    """Consecutive weights of a channel that share them (``granularity: group``)."""
    scales: Kept = "float16"
    """How standard deviations or steps are stored; ``codes``: as 8-bit multiples of one float per tensor."""
    most: int = Field(8, ge=1, le=12)
    """With companding: the largest number of bits of a group."""

    def quantize(self, source: Source) -> Quantized:
        blocks = Blocks(source, per_of(self.granularity, self.group))
        h = torch.ones_like(source.weights) if source.h is None else source.h / source.h.max()
        groups = _Groups(blocks, h)
        if not self.companding:
            return self._in_steps(source, blocks, groups)
        bits = groups.whole_bits(min(self.bits, self.most), self.most)
        mean = Entries.floats("shift", groups.mean.float(), blocks, torch.float16)
        scale = Entries.kept_as("scale", groups.deviation().float(), blocks, self.scales)
        symbols, depth = self._companded(blocks, bits, scale.values, mean.values)
        return Quantized(
            blocks.kept(symbols), 2 ** (depth + 1) - 1, source.sizes, {**scale.parameters, **mean.parameters},
            {**scale.side, **mean.side}, statistics={"bits": groups.average(bits)},
            structure=blocks.structure(scale, mean, table="laplace"),
        )  # fmt: skip

    def knob(self, source: Source) -> Knob:
        return Knob("bits", 0.25, 8.0, "log", more_bytes="up", start=2.0)

    def _companded(
        self, blocks: Blocks, bits: Tensor, scale: Tensor, mean: Tensor
    ) -> tuple[list[Tensor], int]:  # fmt: skip
        """A matrix of symbols for each matrix of the blocks, and the depth of the table: the largest number of bits of
        a group."""
        depth = int(bits.max()) if bits.numel() else 0
        table = torch.from_numpy(table_of("laplace", 2 ** (depth + 1) - 1).copy()).to(scale.device)
        matrices, real = blocks.matrices(), blocks.matrices(torch.ones_like(blocks.source.weights))
        weights = real if blocks.source.h is None else blocks.matrices(blocks.source.h / blocks.source.h.max())
        found = []
        for w, there, h, most, s, m in zip(
            matrices, real, weights, blocks.split(bits), blocks.split(scale), blocks.split(mean), strict=True
        ):
            best = torch.full(w.shape, 2**depth - 1, dtype=torch.int32, device=w.device)
            least = _error(w, h * there, m[:, None].expand(w.shape))
            for b in range(1, depth + 1):
                at = (torch.arange(2**b, device=w.device) * 2 + 1) * 2 ** (depth - b) - 1
                levels = table[at]
                x = torch.nan_to_num((w - m[:, None]) / s[:, None], nan=0.0, posinf=0.0, neginf=0.0)
                nearest = torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)
                error = _error(w, h * there, levels[nearest] * s[:, None] + m[:, None])
                better = (error < least) & (most >= b)
                least = torch.where(better, error, least)
                best = torch.where(better[:, None], at[nearest].to(torch.int32), best)
            found.append(best)
        return found, depth

    def _in_steps(self, source: Source, blocks: Blocks, groups: _Groups) -> Quantized:
        theta = groups.level(self.bits)
        largest = torch.cat([Blocks.largest(m) for m in blocks.matrices()]).double()
        step = (12 * theta / groups.weight.clamp(min=1e-300)).sqrt()
        # any step larger than all weights gives zeros; for equal weights the step is their value
        step = torch.minimum(step, 4 * largest).maximum(largest / _MOST_LEVEL)
        step = torch.where(groups.alike, largest, step)
        entries = Entries.kept_as("step", step.float(), blocks, self.scales)
        parts = []
        for w, s in zip(blocks.matrices(), blocks.split(entries.values), strict=True):
            parts.append(torch.round(torch.nan_to_num(w / s[:, None], nan=0.0, posinf=0.0, neginf=0.0)))
        levels = blocks.kept(parts)
        low, high = (int(edge) for edge in levels.aminmax())
        return Quantized(
            (levels - low).to(torch.int32), high - low + 1, source.sizes, dict(entries.parameters),
            {"offset": low, **entries.side}, "grid", structure=blocks.structure(entries),
        )  # fmt: skip


class _Groups:
    """Statistics of all groups, (E,) float64, in the order of their entries: number of weights, mean sensitivity G
    (``weight``), weighted mean mu, and G S^2 (``cost``); and which groups have equal weights (``alike``)."""

    def __init__(self, blocks: Blocks, h: Tensor) -> None:
        real = blocks.matrices(torch.ones_like(h, dtype=torch.float64))
        hs, ws = blocks.matrices(h.double()), blocks.matrices(blocks.source.weights.double())
        self.count = torch.cat([r.sum(1) for r in real])
        mass = torch.cat([m.sum(1) for m in hs])
        safe, some = mass.clamp(min=torch.finfo(torch.float64).tiny), self.count.clamp(min=1)
        self.mean = torch.cat([(m * w).sum(1) for m, w in zip(hs, ws, strict=True)]) / safe
        means = blocks.split(self.mean)
        squares = [(m * (w - c[:, None]).square()).sum(1) for m, w, c in zip(hs, ws, means, strict=True)]
        self.weight, self.cost = mass / some, torch.cat(squares) / some
        self.alike = self.cost <= _ROUNDING * self.weight * self.mean.square()
        self.cost = torch.where(self.alike, 0.0, self.cost)

    def deviation(self) -> Tensor:
        return torch.where(self.weight > 0, self.cost / self.weight.clamp(min=1e-300), 0.0).sqrt()

    def average(self, bits: Tensor) -> float:
        return float((self.count * bits).sum() / self.count.sum().clamp(min=1))

    def level(self, bits: float) -> float:
        """The theta for which the mean over all weights of max(0, 1/2 log2(cost / theta)) is ``bits``."""
        return self._bisected(lambda theta: (self.cost / theta).log2().div(2).clamp(min=0), bits)

    def whole_bits(self, bits: float, most: int) -> Tensor:
        """(E,) integers up to ``most``, with a mean over all weights of at most ``bits``."""

        def taken(theta: float) -> Tensor:
            return ((0.75 * self.cost / theta).log2().div(2).ceil()).clamp(0, most)

        return taken(self._bisected(taken, bits)).nan_to_num(0.0)

    def _bisected(self, bits_at: Callable[[float], Tensor], bits: float) -> float:
        """The least theta at which the mean number of bits is at most ``bits``."""
        largest = float(self.cost.max()) if self.cost.numel() else 0.0
        if largest <= 0:
            return torch.finfo(torch.float64).tiny
        low, high = largest * 2.0**-60, largest * 1.01
        for _ in range(_HALVINGS):
            middle = (low * high) ** 0.5
            if not low < middle < high:
                break
            low, high = (middle, high) if self.average(bits_at(middle).nan_to_num(0.0)) > bits else (low, middle)
        return high


def _error(w: Tensor, h: Tensor, value: Tensor) -> Tensor:
    return (h * (w - value).square()).sum(1, dtype=torch.float64)
