"""The shared views of a source: what makes many trials on the same weights cheap.

A scalar quantizer whose cells are intervals needs, of n weights, only sums over intervals. ``line`` gives them: the
source's points in ascending order with prefix sums of count, h, h (w - shift) and h (w - shift)^2, so that an
iteration over k cells costs k binary searches, whatever n is. Below ``EXACT_BELOW`` weights the points are the weights
themselves; above, they are the bins of a fine histogram (each bin the mean of its members). Both are computed once per
source through ``Source.view``.

``assign`` and ``symbol_sums`` are the passes over all weights. On the CPU they are compiled loops over fixed chunks in
threads; on other devices, torch operations without a copy to the host. Both give the same symbols, bit for bit; sums
agree to rounding. Neither depends on the number of threads or on the order of atomic additions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nqbench.api.chunks import CHUNK, in_chunks
from nqbench.api.source import Source

EXACT_BELOW = 10_000_000
"""From this many weights on, ``line`` is a histogram."""
HALF_BINS = 1 << 16
"""The histogram's bins: this many of equal width, cut again at this many sample quantiles."""
_FEW = 1 << 12  # weights below which loading the compiled loop takes longer than the work
_ROWS = 1 << 12
_force_torch = False

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Line:
    """A source in ascending order. points: (m,) float32 weights (``exact``) or float64 bin means. count, h, hw, hww:
    (m + 1,) float64 prefix sums over the points of 1, h, h (w - shift), h (w - shift)^2; h is count where the source
    is not weighted. shift: see ``offset``."""

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
        if on_torch(at):
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


def line(source: Source) -> Line:
    """The source's ``Line``, weighted by its diagonal sensitivity where it has one; computed once."""
    return source.view(("line", source.h is not None, EXACT_BELOW), _line)


def _line(source: Source) -> Line:
    return _sorted_line(source) if source.n < EXACT_BELOW else _histogram(source)


def extremes(source: Source) -> tuple[float, float]:
    """Smallest and largest weight; computed once."""
    return source.view("summary", _summary)[:2]


def moments(source: Source) -> tuple[float, float]:
    """Unweighted mean and standard deviation; computed once, in float64, chunk by chunk."""
    return source.view("summary", _summary)[2:]


def offset(source: Source) -> float:
    """What is taken off the weights before they are squared and summed: their mean where it is large beside their
    spread, so that sums do not cancel; else 0, so that a cell of zeros has a mean of exactly 0."""
    mean, deviation = moments(source)
    return mean if abs(mean) > 4 * deviation else 0.0


def _summary(source: Source) -> tuple[float, float, float, float]:
    """Smallest, largest, mean, standard deviation."""
    parts: list[tuple[float, float, float, float]]
    if on_torch(source.weights):
        parts = [_part_summary(part) for part in torch.split(source.weights, CHUNK)]
    else:
        from nqbench.api import views_kernels as kernels

        w = source.weights.numpy()
        parts = in_chunks(w.size, lambda at: kernels.summary(w[at]))
    sizes = [min(CHUNK, source.n - CHUNK * i) for i in range(len(parts))]
    mean = math.fsum(size * part[2] for size, part in zip(sizes, parts, strict=True)) / source.n
    # the squares about the whole mean, from those about each part's [Chan, Golub, LeVeque 1983]
    squares = math.fsum(part[3] + size * (part[2] - mean) ** 2 for size, part in zip(sizes, parts, strict=True))
    low, high = min(part[0] for part in parts), max(part[1] for part in parts)
    return low, high, mean, math.sqrt(squares / source.n)


def _part_summary(part: Tensor) -> tuple[float, float, float, float]:
    w = part.double()
    mean = w.mean()
    return float(w.min()), float(w.max()), float(mean), float((w - mean).square().sum())


def floor32(x: Tensor) -> Tensor:
    """float64 -> the largest float32 that is not above: for float32 w, w <= x and w <= floor32(x) say the same."""
    f = x.to(torch.float32)
    return torch.where(f.double() > x, torch.nextafter(f, torch.full_like(f, -torch.inf)), f)


def midpoints(codebook: Tensor) -> Tensor:
    """(k - 1,) float64: the edges of the nearest-codeword cells of an ascending codebook; a tie goes down."""
    c = codebook.double()
    return (c[1:] + c[:-1]) / 2


def assign(weights: Tensor, edges: Tensor) -> Tensor:
    """(n,) int32: how many of (k - 1,) ascending float64 edges lie below each float32 weight."""
    cuts = floor32(edges).to(weights.device)
    if on_torch(weights) or weights.numel() < _FEW:
        return torch.bucketize(weights, cuts, out_int32=True)
    from nqbench.api import views_kernels as kernels

    table = lookup(cuts.numpy())
    w, out = weights.numpy(), np.empty(weights.numel(), dtype=np.int32)
    in_chunks(w.size, lambda at: kernels.assign(w[at], *table, out[at]))
    return torch.from_numpy(out)


def assign_and_sum(weights: Tensor, h: Tensor | None, edges: Tensor, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """``assign`` and the ``symbol_sums`` of what it gives, in one pass."""
    if on_torch(weights):
        symbols = assign(weights, edges)
        return symbols, symbol_sums(weights, h, symbols, edges.numel() + 1, shift)
    from nqbench.api import views_kernels as kernels

    cuts, low, scale, lut = lookup(floor32(edges).numpy())
    w, g, out = weights.numpy(), _optional(h), np.empty(weights.numel(), dtype=np.int32)

    def part(at: slice) -> Array:
        sums = np.zeros((cuts.size + 1, 4))
        kernels.assign_and_sum(w[at], g[at], cuts, low, scale, lut, shift, out[at], sums)
        return sums

    return torch.from_numpy(out), _added(in_chunks(w.size, part, _chunk_for(w.size, cuts.size + 1)))


def interval_sums(source: Source, edges: Tensor, shift: float) -> Tensor:
    """``symbol_sums`` of what ``assign`` would give, without the symbols."""
    if on_torch(source.weights):
        return _torch_interval_sums(source, floor32(edges), shift)
    from nqbench.api import views_kernels as kernels

    cuts, low, scale, lut = lookup(floor32(edges).numpy())
    w, h = source.weights.numpy(), _optional(source.h)

    def part(at: slice) -> Array:
        sums = np.zeros((cuts.size + 1, 4))
        kernels.interval_sums(w[at], h[at], cuts, low, scale, lut, shift, sums)
        return sums

    return _added(in_chunks(w.size, part, _chunk_for(w.size, cuts.size + 1)))


def symbol_sums(weights: Tensor, h: Tensor | None, symbols: Tensor, k: int, shift: float = 0.0) -> Tensor:
    """(4, k) float64: count, sum h, sum h (w - shift), sum h (w - shift)^2 over the members of each symbol."""
    if on_torch(weights):
        return _torch_symbol_sums(weights, h, symbols, k, shift)
    from nqbench.api import views_kernels as kernels

    w, g, s = weights.numpy(), _optional(h), symbols.numpy()

    def part(at: slice) -> Array:
        sums = np.zeros((k, 4))
        kernels.symbol_sums(w[at], g[at], s[at], shift, sums)
        return sums

    return _added(in_chunks(w.size, part, _chunk_for(w.size, k)))


def on_torch(tensor: Tensor) -> bool:
    """Whether to work with torch operations: on every device but the CPU."""
    return _force_torch or tensor.device.type != "cpu"


@contextlib.contextmanager
def torch_everywhere() -> Iterator[None]:
    """Take the torch path on the CPU too: for tests of the path that other devices take."""
    global _force_torch
    before, _force_torch = _force_torch, True
    try:
        yield
    finally:
        _force_torch = before


def _chunk_for(n: int, rows: int) -> int:
    """Chunks for work that keeps (rows, 4) float64 sums a chunk: fewer of them where the sums are large. A function of
    its arguments alone, so that sums do not depend on the number of threads."""
    return CHUNK if rows <= 4096 else max(CHUNK, -(-n // 4))


def _added(parts: list[Array]) -> Tensor:
    """(4, k) sums of the chunks' (k, 4), in their order."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return torch.from_numpy(np.ascontiguousarray(total.T))


def _optional(h: Tensor | None) -> Array:
    return np.empty(0, dtype=np.float32) if h is None else h.numpy()


def lookup(edges: Array) -> tuple[Array, float, float, Array]:
    """``views_kernels.assign``'s arguments for ascending float32 edges: a uniform grid from first to last edge."""
    from nqbench.api import views_kernels as kernels

    size = 1 << int(np.clip(np.ceil(np.log2(edges.size + 1)) + 6, 12, 19))
    low, high = (float(edges[0]), float(edges[-1])) if edges.size else (0.0, 0.0)
    scale = size / (high - low) if high > low else 0.0
    lut = np.zeros(size + 1, dtype=np.int32)
    kernels.lookup_start(edges, low, scale if np.isfinite(scale) else 0.0, lut)
    return edges, low, scale if np.isfinite(scale) else 0.0, lut


def _sorted_line(source: Source) -> Line:
    h = source.h
    if not on_torch(source.weights) and h is None:
        points = torch.from_numpy(np.sort(source.weights.numpy()))
    elif not on_torch(source.weights):
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


def prefix(values: Tensor) -> Tensor:
    """(m + 1,) float64 running sums from 0. Rows are scanned apart, since one long scan on a GPU is not repeatable."""
    if values.device.type == "cpu":
        rows = values.cumsum(0)
    else:
        m = values.numel()
        pad = torch.nn.functional.pad(values, (0, -m % _ROWS)).reshape(-1, _ROWS)
        inner = pad.cumsum(1)
        before = prefix(inner[:, -1])[:-1] if inner.shape[0] > 1 else inner.new_zeros(1)
        rows = (inner + before[:, None]).reshape(-1)[:m]
    return torch.cat([rows.new_zeros(1), rows])


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
    sums = _sorted_sums(source, edges, shift) if source.h is None else interval_sums(source, edges.double(), shift)
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
    if on_torch(source.weights):
        return _torch_interval_sums(source, edges, shift)
    from nqbench.api import views_kernels as kernels

    points = np.sort(source.weights.numpy())
    cuts = np.concatenate([[0], np.searchsorted(points, edges.numpy(), side="right"), [points.size]])
    out = np.empty((cuts.size - 1, 4))
    in_chunks(out.shape[0], lambda at: kernels.segment_sums(points, cuts[at.start : at.stop + 1], shift, out[at]), 4096)
    return torch.from_numpy(np.ascontiguousarray(out.T))


def _torch_interval_sums(source: Source, edges: Tensor, shift: float) -> Tensor:
    points, index = source.weights.sort(stable=True)
    at = torch.searchsorted(points, edges.to(points.device), right=True)
    ends = torch.tensor([0, source.n], device=at.device)
    cuts = torch.cat([ends[:1], at, ends[1:]])
    h = None if source.h is None else source.h[index]
    del index
    return _segment_sums(points, h, cuts, shift)


def _torch_symbol_sums(weights: Tensor, h: Tensor | None, symbols: Tensor, k: int, shift: float) -> Tensor:
    """Members brought together by a stable sort, then differences of running sums: the same on every run."""
    ordered, index = symbols.sort(stable=True)
    cuts = torch.searchsorted(ordered, torch.arange(k + 1, dtype=ordered.dtype, device=ordered.device))
    del ordered
    return _segment_sums(weights[index], None if h is None else h[index], cuts, shift)


def _segment_sums(weights: Tensor, h: Tensor | None, cuts: Tensor, shift: float) -> Tensor:
    """(4, k) float64 sums over the segments [cuts_j, cuts_j+1) of weights in that order."""
    count = torch.diff(cuts).double()
    x = weights.double() - shift
    g = None if h is None else h.double()
    total_h = count if g is None else torch.diff(prefix(g)[cuts])
    x = x if g is None else x * g
    hw = torch.diff(prefix(x)[cuts])
    x = x * (weights.double() - shift)
    return torch.stack([count, total_h, hw, torch.diff(prefix(x)[cuts])])
