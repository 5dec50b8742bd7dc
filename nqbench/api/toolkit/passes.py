"""Passes over all weights, for quantizers whose cells are intervals: assignment, and sums over the members of a cell.

On the CPU they are compiled loops over fixed chunks in threads; on other devices, torch operations without a copy to
the host. Both give the same symbols, bit for bit; sums agree to rounding. Neither depends on the number of threads or
on the order of atomic additions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nqbench.api import chunks
from nqbench.api.chunks import CHUNK, in_chunks

_FEW = 1 << 12  # weights below which loading the compiled loop takes longer than the work
_ROWS = 1 << 12

Array = np.ndarray[Any, Any]


def floor32(x: Tensor) -> Tensor:
    """Round down to float32: for every float32 number w, w <= x if and only if w <= floor32(x).

    Args:
        x: float64.

    Returns:
        float32 of the same shape, the largest numbers that are not above x.

    Example:
        >>> bool(floor32(torch.tensor(0.1, dtype=torch.float64)) <= 0.1)
        True
    """
    f = x.to(torch.float32)
    return torch.where(f.double() > x, torch.nextafter(f, torch.full_like(f, -torch.inf)), f)


def midpoints(codebook: Tensor) -> Tensor:
    """The edges between the cells of weights that are nearest to each codeword.

    Args:
        codebook: (k,) ascending.

    Returns:
        (k - 1,) float64.

    Example:
        >>> midpoints(torch.tensor([0.0, 1.0, 4.0])).tolist()
        [0.5, 2.5]
    """
    c = codebook.double()
    return (c[1:] + c[:-1]) / 2


def assign(weights: Tensor, edges: Tensor) -> Tensor:
    """Assign weights to the cells between edges. A weight equal to an edge belongs to the cell below.

    Args:
        weights: (n,) float32.
        edges: (k - 1,) float64, ascending.

    Returns:
        (n,) int32 in [0, k): the number of edges below each weight.

    Example:
        >>> assign(torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.5, 1.0], dtype=torch.float64)).tolist()
        [0, 0, 2]
    """
    cuts = floor32(edges).to(weights.device)
    if chunks.on_torch(weights) or weights.numel() < _FEW:
        return torch.bucketize(weights, cuts, out_int32=True)
    from nqbench.api.toolkit import passes_kernels as kernels

    table = edge_table(cuts.numpy())
    w, out = weights.numpy(), np.empty(weights.numel(), dtype=np.int32)
    in_chunks(w.size, lambda at: kernels.assign(w[at], *table, out[at]))
    return torch.from_numpy(out)


def assign_and_sum(weights: Tensor, h: Tensor | None, edges: Tensor, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """``assign``, and the ``symbol_sums`` of its result, in one pass over the weights.

    Args:
        weights: (n,) float32.
        h: (n,) float32 sensitivities; None: all 1.
        edges: (k - 1,) float64, ascending.
        shift: subtracted from the weights before they are summed.

    Returns:
        (n,) int32 symbols, and (4, k) float64 sums.

    Example:
        >>> symbols, sums = assign_and_sum(torch.tensor([0.0, 2.0]), None, torch.tensor([1.0], dtype=torch.float64))
        >>> symbols.tolist(), sums[0].tolist()
        ([0, 1], [1.0, 1.0])
    """
    if chunks.on_torch(weights):
        symbols = assign(weights, edges)
        return symbols, symbol_sums(weights, h, symbols, edges.numel() + 1, shift)
    from nqbench.api.toolkit import passes_kernels as kernels

    cuts, low, scale, lut = edge_table(floor32(edges).numpy())
    w, g, out = weights.numpy(), _optional(h), np.empty(weights.numel(), dtype=np.int32)

    def part(at: slice) -> Array:
        sums = np.zeros((cuts.size + 1, 4))
        kernels.assign_and_sum(w[at], g[at], cuts, low, scale, lut, shift, out[at], sums)
        return sums

    return torch.from_numpy(out), _added(in_chunks(w.size, part, _chunk_for(w.size, cuts.size + 1)))


def interval_sums(weights: Tensor, h: Tensor | None, edges: Tensor, shift: float) -> Tensor:
    """The ``symbol_sums`` of the result of ``assign``, without making the symbols.

    Args:
        weights: (n,) float32.
        h: (n,) float32 sensitivities; None: all 1.
        edges: (k - 1,) float64, ascending.
        shift: subtracted from the weights before they are summed.

    Returns:
        (4, k) float64 sums.

    Example:
        >>> interval_sums(torch.tensor([0.0, 2.0, 3.0]), None, torch.ones(1).double(), 0.0)[2].tolist()
        [0.0, 5.0]
    """
    if chunks.on_torch(weights):
        return segment_sums(weights, h, floor32(edges), shift)
    from nqbench.api.toolkit import passes_kernels as kernels

    cuts, low, scale, lut = edge_table(floor32(edges).numpy())
    w, g = weights.numpy(), _optional(h)

    def part(at: slice) -> Array:
        sums = np.zeros((cuts.size + 1, 4))
        kernels.interval_sums(w[at], g[at], cuts, low, scale, lut, shift, sums)
        return sums

    return _added(in_chunks(w.size, part, _chunk_for(w.size, cuts.size + 1)))


def symbol_sums(weights: Tensor, h: Tensor | None, symbols: Tensor, k: int, shift: float = 0.0) -> Tensor:
    """Sums over the weights of each symbol.

    Args:
        weights: (n,) float32.
        h: (n,) float32 sensitivities; None: all 1.
        symbols: (n,) int32 in [0, k).
        k: number of symbols.
        shift: subtracted from the weights before they are summed.

    Returns:
        (4, k) float64: the count, and the sums of h, h (w - shift) and h (w - shift)^2.

    Example:
        >>> symbol_sums(torch.tensor([1.0, 2.0, 3.0]), None, torch.tensor([1, 0, 1], dtype=torch.int32), 2).tolist()
        [[1.0, 2.0], [1.0, 2.0], [2.0, 4.0], [4.0, 10.0]]
    """
    if chunks.on_torch(weights):
        return _torch_symbol_sums(weights, h, symbols, k, shift)
    from nqbench.api.toolkit import passes_kernels as kernels

    w, g, s = weights.numpy(), _optional(h), symbols.numpy()

    def part(at: slice) -> Array:
        sums = np.zeros((k, 4))
        kernels.symbol_sums(w[at], g[at], s[at], shift, sums)
        return sums

    return _added(in_chunks(w.size, part, _chunk_for(w.size, k)))


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


def edge_table(edges: Array) -> tuple[Array, float, float, Array]:
    """The arguments of the compiled ``assign`` for edges: a uniform grid from the first to the last edge, in which a
    weight finds its cell in constant time.

    Args:
        edges: (k - 1,) float32, ascending.

    Returns:
        The edges, the grid's start and its steps per unit, and (size + 1,) int32: the first edge at each step.

    Example:
        >>> import numpy as np
        >>> _, low, scale, first = edge_table(np.float32([0.0, 2.0]))
        >>> low, scale * 2.0 + 1 == first.size
        (0.0, True)
    """
    from nqbench.api.toolkit import passes_kernels as kernels

    size = 1 << int(np.clip(np.ceil(np.log2(edges.size + 1)) + 6, 12, 19))
    low, high = (float(edges[0]), float(edges[-1])) if edges.size else (0.0, 0.0)
    scale = size / (high - low) if high > low else 0.0
    lut = np.zeros(size + 1, dtype=np.int32)
    kernels.lookup_start(edges, low, scale if np.isfinite(scale) else 0.0, lut)
    return edges, low, scale if np.isfinite(scale) else 0.0, lut


def prefix(values: Tensor) -> Tensor:
    """Running sums. On a GPU, rows are summed separately, since a single long scan is not repeatable there.

    Args:
        values: (m,) float64.

    Returns:
        (m + 1,) float64, beginning with 0.

    Example:
        >>> prefix(torch.tensor([1.0, 2.0])).tolist()
        [0.0, 1.0, 3.0]
    """
    if values.device.type == "cpu":
        rows = values.cumsum(0)
    else:
        m = values.numel()
        pad = torch.nn.functional.pad(values, (0, -m % _ROWS)).reshape(-1, _ROWS)
        inner = pad.cumsum(1)
        before = prefix(inner[:, -1])[:-1] if inner.shape[0] > 1 else inner.new_zeros(1)
        rows = (inner + before[:, None]).reshape(-1)[:m]
    return torch.cat([rows.new_zeros(1), rows])


def segment_sums(weights: Tensor, h: Tensor | None, cuts: Tensor, shift: float) -> Tensor:
    """``interval_sums`` for (k - 1,) ascending float32 edges, by a sort: any device, repeatable."""
    points, index = weights.sort(stable=True)
    at = torch.searchsorted(points, cuts.to(points.device), right=True)
    ends = torch.tensor([0, weights.numel()], device=at.device)
    places = torch.cat([ends[:1], at, ends[1:]])
    ordered = None if h is None else h[index]
    del index
    return _segment_sums(points, ordered, places, shift)


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
