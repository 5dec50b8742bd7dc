"""One iteration of entropy-constrained scalar quantization, weighted and unweighted; see ``ecsq`` for the formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nqbench.api import chunks, scalar
from nqbench.api.chunks import in_chunks

Array = np.ndarray[Any, Any]
_ELEMENTS = 1 << 25  # of a (weights, codewords) block of costs, computed at a time


@dataclass(frozen=True, eq=False)
class Code:
    """The state of the iteration. codebook: (k,) float64 ascending. counts: (k,) float64, members of each codeword (0:
    not in use). j: n times the J of the last iteration; a scalar on the device."""

    codebook: Tensor
    counts: Tensor
    j: Tensor

    def price(self, lam: float) -> Tensor:
        """(k,) float64: -lambda log2 p_j, infinite for a codeword without members."""
        return lam * (torch.log2(self.counts.sum()) - torch.log2(self.counts))


def step(line: scalar.Line, code: Code, lam: float) -> Code:
    """Unweighted: the cells by the lower envelope, their means and counts. Codewords without members stay in the
    codebook with a count of 0, so that no shape depends on the data."""
    positions = line.cut(edges(code.codebook, code.price(lam)))
    count, h, hw, hww = line.sums(positions)
    return Code(line.means(positions, h, hw, code.codebook), count, _objective(count, h, hw, hww, lam))


def weighted_step(weights: Tensor, h: Tensor, code: Code, lam: float, shift: float) -> Code:
    """Weighted: each weight is assigned to its own argmin; then means and counts. shift: ``scalar.offset`` of the
    source."""
    count, total, hw, hww = assign_and_sum(weights, h, code.codebook, code.price(lam), shift)
    return Code(_means(total, hw, shift, code.codebook), count, _objective(count, total, hw, hww, lam))


def _means(h: Tensor, hw: Tensor, shift: float, codebook: Tensor) -> Tensor:
    return torch.where(h > 0, shift + hw / torch.where(h > 0, h, 1.0), codebook)


def _objective(count: Tensor, h: Tensor, hw: Tensor, hww: Tensor, lam: float) -> Tensor:
    """n J = sum within-cell h (w - c)^2 + lambda sum n_j log2(n / n_j), c the cell's mean."""
    within = (hww - hw * hw / torch.where(h > 0, h, 1.0)).clamp_min(0).sum()
    bits = torch.special.xlogy(count, count.sum()).sum() - torch.special.xlogy(count, count).sum()
    total: Tensor = within + lam * bits / math.log(2)
    return total


def edges(codebook: Tensor, price: Tensor) -> Tensor:
    """(k - 1,) float64 ascending edges of the cells of argmin_j (w - c_j)^2 + price_j. codebook: (k,) ascending, all
    different. A codeword that is the best for no w has an empty cell: its two edges are equal."""
    if chunks.on_torch(codebook):
        return _torch_edges(codebook, price)
    from nqbench_quantizers import kernels

    out = np.empty(codebook.numel() - 1)
    kernels.envelope(codebook.numpy(), price.numpy(), out)
    return torch.from_numpy(out)


def _torch_edges(codebook: Tensor, price: Tensor) -> Tensor:
    """Cell j begins where it has crossed the line of every i < j, and is non-empty if that is before any i > j crosses
    it. All pairs are computed as a matrix, so that nothing waits for the device."""
    k = codebook.numel()
    lower, upper = torch.empty_like(codebook), torch.empty_like(codebook)
    index = torch.arange(k, device=codebook.device)
    rows = max(1, _ELEMENTS // k)
    for start in range(0, k, rows):
        j = index[start : start + rows, None]
        gap = codebook[j] - codebook
        # w at which both cost the same: (c_i + c_j)/2 + (price_j - price_i) / (2 (c_j - c_i))
        rise = torch.where(price[j].isinf() & price.isinf(), 0.0, price[j] - price)
        cross = (codebook[j] + codebook) / 2 + rise / (2 * gap)
        lower[start : start + rows] = torch.where(index < j, cross, -torch.inf).amax(1)
        upper[start : start + rows] = torch.where(index > j, cross, torch.inf).amin(1)
    best = (lower < upper) & ~price.isinf()
    begin = torch.where(best, lower, torch.inf)
    # the edge of a codeword with an empty cell is that of the next non-empty cell
    return begin.flip(0).cummin(0).values.flip(0)[1:]


def assign(weights: Tensor, h: Tensor, codebook: Tensor, price: Tensor) -> Tensor:
    """(n,) int32 argmin_j h_i (w_i - c_j)^2 + price_j, the lowest j on a tie."""
    out = torch.empty(weights.numel(), dtype=torch.int32, device=weights.device)
    if chunks.on_torch(weights):
        for at in _blocks(weights.numel(), codebook.numel()):
            out[at] = _costs(weights[at], h[at], codebook, price).argmin(1).to(torch.int32)
        return out
    from nqbench_quantizers import kernels

    w, g, symbols = weights.numpy(), h.numpy(), out.numpy()
    c, p, (edges, low, scale, lut) = _tables(codebook, price)
    in_chunks(w.size, lambda at: kernels.weighted_assign(w[at], g[at], c, p, edges, low, scale, lut, symbols[at]))
    return out


def assign_and_sum(weights: Tensor, h: Tensor, codebook: Tensor, price: Tensor, shift: float) -> Tensor:
    """(4, k) float64 sums as in ``scalar.symbol_sums`` over the cells of ``assign``, without storing the symbols."""
    k = codebook.numel()
    if chunks.on_torch(weights):
        sums = torch.zeros(4, k, dtype=torch.float64, device=weights.device)
        index = torch.arange(k, device=weights.device)
        for at in _blocks(weights.numel(), k):
            best = _costs(weights[at], h[at], codebook, price).argmin(1)
            x, y = weights[at].double() - shift, h[at].double()
            rows = torch.stack([torch.ones_like(x), y, y * x, y * x * x])
            sums += rows @ (best[:, None] == index).double()
        return sums
    from nqbench_quantizers import kernels

    w, g = weights.numpy(), h.numpy()
    c, p, (edges, low, scale, lut) = _tables(codebook, price)

    def part(at: slice) -> Array:
        own = np.zeros((k, 4))
        kernels.weighted_sums(w[at], g[at], c, p, edges, low, scale, lut, shift, own)
        return own

    parts = in_chunks(w.size, part)
    return torch.from_numpy(np.ascontiguousarray(np.sum(parts, axis=0).T))


def _costs(weights: Tensor, h: Tensor, codebook: Tensor, price: Tensor) -> Tensor:
    d = weights.double()[:, None] - codebook
    return d.square_().mul_(h.double()[:, None]).add_(price)


def _blocks(n: int, k: int) -> list[slice]:
    rows = max(1, _ELEMENTS // k)
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def _tables(codebook: Tensor, price: Tensor) -> tuple[Array, Array, tuple[Array, float, float, Array]]:
    """Codewords and prices as arrays, and a look-up table for the nearest codeword."""
    middles = scalar.floor32(scalar.midpoints(codebook)).numpy()
    return codebook.numpy(), price.numpy(), scalar.edge_table(middles)
