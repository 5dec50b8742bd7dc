"""Optimal partitions of the sorted weights into intervals, computed on a histogram of them: for k-means++ starts and
for the optimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nqbench.api import Source, scalar

BINS = 4096
"""Bins of the histogram; up to this many distinct values have a bin each."""
_FINE = 8192


@dataclass(frozen=True, eq=False)
class Coarse:
    """A histogram: consecutive bins of the sorted weights, none empty, on the CPU. count, h, hw, hww: (B,) float64 sums
    as in ``scalar.Line``. edges: (B - 1,) float64, the largest point of each bin but the last. exact: each bin is one
    distinct value."""

    count: np.ndarray
    h: np.ndarray
    hw: np.ndarray
    hww: np.ndarray
    edges: np.ndarray
    shift: float
    exact: bool


def coarse(source: Source, line: scalar.Line, bins: int = BINS) -> Coarse:
    """The source's histogram: a bin for each distinct value if there are at most ``bins`` of them, else companded bins,
    whose density is proportional to the cube root of the source's, like that of the best quantizer's codewords (Panter
    and Dite 1951)."""
    return source.view(("coarse", source.h is not None, bins), lambda _: _coarse(line, bins))


def _coarse(line: scalar.Line, bins: int) -> Coarse:
    points = line.points
    values = torch.unique_consecutive(points) if line.exact else points
    exact = line.exact and values.numel() <= bins
    edges = values[:-1].double() if values.numel() <= bins else _edges(line, values, bins)
    positions = torch.unique_consecutive(line.cut(edges))
    edges = points[positions[1:-1] - 1].double()
    count, h, hw, hww = (s.cpu().numpy() for s in line.sums(positions))
    return Coarse(count, h, hw, hww, edges.cpu().numpy(), line.shift, exact)


def _edges(line: scalar.Line, values: Tensor, bins: int) -> Tensor:
    """Ascending inner edges, (<= bins - 1,) float64: three quarters of the bins are companded, the others hold one of
    the outermost values each. There, codewords have only one or two members, and the density does not tell which."""
    alone = bins // 8
    edges = torch.cat([values[:alone].double(), _companded(line, bins - 2 * alone), values[-alone - 1 : -1].double()])
    distinct: Tensor = torch.unique(edges)
    return distinct


def _companded(line: scalar.Line, bins: int) -> Tensor:
    """(bins - 1,) float64 ascending edges on the line's device, equally spaced in the integral of density^(1/3)."""
    points, m = line.points, line.points.numel()
    low, high = float(points[0]), float(points[-1])
    even = torch.linspace(low, high, _FINE + 1, dtype=torch.float64, device=points.device)[1:-1]
    ranks = torch.arange(1, _FINE, dtype=torch.float64, device=points.device) * (line.n / _FINE)
    quantiles = points[(torch.searchsorted(line.count, ranks) - 1).clamp(0, m - 1)].double()
    marks = torch.unique(torch.cat([even, quantiles]))
    _, h, _, _ = line.sums(line.cut(marks))
    ends = torch.cat([marks.new_tensor([low]), marks, marks.new_tensor([high])])
    rise = h.pow(1 / 3) * torch.diff(ends).clamp_min(0).pow(2 / 3)
    total = scalar.prefix(rise).cpu().numpy()
    at = np.linspace(0, total[-1], bins + 1)[1:-1]
    return torch.from_numpy(np.interp(at, total, ends.cpu().numpy())).to(points.device)


def optimal_codebook(source: Source, line: scalar.Line, k: int) -> Tensor:
    """(<= k,) float64 ascending codewords of the best partition of the histogram into at most k intervals."""
    from nqbench_quantizers import kernels

    view = coarse(source, line, max(BINS, min(16 * k, 1 << 16)))
    k = min(k, view.h.size)
    starts = kernels.best_intervals(_prefix(view.h), _prefix(view.hw), _prefix(view.hww), k)
    h, hw = np.add.reduceat(view.h, starts), np.add.reduceat(view.hw, starts)
    return torch.from_numpy(view.shift + hw / h).to(line.points.device)


def entropy_constrained_edges(source: Source, line: scalar.Line, lam: float, bins: int) -> tuple[Tensor, float]:
    """The partition of the histogram into intervals with the least J = D + lam H: their inner edges, (k - 1,) float64,
    and J."""
    from nqbench_quantizers import kernels

    view = coarse(source, line, bins)
    count, hw, hww = _prefix(view.count), _prefix(view.hw), _prefix(view.hww)
    starts, total = kernels.entropy_constrained_intervals(count, hw, hww, lam)
    return torch.from_numpy(view.edges[starts[1:] - 1]).to(line.points.device), total / line.n


def plus_plus(source: Source, line: scalar.Line, k: int) -> Tensor:
    """k-means++ [Arthur and Vassilvitskii 2007] on the histogram: each next codeword is drawn with probability
    proportional to h d^2, d the distance to the nearest one so far. (k,) float64; codewords repeat if there are fewer
    bins."""
    view = coarse(source, line, 1 << 14)
    values, h = view.shift + view.hw / view.h, view.h
    draws = torch.rand(k, generator=source.generator(), dtype=torch.float64).numpy()
    chosen = np.empty(k)
    distance, weight = np.full(h.size, np.inf), h
    for j in range(k):
        total = np.cumsum(weight)
        chosen[j] = values[min(np.searchsorted(total, draws[j] * total[-1], side="right"), h.size - 1)]
        distance = np.minimum(distance, (values - chosen[j]) ** 2)
        weight = h * distance
        if not weight.any():
            chosen[j + 1 :] = chosen[0]
            break
    return torch.from_numpy(np.sort(chosen)).to(line.points.device)


def _prefix(x: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(x)])
