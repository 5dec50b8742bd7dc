"""The inner loops of ``nqbench_coders.rans``.

Eight states in turn hide the latency of multiplications (encoder) and of look-ups (decoder). They are eight variables,
because an array would be in memory instead of registers. The encoder with eight states multiplies by reciprocals
instead of dividing (Granlund and Montgomery 1994, Division by invariant integers using multiplication). A word is read
or written whether it is needed or not, which avoids branches that depend on the states and cannot be predicted. All
indices and sums are uint64: a signed index would be tested for being negative, and mixing signed with unsigned integers
gives floats.
"""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import high_product, inlined, kernel

LOW = np.uint64(1 << 31)
"""Lower bound 2^31 of the normalized states, which lie in [2^31, 2^63)."""
FREQUENCY = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)
ONE = np.uint64(1)


MULTIPLIED = 1 << 14
"""Largest number of symbols for which the encoder uses reciprocals, which take 32 bytes each."""


def reciprocals(frequencies: np.ndarray, precision: int) -> np.ndarray:
    """frequencies: (m,) int64, with the sum 2^precision -> (4 m,) uint64, for each frequency F: the least state that
    must write a word first; R; C, the sum of the frequencies before it; s | (2^precision - F) << 8.

    R = ceil(2^(63 + k) / F), k = ceil(log2 F), s = k - 1: then x R >> 64 + s is x // F for each x < 2^63. For F = 1, R
    = 2^64 - 1 gives x - 1 for x > 0, which C compensates.
    """
    f = frequencies.astype(np.uint64)
    one, word = np.uint64(1), np.uint64(32)
    k = np.frexp(frequencies - 1)[1].astype(np.uint64)  # number of bits of F - 1
    # 2^(63 + k) is divided in two steps: F is below 2^29, so that each fits
    upper, rest = np.divmod(one << (k + np.uint64(31)), f)
    table = np.empty((frequencies.size, 4), dtype=np.uint64)
    table[:, 0] = f << np.uint64(63 - precision)
    table[:, 1] = (upper << word) + ((rest << word) + f - one) // f
    table[:, 2] = np.cumsum(f) - f
    table[:, 3] = (np.maximum(k, one) - one) | (np.uint64(1 << precision) - f) << np.uint64(8)
    single = frequencies == 1
    table[single, 1] = np.uint64((1 << 64) - 1)
    table[single, 2] += np.uint64((1 << precision) - 1)
    return table.reshape(-1)


@inlined
def _logarithm(n: float) -> float:
    """ln((n + 1) / n), n >= 1, by the series of the inverse hyperbolic tangent of 1 / (2 n + 1) <= 1/3.

    A library's logarithm may round in its own way, and files would depend on the platform.
    """
    y = 1.0 / (2.0 * n + 1.0)
    total = 0.0
    for k in range(16, -1, -1):
        total = total * y * y + 1.0 / (2.0 * k + 1.0)
    return 2.0 * y * total


@inlined
def _cost(count: np.int64, frequency: np.int64, step: np.int64) -> float:
    """Nats more that the symbol takes in all with its frequency changed by ``step``, 1 or -1; infinite for 1 to 0."""
    nats = np.inf
    if step > 0:
        nats = -count * _logarithm(float(frequency))
    elif frequency > 1:
        nats = count * _logarithm(float(frequency - 1))
    return nats


@kernel
def costs_of_a_step(counts: np.ndarray, frequencies: np.ndarray, step: np.int64) -> np.ndarray:
    """counts, frequencies: (m,) int64 -> (m,) float64, nats."""
    costs = np.empty(counts.size, dtype=np.float64)
    for i in range(counts.size):
        costs[i] = _cost(counts[i], frequencies[i], step)
    return costs


@kernel
def step_where_cheapest(
    counts: np.ndarray, frequencies: np.ndarray, step: np.int64, times: np.int64, costs: np.ndarray, heap: np.ndarray
) -> None:
    """Changes the frequencies in place by ``step``, as often as told, each time where it then costs the least, of equal
    costs at the smallest symbol.

    heap: (h,) int64, the places that may change, by rising cost (a sorted row is a heap); costs: (h,) float64, theirs.
    """
    for _ in range(times):
        place = heap[0]
        frequencies[place] += step
        cost = _cost(counts[place], frequencies[place], step)
        at = 0
        while 2 * at + 1 < heap.size:
            child = 2 * at + 1
            if child + 1 < heap.size and (
                costs[child + 1] < costs[child] or (costs[child + 1] == costs[child] and heap[child + 1] < heap[child])
            ):
                child += 1
            if costs[child] > cost or (costs[child] == cost and heap[child] > place):
                break
            costs[at], heap[at] = costs[child], heap[child]
            at = child
        costs[at], heap[at] = cost, place


@inlined
def _pushed(
    x: np.uint64, row: np.uint64, table: np.ndarray, at: np.uint64, out: np.ndarray
) -> tuple[np.uint64, np.uint64]:
    """Push one symbol onto a state, by its row of ``reciprocals``. ``at``: the place after the next word."""
    row <<= np.uint64(2)
    out[at - ONE] = np.uint32(x & FREQUENCY)
    full = x >= table[row]
    at -= np.uint64(full)
    x = x >> WORD if full else x
    last = table[row + np.uint64(3)]
    q = high_product(x, table[row + ONE]) >> (last & np.uint64(63))
    return x + table[row + np.uint64(2)] + q * (last >> np.uint64(8)), at


@inlined
def _push(
    x: np.uint64, entry: np.uint64, precision: np.uint64, at: np.uint64, out: np.ndarray
) -> tuple[np.uint64, np.uint64]:
    """Push one symbol onto a state. entry: cumulative frequency << 32 | frequency; ``at``: the place after the next
    word."""
    f = entry & FREQUENCY
    out[at - ONE] = np.uint32(x & FREQUENCY)
    full = x >= f << (np.uint64(63) - precision)
    at -= np.uint64(full)
    x = x >> WORD if full else x
    q = x // f
    return (q << precision) + (x - q * f) + (entry >> WORD), at


@kernel
def encode_rans(
    symbols: np.ndarray, entries: np.ndarray, precision: np.uint64, states: np.ndarray, out: np.ndarray
) -> np.uint64:
    """Encodes from the last symbol to the first and fills ``out`` (uint32) from its end. Returns the place of the first
    word.

    entries: uint64 by symbol; states: (N,) uint64, changed in place; symbol i is pushed onto state i mod N.
    """
    at = np.uint64(out.size)
    turns = np.uint64(states.size)
    i = np.uint64(symbols.size)
    while i > 0:
        i -= ONE
        states[i % turns], at = _push(states[i % turns], entries[np.uint64(symbols[i])], precision, at, out)
    return at


@kernel
def encode_rans_of_eight(symbols: np.ndarray, table: np.ndarray, states: np.ndarray, out: np.ndarray) -> np.uint64:
    """The same for N = 8 states, with ``reciprocals`` by symbol."""
    at = np.uint64(out.size)
    i = np.uint64(symbols.size)
    while i % np.uint64(8) != 0:
        i -= ONE
        turn = i % np.uint64(8)
        states[turn], at = _pushed(states[turn], np.uint64(symbols[i]), table, at, out)
    a, b, c, d = states[0], states[1], states[2], states[3]
    e, f, g, h = states[4], states[5], states[6], states[7]
    while i > 0:
        i -= np.uint64(8)
        h, at = _pushed(h, np.uint64(symbols[i + np.uint64(7)]), table, at, out)
        g, at = _pushed(g, np.uint64(symbols[i + np.uint64(6)]), table, at, out)
        f, at = _pushed(f, np.uint64(symbols[i + np.uint64(5)]), table, at, out)
        e, at = _pushed(e, np.uint64(symbols[i + np.uint64(4)]), table, at, out)
        d, at = _pushed(d, np.uint64(symbols[i + np.uint64(3)]), table, at, out)
        c, at = _pushed(c, np.uint64(symbols[i + np.uint64(2)]), table, at, out)
        b, at = _pushed(b, np.uint64(symbols[i + np.uint64(1)]), table, at, out)
        a, at = _pushed(a, np.uint64(symbols[i]), table, at, out)
    states[0], states[1], states[2], states[3] = a, b, c, d
    states[4], states[5], states[6], states[7] = e, f, g, h
    return at


@inlined
def _pop(
    x: np.uint64,
    entries: np.ndarray,
    ranks: np.ndarray,
    precision: np.uint64,
    mask: np.uint64,
    at: np.uint64,
    words: np.ndarray,
) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Pop one symbol off a state: its rank, the state, the place of the next word. Reads a word whether it is needed or
    not."""
    slot = x & mask
    rank = np.uint64(ranks[slot])
    entry = entries[rank]
    word = np.uint64(words[at])
    x = (entry & FREQUENCY) * (x >> precision) + slot - (entry >> WORD)
    low = x < LOW
    x = (x << WORD) | word if low else x
    return rank, x, at + np.uint64(low)


@kernel
def decode_rans(
    words: np.ndarray,
    used: np.ndarray,
    entries: np.ndarray,
    ranks: np.ndarray,
    precision: np.uint64,
    states: np.ndarray,
    out: np.ndarray,
) -> np.uint64:
    """Fills ``out`` (int32); returns the number of words read.

    words: uint32; used: (m,) int32; entries: (m,) uint64; ranks: (2^precision,) uint16, the rank by slot, or (0,), in
    which case ranks are searched. If words are missing, states stay low, which is detected from their final values.
    """
    n = np.uint64(out.size)
    at, i, left = np.uint64(0), np.uint64(0), np.uint64(words.size)
    mask = (ONE << precision) - ONE
    turns = np.uint64(states.size)
    eight = np.uint64(8)
    if turns == eight and ranks.size > 0:
        a, b, c, d = states[0], states[1], states[2], states[3]
        e, f, g, h = states[4], states[5], states[6], states[7]
        while i + eight <= n and at + eight <= left:
            r, a, at = _pop(a, entries, ranks, precision, mask, at, words)
            out[i] = used[r]
            r, b, at = _pop(b, entries, ranks, precision, mask, at, words)
            out[i + np.uint64(1)] = used[r]
            r, c, at = _pop(c, entries, ranks, precision, mask, at, words)
            out[i + np.uint64(2)] = used[r]
            r, d, at = _pop(d, entries, ranks, precision, mask, at, words)
            out[i + np.uint64(3)] = used[r]
            r, e, at = _pop(e, entries, ranks, precision, mask, at, words)
            out[i + np.uint64(4)] = used[r]
            r, f, at = _pop(f, entries, ranks, precision, mask, at, words)
            out[i + np.uint64(5)] = used[r]
            r, g, at = _pop(g, entries, ranks, precision, mask, at, words)
            out[i + np.uint64(6)] = used[r]
            r, h, at = _pop(h, entries, ranks, precision, mask, at, words)
            out[i + np.uint64(7)] = used[r]
            i += eight
        states[0], states[1], states[2], states[3] = a, b, c, d
        states[4], states[5], states[6], states[7] = e, f, g, h
    while i < n:
        x = states[i % turns]
        slot = x & mask
        if ranks.size > 0:
            rank = np.uint64(ranks[slot])
        else:
            rank, last = np.uint64(0), np.uint64(entries.size - 1)
            while rank < last:
                middle = (rank + last + ONE) >> ONE
                if (entries[middle] >> WORD) <= slot:
                    rank = middle
                else:
                    last = middle - ONE
        entry = entries[rank]
        x = (entry & FREQUENCY) * (x >> precision) + slot - (entry >> WORD)
        if x < LOW and at < left:
            x = (x << WORD) | np.uint64(words[at])
            at += ONE
        states[i % turns] = x
        out[i] = used[rank]
        i += ONE
    return at
