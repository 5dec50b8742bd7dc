"""Compiled loops behind ``nqbench.api.views`` on the CPU. Import lazily: numba is slow to load.

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
    """The cell of a uniform grid of ``size`` cells, clamped to its ends. Monotone in w, and that is all that counts."""
    c = (w - low) * scale
    if c < 0.0:
        return 0
    if c >= size:
        return size - 1
    return int(c)


@jit
def assign(weights: Array, edges: Array, low: float, scale: float, lut: Array, out: Array) -> None:
    """out_i = number of edges < w_i. edges (k - 1,) float32 ascending; lut from ``lookup_start``."""
    size = lut.size - 1
    for i in range(weights.size):
        w = weights[i]
        c = _cell(w, low, scale, size)
        a, b = lut[c], lut[c + 1]
        while a < b:  # edges of cells before lie below w, those of cells after above: only this cell's remain
            m = (a + b) >> 1
            if edges[m] < w:
                a = m + 1
            else:
                b = m
        out[i] = a


@jit
def bin_sums(
    weights: Array, h: Array, edges: Array, low: float, scale: float, lut: Array, shift: float, sums: Array
) -> None:
    """sums (bins, 4) += count, h, h (w - shift), h (w - shift)^2 by ``assign``'s bins. h: (n,) or (0,) for h = 1."""
    size = lut.size - 1
    weighted = h.size > 0
    for i in range(weights.size):
        w = weights[i]
        c = _cell(w, low, scale, size)
        a, b = lut[c], lut[c + 1]
        while a < b:
            m = (a + b) >> 1
            if edges[m] < w:
                a = m + 1
            else:
                b = m
        x = np.float64(w) - shift
        g = np.float64(h[i]) if weighted else 1.0
        row = sums[a]
        row[0] += 1.0
        row[1] += g
        row[2] += g * x
        row[3] += g * x * x


@jit
def symbol_sums(weights: Array, h: Array, symbols: Array, shift: float, sums: Array) -> None:
    """sums (k, 4) += count, h, h (w - shift), h (w - shift)^2 by symbol."""
    weighted = h.size > 0
    for i in range(weights.size):
        x = np.float64(weights[i]) - shift
        g = np.float64(h[i]) if weighted else 1.0
        row = sums[symbols[i]]
        row[0] += 1.0
        row[1] += g
        row[2] += g * x
        row[3] += g * x * x
