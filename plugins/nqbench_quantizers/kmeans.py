"""k-means in one dimension [Han, Mao, Dally, ICLR 2016; weighted: 1612.01543, section 3.3].

Objective: min over codewords c_1 < ... < c_k of D = sum_i h_i min_j (w_i - c_j)^2, h_i = 1 without a sensitivity.

Lloyd's iteration: cells are the intervals between midpoints, whatever h; c_j = sum_{C_j} h w / sum_{C_j} h. In the
sorted weights (``nqbench.api.toolkit.scalar``) an iteration costs k binary searches, and D never increases.

``optimal``: the global minimum by dynamic programming over the points in order (the cells of the optimum are
intervals): exact if there are few enough distinct values for a bin each; otherwise on companded bins, followed by
Lloyd's iteration on all points. ``fixed``: codewords that stay in place while the others are learned [1707.04319,
section 4.2].
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from nqbench.api import Knob, Quantized, Quantizer, Source, scalar
from nqbench_quantizers import partition

_BLOCK = 16  # Lloyd iterations between two evaluations of the distortion: on a GPU each waits for the device
_TOLERANCE = 1e-7  # Lloyd's iteration stops when D falls by less than this share in a block


class KMeans(Quantizer, name="kmeans", paper="Deep Compression, ICLR 2016, arXiv:1510.00149; arXiv:1612.01543"):
    """The k codewords of least (sensitivity-weighted) squared error: Lloyd's iteration, or the exact optimum."""

    takes = frozenset({"none", "diagonal"})

    k: int = Field(16, ge=1, le=65536)
    """Number of codewords, fixed ones included; fewer where the source has fewer distinct values."""
    init: Literal["linear", "kmeans++", "quantile"] = "linear"
    """Start of Lloyd's iteration: evenly between the extremes (Han et al.), k-means++, or at quantiles."""
    optimal: bool = False
    """Find the global minimum by dynamic programming instead of Lloyd's iteration from ``init``."""
    fixed: tuple[float, ...] = ()
    """Codewords that belong to the codebook and do not move, such as 0."""
    iterations: int = Field(2000, ge=0)
    """Largest number of Lloyd iterations."""

    @model_validator(mode="after")
    def _consistent(self) -> KMeans:
        if len(set(self.fixed)) != len(self.fixed) or len(self.fixed) > self.k:
            raise ValueError("fixed must be distinct codewords, at most k of them")
        if self.optimal and self.fixed:
            raise ValueError("optimal: true chooses every codeword, so fixed ones cannot be given")
        return self

    def uses_seed(self) -> bool:
        return self.init == "kmeans++" and not self.optimal

    def quantize(self, source: Source) -> Quantized:
        line = scalar.line(source)
        if self.optimal:
            start = partition.optimal_codebook(source, line, self.k)
            held = torch.zeros_like(start, dtype=torch.bool)
        else:
            start, held = self._start(source, line)
        codebook, iterations = lloyd(line, start, held, self.iterations)
        if not line.exact and self.iterations:
            # one iteration on the weights themselves: a bin of the sorted weights may stand for the mean of many
            sums = scalar.interval_sums(source.weights, source.h, scalar.midpoints(codebook), line.shift)
            codebook = centroids(sums[1], sums[2], line.shift, codebook, held)
        return scalar.nearest(source, codebook, held, {"iterations": float(iterations)})

    def knob(self, source: Source) -> Knob:
        low = max(2, len(self.fixed) + 1)
        return Knob("k", low, max(low, min(4096, source.n)), "log", integer=True, more_bytes="up")

    def _start(self, source: Source, line: scalar.Line) -> tuple[Tensor, Tensor]:
        """Initial codewords, (k,) float64 ascending, and which of them are held."""
        fixed = torch.tensor(self.fixed, dtype=torch.float32, device=source.device).double()
        free = self.k - fixed.numel()
        previous = None if source.previous is None else source.previous.table
        known = fixed.new_zeros(0)
        if previous is not None and previous.dim() == 1:  # codewords without members were dropped
            known = previous.double().to(source.device)
            known = known[~torch.isin(known.float(), fixed.float())][:free]
        start = torch.cat([fixed, known, _initial(source, line, self.init, free - known.numel())])
        start, order = start.sort(stable=True)
        return start, order < fixed.numel() if self.fixed else torch.zeros_like(start, dtype=torch.bool)


def lloyd(line: scalar.Line, codebook: Tensor, held: Tensor, iterations: int) -> tuple[Tensor, int]:
    """Lloyd's iteration until D stops falling. codebook: (k,) float64 ascending. Returns the last codebook and the
    number of iterations."""
    before, done = float("inf"), 0
    while done < iterations:
        block = min(_BLOCK, iterations - done)
        for _ in range(block):
            codebook, now = step(line, codebook, held)
        done += block
        after = float(now)
        if before - after <= _TOLERANCE * after:
            break
        before = after
    return codebook, done


def step(line: scalar.Line, codebook: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """One iteration: the next codebook, and D of the given one (a scalar on the device). Codewords without members stay
    where they are. The order never changes, since each mean lies in its own cell."""
    positions = line.cut(scalar.midpoints(codebook))
    _, h, hw, hww = line.sums(positions)
    c = codebook - line.shift
    distortion = (hww - 2 * c * hw + c * c * h).sum()
    return torch.where(held, codebook, line.means(positions, h, hw, codebook)), distortion


def centroids(h: Tensor, hw: Tensor, shift: float, codebook: Tensor, held: Tensor) -> Tensor:
    """c_j = sum h w / sum h of each cell; codewords that are held or have no members are unchanged."""
    stay = held | (h <= 0)
    return torch.where(stay, codebook, shift + hw / torch.where(stay, 1.0, h))


def _initial(source: Source, line: scalar.Line, init: str, k: int) -> Tensor:
    low, high = scalar.extremes(source)
    if init == "linear" or k == 0:
        return torch.linspace(low, high, k, dtype=torch.float64, device=source.device)
    if init == "quantile":
        at = (torch.arange(k, dtype=torch.float64) + 0.5) / k * line.n
        place = torch.searchsorted(line.count, at.to(line.count.device), right=True) - 1
        return line.points[place.clamp_max(line.points.numel() - 1)].double()
    return partition.plus_plus(source, line, k)
