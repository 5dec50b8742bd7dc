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

    cost[j][b] = min_a cost[j-1][a] + within(a, b). The best a does not decrease as b grows (within satisfies the Monge
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


@jit
def entropy_constrained_intervals(count: Array, hw: Array, hww: Array, lam: float) -> tuple[Array, float]:
    """Starts of the intervals of B bins with the least sum of within + lam n_ab log2(n / n_ab), and that sum.

    A shortest path over B + 1 nodes with all edges tried: -n log n violates the Monge condition that a faster search
    needs. count, hw, hww: (B + 1,) prefix sums of 1, w, w^2.
    """
    bins = count.size - 1
    total = np.log2(count[bins])
    cost = np.empty(bins + 1)
    before = np.zeros(bins + 1, dtype=np.int32)
    cost[0] = 0.0
    for b in range(1, bins + 1):
        best, where = np.inf, 0
        for a in range(b - 1, -1, -1):
            mass = count[b] - count[a]
            first = hw[b] - hw[a]
            within = max(hww[b] - hww[a] - first * first / mass, 0.0)
            if within >= best:  # a longer interval only has more distortion, and no cost is negative
                break
            value = cost[a] + within + lam * mass * (total - np.log2(mass))
            if value < best:
                best, where = value, a
        cost[b] = best
        before[b] = where
    starts = np.empty(bins, dtype=np.int64)
    size, end = 0, bins
    while end > 0:
        end = before[end]
        starts[size] = end
        size += 1
    return starts[:size][::-1].copy(), cost[bins]


@jit
def envelope(codebook: Array, price: Array, out: Array) -> None:
    """out (k - 1,): edges of the cells of argmin_j (w - c_j)^2 + price_j, by a stack of the lines of the envelope so
    far."""
    k = codebook.size
    kept = np.empty(k, dtype=np.int64)
    begin = np.empty(k)
    top = -1
    for j in range(k):
        if np.isinf(price[j]):
            continue
        at = -np.inf
        while top >= 0:
            i = kept[top]
            at = (codebook[i] + codebook[j]) / 2 + (price[j] - price[i]) / (2 * (codebook[j] - codebook[i]))
            if at > begin[top]:
                break
            top -= 1
            at = -np.inf
        top += 1
        kept[top] = j
        begin[top] = at
    # the edge of a codeword with an empty cell is that of the next non-empty cell
    position, at = top, np.inf
    for j in range(k - 1, 0, -1):
        if position >= 0 and kept[position] == j:
            at = begin[position]
            position -= 1
        out[j - 1] = at


@jit
def _cheapest(w: float, g: float, codebook: Array, price: Array, mode: int, nearest: int) -> int:
    """argmin_j g (w - c_j)^2 + price_j, searched outward from the nearest codeword until the distortion plus the lowest
    price of all reaches the best cost. mode: the (first) codeword of that price; from the outset it is a candidate,
    since of weights that hardly count it is the best, and all others would have to be looked at to know."""
    if g == 0.0:
        return mode
    cheapest = price[mode]
    d = w - codebook[nearest]
    best, where = d * d * g + price[nearest], nearest
    d = w - codebook[mode]
    cost = d * d * g + cheapest
    if cost < best or (cost == best and mode < nearest):
        best, where = cost, mode
    for j in range(nearest - 1, -1, -1):
        d = w - codebook[j]
        near = d * d * g
        if near + cheapest > best:
            break
        cost = near + price[j]
        if cost <= best:  # ties go to the lowest index
            best, where = cost, j
    for j in range(nearest + 1, codebook.size):
        d = w - codebook[j]
        near = d * d * g
        if near + cheapest >= best:
            break
        cost = near + price[j]
        if cost < best or (cost == best and j < where):
            best, where = cost, j
    return where


@jit
def _nearest(w: float, edges: Array, low: float, scale: float, lut: Array) -> Any:
    """Number of edges below w; ``lut`` is the table of ``nqbench.api.toolkit.passes.edge_table``."""
    size = lut.size - 1
    c = (w - low) * scale
    cell = 0 if not c > 0.0 else (size - 1 if c >= size else int(c))
    a, b = lut[cell], lut[cell + 1]
    while a < b:
        m = (a + b) >> 1
        if edges[m] < w:
            a = m + 1
        else:
            b = m
    return a


@jit
def weighted_assign(
    weights: Array,
    h: Array,
    codebook: Array,
    price: Array,
    edges: Array,
    low: float,
    scale: float,
    lut: Array,
    out: Array,
) -> None:
    """out_i = argmin_j h_i (w_i - c_j)^2 + price_j."""
    mode = int(price.argmin())
    for i in range(weights.size):
        w = np.float64(weights[i])
        out[i] = _cheapest(w, np.float64(h[i]), codebook, price, mode, _nearest(w, edges, low, scale, lut))


@jit
def weighted_sums(
    weights: Array,
    h: Array,
    codebook: Array,
    price: Array,
    edges: Array,
    low: float,
    scale: float,
    lut: Array,
    shift: float,
    sums: Array,
) -> None:
    """sums (k, 4) += count, h, h (w - shift), h (w - shift)^2 by ``weighted_assign``'s symbols."""
    mode = int(price.argmin())
    for i in range(weights.size):
        w, g = np.float64(weights[i]), np.float64(h[i])
        row = sums[_cheapest(w, g, codebook, price, mode, _nearest(w, edges, low, scale, lut))]
        x = w - shift
        row[0] += 1.0
        row[1] += g
        row[2] += g * x
        row[3] += g * x * x


@jit
def tally(key: Array, counts: Array) -> None:
    """counts[key_i] += 1."""
    for value in key:
        counts[value] += 1


@jit
def hash_tally(key: Array, slots: Array, counts: Array, place: Array, most: int) -> int:
    """Open addressing: place_i = the slot of key_i (>= 0), counts = the number of members of each slot. slots: 2^b
    entries of -1. Returns the number of distinct keys; stops as soon as there are more than ``most``."""
    room = slots.size - 1
    found = 0
    for i in range(key.size):
        value = np.int64(key[i])
        # Fibonacci hashing spreads keys that differ in few bits
        at = ((value * np.int64(-7046029254386353131)) >> 20) & room
        while slots[at] != value:
            if slots[at] < 0:
                if found == most:
                    return found + 1
                slots[at] = value
                found += 1
                break
            at = (at + 1) & room
        counts[at] += 1
        place[i] = at
    return found


@jit
def grid_cells(weights: Array, step: float, center: bool, low: int, out: Array) -> None:
    """out_i = round (half to even, ``center``) or floor of w_i / step in float64, less ``low``."""
    for i in range(weights.size):
        x = np.float64(weights[i]) / step
        out[i] = np.int64(np.rint(x) if center else np.floor(x)) - low


@jit
def lattice_keys(weights: Array, u: Array, step: float, d: int, center: bool, low: int, span: int, out: Array) -> None:
    """out_i = the number in base ``span`` whose d digits are the grid indices, less ``low``, of vector i of
    (<= m * d,) float32 weights, padded with 0, plus u_i (float32; (0,): none)."""
    for i in range(out.size):
        key = np.int64(0)
        for j in range(d):
            p = i * d + j
            w = weights[p] if p < weights.size else np.float32(0.0)
            if u.size > 0:
                w = np.float32(w + u[i])
            x = np.float64(w) / step
            key = key * span + (np.int64(np.rint(x) if center else np.floor(x)) - low)
        out[i] = key
