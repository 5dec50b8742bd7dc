"""Compiled loops behind ``nqbench.api.toolkit.passes`` on the CPU. Import lazily: numba is slow to load.

Each kernel works on one chunk of the weights and holds no lock, so chunks run in threads. What a chunk writes does not
depend on the other chunks, and sums of chunks are added in chunk order: the result is the same for any number of
threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

Array = np.ndarray[Any, Any]
jit = numba.njit(nogil=True, cache=True, boundscheck=False)


@jit
def lookup_start(edges: Array, low: float, scale: float, lut: Array) -> None:
    """lut (L + 1,) int32: lut[c] = number of edges whose grid cell lies before c. Cells: see ``_cell``."""
    size = lut.size - 1
    lut[:] = 0
    for e in edges:
        lut[_cell(e, low, scale, size) + 1] += 1
    for c in range(size):
        lut[c + 1] += lut[c]


@jit
def _cell(w: float, low: float, scale: float, size: int) -> int:
    """The cell of a uniform grid of ``size`` cells, clamped to its ends. Monotone in w, and that is all that counts.
    Edges may be infinite: then scale is 0, and all is in the first cell."""
    c = (w - low) * scale
    if not c > 0.0:  # nan too
        return 0
    if c >= size:
        return size - 1
    return int(c)


@jit
def _place(w: float, edges: Array, low: float, scale: float, lut: Array) -> int:
    """Number of edges < w. Edges of cells before w's lie below it, those of cells after above: only its own remain."""
    c = _cell(w, low, scale, lut.size - 1)
    a, b = lut[c], lut[c + 1]
    while a < b:
        m = (a + b) >> 1
        if edges[m] < w:
            a = m + 1
        else:
            b = m
    return int(a)


@jit
def assign(weights: Array, edges: Array, low: float, scale: float, lut: Array, out: Array) -> None:
    """out_i = number of edges < w_i. edges (k - 1,) float32 ascending; lut from ``lookup_start``."""
    for i in range(weights.size):
        out[i] = _place(weights[i], edges, low, scale, lut)


@jit
def _add(row: Array, x: float, h: float) -> None:
    row[0] += 1.0
    row[1] += h
    row[2] += h * x
    row[3] += h * x * x


@jit
def interval_sums(
    weights: Array, h: Array, edges: Array, low: float, scale: float, lut: Array, shift: float, sums: Array
) -> None:
    """sums (k, 4) += count, h, h (w - shift), h (w - shift)^2 by ``assign``'s symbols. h: (n,), or (0,) for h = 1."""
    weighted = h.size > 0
    for i in range(weights.size):
        g = np.float64(h[i]) if weighted else 1.0
        _add(sums[_place(weights[i], edges, low, scale, lut)], np.float64(weights[i]) - shift, g)


@jit
def assign_and_sum(
    weights: Array, h: Array, edges: Array, low: float, scale: float, lut: Array, shift: float, out: Array, sums: Array
) -> None:
    """``assign`` and ``interval_sums`` in one pass."""
    weighted = h.size > 0
    for i in range(weights.size):
        place = _place(weights[i], edges, low, scale, lut)
        out[i] = place
        g = np.float64(h[i]) if weighted else 1.0
        _add(sums[place], np.float64(weights[i]) - shift, g)


@jit
def symbol_sums(weights: Array, h: Array, symbols: Array, shift: float, sums: Array) -> None:
    """sums (k, 4) += count, h, h (w - shift), h (w - shift)^2 by symbol."""
    weighted = h.size > 0
    for i in range(weights.size):
        g = np.float64(h[i]) if weighted else 1.0
        _add(sums[symbols[i]], np.float64(weights[i]) - shift, g)


@jit
def summary(weights: Array) -> tuple[float, float, float, float]:
    """Smallest, largest, mean, and sum of squares about the mean."""
    low = high = weights[0]
    total = 0.0
    for w in weights:
        low, high = min(low, w), max(high, w)
        total += np.float64(w)
    mean = total / weights.size
    squares = 0.0
    for w in weights:
        squares += (np.float64(w) - mean) ** 2
    return float(low), float(high), mean, squares


@jit
def segment_sums(points: Array, cuts: Array, shift: float, out: Array) -> None:
    """out (k, 4): count, count, sum (w - shift), sum (w - shift)^2 of points[cuts_j : cuts_j+1]."""
    for j in range(cuts.size - 1):
        first = second = 0.0
        for i in range(cuts[j], cuts[j + 1]):
            x = np.float64(points[i]) - shift
            first += x
            second += x * x
        count = np.float64(cuts[j + 1] - cuts[j])
        out[j, 0], out[j, 1], out[j, 2], out[j, 3] = count, count, first, second


@jit
def look_up(table: Array, index: Array, out: Array) -> None:
    """out_i = table[index_i]."""
    for i in range(index.size):
        out[i] = table[index[i]]
