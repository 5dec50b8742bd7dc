"""The encoder of ``lzw`` for a full dictionary that no longer changes.

The dictionary is a tree, and reading a phrase is a walk down the tree in which each step waits for the one before.
While the dictionary grows, it is a hash table. A full one is laid out again so that a step is a single look-up (a trie
by rows, after Aoe 1989, An efficient digital search algorithm by using a double-array structure), and several parts of
the stream are read in parallel. A part may begin in the middle of a phrase; but parsing soon synchronizes, whatever its
start, and from there on the phrases of the part are those of the stream.
"""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import inlined, kernel
from nqbench_coders.kernels.lzw import CODE, CODE_BITS, U0, U1, U2, U3, U4, put

LANE = 1 << 12
"""Number of symbols that each of the four parallel readers reads."""
SLOT_BITS = 22
"""Number of bits of a place in the laid-out dictionary. The step of a phrase is its code + 1 << 22 | the place of its
row, which holds the phrases that extend it. An entry is a step (43 bits) with code + 1 of the phrase that it extends
above it; 0 is an empty entry."""
PLACE, WORD = np.uint64((1 << SLOT_BITS) - 1), np.uint64(32)
STEP, TO_CODE, TO_OWNER = np.uint64((1 << 43) - 1), np.uint64(SLOT_BITS), np.uint64(43)


@kernel
def rows_of(limit: int, roots: int, firsts: np.ndarray, slots: np.ndarray, steps: np.ndarray) -> int:
    """Fills steps (limit,) uint64 of the phrases of a full dictionary; returns the number of places that their rows
    take.

    The length of a phrase's row is the range of the symbols that extend it. Rows follow each other without overlapping,
    after as many places as there are roots, so that no symbol leads to a place before the first.
    """
    low, high = np.full(limit, 0xFFFFFFFF, dtype=np.uint32), np.zeros(limit, dtype=np.uint32)
    for phrase in range(limit):
        if firsts[phrase] != 0:
            symbol = firsts[phrase] >> np.uint32(20)
            low[phrase], high[phrase] = min(low[phrase], symbol), max(high[phrase], symbol)
    for entry in slots:
        if entry != U0:
            phrase = int(np.int64(entry >> np.uint64(44)))
            symbol = np.uint32((entry >> CODE_BITS) & np.uint64(0xFFFFFF))
            low[phrase], high[phrase] = min(low[phrase], symbol), max(high[phrase], symbol)
    place = np.int64(roots)
    for phrase in range(limit):
        steps[phrase] = np.uint64(phrase + 1) << TO_CODE
        if low[phrase] <= high[phrase]:
            # a place with too many bits is unusable, which the caller detects from the returned number
            steps[phrase] |= np.uint64(place - low[phrase]) & PLACE
            place += np.int64(high[phrase]) - low[phrase] + 1
    return int(place + roots)


@kernel
def lay_out(firsts: np.ndarray, slots: np.ndarray, steps: np.ndarray, entries: np.ndarray) -> None:
    """Fills entries, uint64, zeros, as many as ``rows_of`` returned."""
    for phrase in range(steps.size):
        first = np.uint64(firsts[phrase])
        if first != U0:
            place = (steps[phrase] & PLACE) + (first >> CODE_BITS)
            entries[place] = np.uint64(phrase + 1) << TO_OWNER | steps[first & CODE]
    for entry in slots:
        if entry != U0:
            phrase = entry >> np.uint64(44)
            place = (steps[phrase] & PLACE) + ((entry >> CODE_BITS) & np.uint64(0xFFFFFF))
            entries[place] = (phrase + U1) << TO_OWNER | steps[entry & CODE]


@inlined
def _walk(
    symbol: np.uint64,
    step: np.uint64,
    place: np.uint64,
    at: np.uint64,
    entries: np.ndarray,
    steps: np.ndarray,
    found: np.ndarray,
) -> tuple[np.uint64, np.uint64]:
    """Reads one symbol. If the phrase ends before it, found[at] becomes code + 1 << 32 | place. It is written in any
    case, so that two selected values, and no branch, depend on the symbol."""
    entry, root = entries[(step & PLACE) + symbol], steps[symbol]
    code = step >> TO_CODE
    found[at] = code << WORD | place
    longer = entry >> TO_OWNER == code
    return np.uint64(entry & STEP) if longer else root, at + np.uint64(not longer)


@kernel
def encode_full(
    symbols: np.ndarray,
    root_of: np.ndarray,
    start: int,
    entries: np.ndarray,
    steps: np.ndarray,
    found: np.ndarray,
    state: np.ndarray,
    out: np.ndarray,
) -> None:
    """Continues from ``start`` with an unchanging dictionary. found: (4 LANE,) uint64, working memory."""
    acc, held, at, wide = state[0], state[1], state[2], state[4]
    step = steps[state[3]]
    lane, place = np.uint64(LANE), np.uint64(start)
    counts, last = np.zeros(4, dtype=np.uint64), np.zeros(4, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    while place + U4 * lane <= np.uint64(symbols.size):
        p, q, r, s = place, place + lane, place + U2 * lane, place + U3 * lane
        a, i = _walk(np.uint64(root_of[np.uint64(symbols[p])]), step, U0, U0, entries, steps, found)
        b, c = steps[np.uint64(root_of[np.uint64(symbols[q])])], steps[np.uint64(root_of[np.uint64(symbols[r])])]
        d = steps[np.uint64(root_of[np.uint64(symbols[s])])]
        j, k, m = lane, U2 * lane, U3 * lane
        for n in range(U1, lane):
            a, i = _walk(np.uint64(root_of[np.uint64(symbols[p + n])]), a, n, i, entries, steps, found)
            b, j = _walk(np.uint64(root_of[np.uint64(symbols[q + n])]), b, n, j, entries, steps, found)
            c, k = _walk(np.uint64(root_of[np.uint64(symbols[r + n])]), c, n, k, entries, steps, found)
            d, m = _walk(np.uint64(root_of[np.uint64(symbols[s + n])]), d, n, m, entries, steps, found)
        counts[0], counts[1], counts[2], counts[3] = i, j - lane, k - U2 * lane, m - U3 * lane
        last[0], last[1], last[2], last[3] = a, b, c, d
        for one in range(4):
            begin, count, known = np.uint64(one) * lane, counts[one], U0
            if one == 0:
                step = a
            else:
                # continue from the end of the lane before until a phrase begins where one of this lane does
                known, ahead = count + U1, U0
                own, seen = U0, U0  # phrase number own of this lane begins at seen
                while ahead < lane:
                    symbol = np.uint64(root_of[np.uint64(symbols[place + begin + ahead])])
                    entry = entries[(step & PLACE) + symbol]
                    if entry >> TO_OWNER == step >> TO_CODE:
                        step = entry & STEP
                    else:
                        acc, held, at = put((step >> TO_CODE) - U1, wide, acc, held, at, out)
                        step = steps[symbol]
                        while seen < ahead and own < count:
                            seen = found[begin + own] & low
                            own += U1
                        if seen == ahead:
                            known, step = own, last[one]
                            break
                    ahead += U1
            while known < count:
                acc, held, at = put((found[begin + known] >> WORD) - U1, wide, acc, held, at, out)
                known += U1
        place += U4 * lane
    for n in range(place, np.uint64(symbols.size)):
        symbol = np.uint64(root_of[np.uint64(symbols[n])])
        entry = entries[(step & PLACE) + symbol]
        if entry >> TO_OWNER == step >> TO_CODE:
            step = entry & STEP
        else:
            acc, held, at = put((step >> TO_CODE) - U1, wide, acc, held, at, out)
            step = steps[symbol]
    state[0], state[1], state[2], state[3] = acc, held, at, (step >> TO_CODE) - U1
