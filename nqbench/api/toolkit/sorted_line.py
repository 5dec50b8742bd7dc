"""A source in ascending order with prefix sums, which makes many trials on the same weights fast.

A scalar quantizer whose cells are intervals needs, of n weights, only sums over intervals. ``line`` gives them: the
source's points in ascending order with prefix sums of count, h, h (w - shift) and h (w - shift)^2, so that an
iteration over k cells costs k binary searches, whatever n is. Below ``EXACT_BELOW`` weights the points are the weights
themselves; above, they are the bins of a fine histogram (each bin the mean of its members). Both are computed once per
source through ``Source.view``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nqbench.api import chunks
from nqbench.api.chunks import CHUNK, in_chunks
from nqbench.api.source import Source
from nqbench.api.toolkit.passes import floor32, interval_sums, prefix, segment_sums

EXACT_BELOW = 10_000_000
"""From this many weights on, ``line`` is a histogram."""
HALF_BINS = 1 << 16
"""The histogram's bins: this many of equal width, cut again at this many sample quantiles."""


@dataclass(frozen=True, eq=False)
class Line:
    """A source in ascending order, with prefix sums.

    Args:
        points: (m,) float32 weights (``exact``), or float64 means of the bins of a histogram.
        count: (m + 1,) float64 prefix sums of the number of weights.
        h: (m + 1,) of their sensitivities; ``count`` itself where the source has none.
        hw: (m + 1,) of h (w - shift).
        hww: (m + 1,) of h (w - shift)^2.
        shift: see ``offset``.
        exact: whether the points are the weights themselves.

    Example:
        >>> made = line(Source(torch.tensor([3.0, 1.0, 2.0])))
        >>> positions = made.cut(torch.tensor([1.5], dtype=torch.float64))
        >>> made.points.tolist(), positions.tolist(), made.sums(positions)[0].tolist()
        ([1.0, 2.0, 3.0], [0, 1, 3], [1.0, 2.0])
    """

    points: Tensor
    count: Tensor
    h: Tensor
    hw: Tensor
    hww: Tensor
    shift: float
    exact: bool

    @property
    def n(self) -> float:
        return float(self.count[-1])

    def cut(self, edges: Tensor) -> Tensor:
        """(k + 1,) int64 positions 0 ... m at which (k - 1,) ascending float64 edges part the points: w <= edge is
        below, as ``assign`` has it."""
        at = edges if self.points.dtype == torch.float64 else floor32(edges)
        if chunks.on_torch(at):
            inner = torch.searchsorted(self.points, at, right=True)
        else:
            inner = torch.from_numpy(np.searchsorted(self.points.numpy(), at.numpy(), side="right"))
        ends = torch.tensor([0, self.points.numel()], device=inner.device)
        return torch.cat([ends[:1], inner, ends[1:]])

    def sums(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """count, h, hw, hww of the k cells between (k + 1,) positions, each (k,) float64."""
        count = torch.diff(self.count[positions])
        h = count if self.h is self.count else torch.diff(self.h[positions])
        return count, h, torch.diff(self.hw[positions]), torch.diff(self.hww[positions])

    def means(self, positions: Tensor, h: Tensor, hw: Tensor, otherwise: Tensor | None = None) -> Tensor:
        """(k,) float64 shift + hw / h of the cells between positions, each among its own points however the sums were
        rounded: beside one huge weight, differences of running sums say little of small ones. ``otherwise``: what an
        empty cell has; None: any number."""
        last = self.points.numel() - 1
        low = self.points[positions[:-1].clamp_max(last)].double()
        high = self.points[(positions[1:] - 1).clamp_min(0)].double()
        weighed = h > 0
        mean = torch.where(weighed, self.shift + hw / torch.where(weighed, h, 1.0), (low + high) / 2)
        mean = torch.minimum(torch.maximum(mean, low), high)
        return mean if otherwise is None else torch.where(positions[1:] > positions[:-1], mean, otherwise)


def line(source: Source) -> Line:
    """The ``Line`` of a source, weighted by its diagonal sensitivity if it has one. Computed once per source.

    Args:
        source: the weights.

    Returns:
        The line, shared by all trials on these weights.

    Example:
        >>> line(Source(torch.tensor([3.0, 1.0]))).n
        2.0
    """
    return source.view(("line", source.h is not None, EXACT_BELOW), _line)


def _line(source: Source) -> Line:
    return _sorted_line(source) if source.n < EXACT_BELOW else _histogram(source)


def extremes(source: Source) -> tuple[float, float]:
    """The smallest and the largest weight. Computed once per source.

    Args:
        source: the weights.

    Returns:
        Both, as floats.

    Example:
        >>> extremes(Source(torch.tensor([3.0, -1.0])))
        (-1.0, 3.0)
    """
    return source.view("summary", _summary)[:2]


def moments(source: Source) -> tuple[float, float]:
    """Mean and standard deviation of the weights, without sensitivities. Computed once per source, in float64.

    Args:
        source: the weights.

    Returns:
        Mean and standard deviation.

    Example:
        >>> moments(Source(torch.tensor([3.0, -1.0])))
        (1.0, 2.0)
    """
    return source.view("summary", _summary)[2:]


def offset(source: Source) -> float:
    """The shift of a source's sums: its mean if that is large compared to the standard deviation, so that sums of
    squares do not cancel; else 0, so that a cell of zeros has a mean of exactly 0.

    Args:
        source: the weights.

    Returns:
        The shift.

    Example:
        >>> offset(Source(torch.tensor([3.0, -1.0]))), offset(Source(torch.tensor([100.0, 101.0])))
        (0.0, 100.5)
    """
    mean, deviation = moments(source)
    return mean if abs(mean) > 4 * deviation else 0.0


def _summary(source: Source) -> tuple[float, float, float, float]:
    """Smallest, largest, mean, standard deviation."""
    parts: list[tuple[float, float, float, float]]
    if chunks.on_torch(source.weights):
        parts = [_part_summary(part) for part in torch.split(source.weights, CHUNK)]
    else:
        from nqbench.api.toolkit import passes_kernels as kernels

        w = source.weights.numpy()
        parts = in_chunks(w.size, lambda at: kernels.summary(w[at]))
    sizes = [min(CHUNK, source.n - CHUNK * i) for i in range(len(parts))]
    mean = math.fsum(size * part[2] for size, part in zip(sizes, parts, strict=True)) / source.n
    # the squares about the whole mean, from those about each part's [Chan, Golub, LeVeque 1983]
    squares = math.fsum(part[3] + size * (part[2] - mean) ** 2 for size, part in zip(sizes, parts, strict=True))
    low, high = min(part[0] for part in parts), max(part[1] for part in parts)
    if low == high:  # the sum of n equal numbers need not be n times one of them
        return low, high, low, 0.0
    return low, high, mean, math.sqrt(squares / source.n)


def _part_summary(part: Tensor) -> tuple[float, float, float, float]:
    w = part.double()
    mean = w.mean()
    return float(w.min()), float(w.max()), float(mean), float((w - mean).square().sum())


def _sorted_line(source: Source) -> Line:
    h = source.h
    if not chunks.on_torch(source.weights) and h is None:
        points = torch.from_numpy(np.sort(source.weights.numpy()))
    elif not chunks.on_torch(source.weights):
        order = np.argsort(source.weights.numpy(), kind="stable")
        points, h = source.weights[order], source.h[order]  # type: ignore[index]
    else:
        points, index = source.weights.sort(stable=True)
        h = None if h is None else h[index]
    shift = offset(source)
    x = points.double() - shift
    g = None if h is None else h.double()
    count = torch.arange(points.numel() + 1, dtype=torch.float64, device=points.device)
    return Line(
        points,
        count,
        count if g is None else prefix(g),
        prefix(x if g is None else g * x),
        prefix(x * x if g is None else g * x * x),
        shift,
        exact=True,
    )


def _histogram(source: Source) -> Line:
    """Bins of equal width (for the bulk's shape) cut at sample quantiles (for sources of narrow peaks or far outliers):
    no bin is wider than the range / 2^16 nor holds much more than n / 2^16 weights of different values."""
    low, high = extremes(source)
    stride = max(1, source.n >> 20)
    sample = np.sort(source.weights[::stride].cpu().numpy())
    quantiles = sample[:: max(1, sample.size // HALF_BINS)]
    even = np.linspace(low, high, HALF_BINS + 1)[1:].astype(np.float32)
    # the last bin is open: it ends at `high`
    edges = torch.from_numpy(np.unique(np.concatenate([even, quantiles]).clip(max=high))[:-1])
    shift = offset(source)
    sums = (
        _sorted_sums(source, edges, shift)
        if source.h is None
        else interval_sums(source.weights, source.h, edges.double(), shift)
    )
    count, h, hw, hww = sums[:, sums[0] > 0]
    total = prefix(count)
    return Line(
        shift + hw / h,
        total,
        total if source.h is None else prefix(h),
        prefix(hw),
        prefix(hww),
        shift,
        exact=False,
    )


def _sorted_sums(source: Source, edges: Tensor, shift: float) -> Tensor:
    """``interval_sums`` without a sensitivity for very many float32 edges: sorting first is quicker than sums at random
    places."""
    if chunks.on_torch(source.weights):
        return segment_sums(source.weights, source.h, edges, shift)
    from nqbench.api.toolkit import passes_kernels as kernels

    points = np.sort(source.weights.numpy())
    cuts = np.concatenate([[0], np.searchsorted(points, edges.numpy(), side="right"), [points.size]])
    out = np.empty((cuts.size - 1, 4))
    in_chunks(out.shape[0], lambda at: kernels.segment_sums(points, cuts[at.start : at.stop + 1], shift, out[at]), 4096)
    return torch.from_numpy(np.ascontiguousarray(out.T))
