"""Error feedback with a beam search: the K best beginnings of each row are kept instead of one.

With H = M D M^T (``feedback``) the error of a row's first columns, sum_{i<j} d_i (...)^2, no longer changes with what
comes after: choosing q is a walk through a tree whose branches are levels, with costs that only grow. Rounding to the
nearest level at each column is the greedy walk, which never revises a choice (Babai's nearest plane). Keeping the K
cheapest walks at each depth is the M-algorithm (Anderson and Mohan 1984), the K-best sphere decoder of MIMO receivers
(Guo and Nilsson 2006): a level that is farther from its target, or costs more bits, may make later columns cheaper.
"""

from __future__ import annotations

import numpy as np

from nqbench_quantizers.kernels import Array, jit

_LOOK_BACK = 8
"""Columns between two checks of where the walks part; computations for their common columns are made once."""


@jit
def _meeting(parent: Array, back: Array, count: int, last: int, common: int) -> int:
    """The number of leading columns, at least ``common``, that all ``count`` walks up to column ``last`` have in
    common."""
    for n in range(count):
        back[n] = n
    for j in range(last, common - 1, -1):
        apart = False
        for n in range(count):
            apart = apart or back[n] != back[0]
        if not apart:
            return j + 1
        for n in range(count):
            back[n] = parent[j, back[n]]
    return common


@jit
def best_rows(
    weights: Array,
    lower: Array,
    gain: Array,
    kept: Array,
    price: Array,
    reach: int,
    beam_width: int,
    levels: Array,
    first: int,
    stop: int,
) -> None:
    """Fill the columns first ... stop - 1 of levels (m, R) for the forms that ``Rows`` describes: weights (m, R), lower
    (m, m), gain (m,), kept (m, R).

    price: (2 span + 1,), the cost of the levels -span ... span, added to gain * (target - level)^2; levels beyond span
    cost as much as the outermost one. Candidates are the nearest level, ``reach`` levels on each side of it, and 0.
    """
    m = weights.shape[0]
    span = price.size // 2
    errors, moved = np.empty((beam_width, m)), np.empty((beam_width, m))
    parent, chosen = np.empty((m, beam_width), np.int64), np.empty((m, beam_width))
    cost, total = np.empty(beam_width), np.empty(beam_width)
    back = np.empty(beam_width, np.int64)
    for r in range(first, stop):
        count, cost[0] = 1, 0.0
        common = 0  # columns in which all walks are one; their errors are in the first row of ``errors``
        for j in range(m):
            found = 0
            base = weights[j, r]
            for i in range(common):
                base += lower[j, i] * errors[0, i]
            for s in range(count):
                target = base
                for i in range(common, j):
                    target += lower[j, i] * errors[s, i]
                nearest = np.round(target)
                free = kept[j, r] and gain[j] > 0
                for k in range(2 * reach + 2):
                    # the nearest level first, 0 last: of walks of equal cost the first one is kept
                    level = nearest + (k + 1) // 2 * (1 - 2 * (k % 2))
                    if k > 2 * reach or not free:
                        if free and abs(nearest) <= reach:
                            break
                        level = 0.0
                    place = int(min(max(level, -span), span)) + span
                    price_here = price[place] if free else 0.0
                    walk = cost[s] + gain[j] * (target - level) ** 2 + price_here
                    if found < beam_width or walk < total[found - 1]:
                        # sorted, cheapest first
                        at = found if found < beam_width else beam_width - 1
                        while at > 0 and walk < total[at - 1]:
                            total[at], parent[j, at], chosen[j, at] = (
                                total[at - 1],
                                parent[j, at - 1],
                                chosen[j, at - 1],
                            )
                            at -= 1
                        total[at], parent[j, at], chosen[j, at] = walk, s, level
                        found = min(found + 1, beam_width)
                    if not free:
                        break
            for n in range(found):
                before = parent[j, n]
                for i in range(common, j):
                    moved[n, i] = errors[before, i]
                moved[n, j] = weights[j, r] - chosen[j, n]
                cost[n] = total[n]
            errors, moved = moved, errors
            count = found
            if j % _LOOK_BACK == 0:
                met = _meeting(parent, back, count, j, common)
                # the two arrays are used alternately
                for i in range(common, met):
                    moved[0, i] = errors[0, i]
                common = met
        n = 0
        for j in range(m - 1, -1, -1):
            levels[j, r] = chosen[j, n]
            n = parent[j, n]
