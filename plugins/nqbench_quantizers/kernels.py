"""Compiled loops of the quantizers, for the CPU. Import lazily: numba is slow to load."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

Array = np.ndarray[Any, Any]
jit = numba.njit(nogil=True, cache=True, boundscheck=False)


@jit
def _within(h: Array, hw: Array, hww: Array, a: int, b: int) -> float:
    """sum h (w - mean)^2 over bins a ... b - 1, from prefix sums."""
    mass = h[b] - h[a]
    if mass <= 0.0:
        return 0.0
    first = hw[b] - hw[a]
    cost = hww[b] - hww[a] - first * first / mass
    return cost if cost > 0.0 else 0.0


@jit
def best_intervals(h: Array, hw: Array, hww: Array, k: int) -> Array:
    """(k,) int64 starts of the k intervals of B >= k bins with the least total within-interval distortion.

    cost[j][b] = min_a cost[j-1][a] + within(a, b). The best a never falls as b grows (within obeys the Monge
    condition), so each layer is solved by divide and conquer in O(B log B). h, hw, hww: (B + 1,) prefix sums.
    """
    bins = h.size - 1
    before = np.empty(bins + 1)
    for b in range(bins + 1):
        before[b] = _within(h, hw, hww, 0, b)
    choice = np.zeros((k, bins + 1), dtype=np.int32)
    after = np.empty(bins + 1)
    stack = np.empty((64, 4), dtype=np.int64)
    for j in range(1, k):
        after[: j + 1] = 0.0
        for b in range(j + 1):
            choice[j, b] = max(b - 1, 0)
        top = 0
        stack[0] = (j + 1, bins, j, bins - 1)
        while top >= 0:
            left, right, lowest, highest = stack[top]
            top -= 1
            if left > right:
                continue
            b = (left + right) >> 1
            best, where = np.inf, lowest
            for a in range(lowest, min(b - 1, highest) + 1):
                cost = before[a] + _within(h, hw, hww, a, b)
                if cost < best:
                    best, where = cost, a
            after[b] = best
            choice[j, b] = where
            top += 1
            stack[top] = (left, b - 1, lowest, where)
            top += 1
            stack[top] = (b + 1, right, where, highest)
        before, after = after, before
    starts = np.zeros(k, dtype=np.int64)
    end = bins
    for j in range(k - 1, 0, -1):
        end = choice[j, end]
        starts[j] = end
    return starts
