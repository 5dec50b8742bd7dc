"""Compiled loops over rows of equally many weights, for ``block_levels`` on the CPU. Import lazily: numba is slow to
load."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

Array = np.ndarray[Any, Any]
jit = numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")  # 0 / 0 gives nan instead of raising


@jit
def extremes(rows: Array, low: Array, high: Array) -> None:
    """Fill low_r and high_r with the least and largest entry of row r of (R, L) float32, L >= 1."""
    for r in range(rows.shape[0]):
        row = rows[r]
        least = most = row[0]
        for w in row:
            least = min(least, w)
            most = max(most, w)
        low[r], high[r] = least, most


@jit
def grid_levels(rows: Array, scale: Array, zero: Array, lowest: int, highest: int, out: Array) -> None:
    """out (R, L) int32 = clamp(round(w / scale_r) + zero_r, lowest, highest) - lowest; a quotient that is not finite
    counts as 0. zero: (0,) for none."""
    bottom, top = np.float32(lowest), np.float32(highest)
    nothing = np.float32(0.0)
    for r in range(rows.shape[0]):
        s, z = scale[r], zero[r] if zero.size else nothing
        for c in range(rows.shape[1]):
            x = np.rint(rows[r, c] / s)
            x = (x if np.isfinite(x) else nothing) + z
            out[r, c] = np.int32(min(max(x, bottom), top)) - lowest


@jit
def few_cells(rows: Array, scale: Array, edges: Array, out: Array) -> None:
    """out (R, L) int32 = the number of edges below w / scale_r, by linear search; a quotient that is not finite counts
    as 0."""
    x = np.empty(rows.shape[1], dtype=np.float32)
    nothing = np.float32(0.0)
    for r in range(rows.shape[0]):
        for c in range(x.size):
            q = rows[r, c] / scale[r]
            x[c] = q if np.isfinite(q) else nothing
            out[r, c] = 0
        for edge in edges:
            for c in range(x.size):
                out[r, c] += edge < x[c]


@jit
def many_cells(rows: Array, scale: Array, edges: Array, out: Array) -> None:
    """As ``few_cells``, by bisection."""
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            q = rows[r, c] / scale[r]
            if not np.isfinite(q):
                q = np.float32(0.0)
            a, b = 0, edges.size
            while a < b:
                m = (a + b) >> 1
                if edges[m] < q:
                    a = m + 1
                else:
                    b = m
            out[r, c] = a
