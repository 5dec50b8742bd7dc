"""The inner loops of ``nqbench_coders.rans``.

Eight states by turns hide the latency of the division (encoder) and of the look-ups (decoder); they are written out,
because in an array they would live in memory.
"""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import kernel

LOW = 1 << 31
"""A state that has written a word lies in [2^31, 2^63)."""


@kernel
def _push(x: int, entry: int, precision: int, at: int, out: np.ndarray) -> tuple[int, int]:
    """One symbol onto a state; entry: cumulative frequency << 32 | frequency."""
    f = entry & np.uint64(0xFFFFFFFF)
    if x >= f << np.uint64(63 - precision):
        at -= 1
        out[at] = np.uint32(x & np.uint64(0xFFFFFFFF))
        x >>= np.uint64(32)
    q = x // f
    return (q << np.uint64(precision)) + (x - q * f) + (entry >> np.uint64(32)), at


@kernel
def encode_rans(
    symbols: np.ndarray, entries: np.ndarray, precision: int, states: np.ndarray, out: np.ndarray
) -> int:
    """Last symbol first, words from the end of ``out`` (uint32) to its front; returns the place of the first.

    entries: uint64 by symbol; states: (1,) or (8,) uint64, changed in place; symbol i is pushed onto state i mod N.
    """
    at = out.size
    turns = states.size
    i = symbols.size
    while i % 8 or (turns == 1 and i > 0):
        i -= 1
        states[i % turns], at = _push(states[i % turns], entries[symbols[i]], precision, at, out)
    if i == 0:
        return at
    a, b, c, d = states[0], states[1], states[2], states[3]
    e, f, g, h = states[4], states[5], states[6], states[7]
    while i > 0:
        i -= 8
        h, at = _push(h, entries[symbols[i + 7]], precision, at, out)
        g, at = _push(g, entries[symbols[i + 6]], precision, at, out)
        f, at = _push(f, entries[symbols[i + 5]], precision, at, out)
        e, at = _push(e, entries[symbols[i + 4]], precision, at, out)
        d, at = _push(d, entries[symbols[i + 3]], precision, at, out)
        c, at = _push(c, entries[symbols[i + 2]], precision, at, out)
        b, at = _push(b, entries[symbols[i + 1]], precision, at, out)
        a, at = _push(a, entries[symbols[i]], precision, at, out)
    states[0], states[1], states[2], states[3] = a, b, c, d
    states[4], states[5], states[6], states[7] = e, f, g, h
    return at


@kernel
def fill_coarse(entries: np.ndarray, precision: int, coarse: np.ndarray) -> None:
    """coarse: (2^min(precision, 16) + 1,) int32: the rank that holds the first slot of each equal part of all slots."""
    parts = coarse.size - 1
    width = (1 << precision) // parts
    rank = 0
    for part in range(parts):
        while rank + 1 < entries.size and np.int64(entries[rank + 1] >> np.uint64(32)) <= part * width:
            rank += 1
        coarse[part] = rank
    coarse[parts] = entries.size - 1


@kernel
def _pop(
    x: int, entries: np.ndarray, coarse: np.ndarray, mask: int, precision: int, at: int, words: np.ndarray
) -> tuple[int, int, int]:
    """One symbol off a state, slots being parts: its rank, the state, the place of the next word."""
    slot = x & mask
    rank = coarse[slot]
    entry = entries[rank]
    x = (entry & np.uint64(0xFFFFFFFF)) * (x >> np.uint64(precision)) + slot - (entry >> np.uint64(32))
    if x < np.uint64(LOW):
        x = (x << np.uint64(32)) | np.uint64(words[at])
        at += 1
    return rank, x, at


@kernel
def decode_rans(
    words: np.ndarray,
    used: np.ndarray,
    entries: np.ndarray,
    coarse: np.ndarray,
    precision: int,
    states: np.ndarray,
    out: np.ndarray,
) -> int:
    """Fills ``out`` (int32); words: uint32; used: (m,) int32; entries: (m,) uint64. Returns the number of words read.

    Where words are wanted and none is left the states stay low: the caller sees it in their last values.
    """
    n = out.size
    at = 0
    i = 0
    mask = np.uint64((1 << precision) - 1)
    turns = states.size
    if turns == 8 and precision <= 16:
        a, b, c, d = states[0], states[1], states[2], states[3]
        e, f, g, h = states[4], states[5], states[6], states[7]
        while i + 8 <= n and at + 8 <= words.size:
            r, a, at = _pop(a, entries, coarse, mask, precision, at, words)
            out[i] = used[r]
            r, b, at = _pop(b, entries, coarse, mask, precision, at, words)
            out[i + 1] = used[r]
            r, c, at = _pop(c, entries, coarse, mask, precision, at, words)
            out[i + 2] = used[r]
            r, d, at = _pop(d, entries, coarse, mask, precision, at, words)
            out[i + 3] = used[r]
            r, e, at = _pop(e, entries, coarse, mask, precision, at, words)
            out[i + 4] = used[r]
            r, f, at = _pop(f, entries, coarse, mask, precision, at, words)
            out[i + 5] = used[r]
            r, g, at = _pop(g, entries, coarse, mask, precision, at, words)
            out[i + 6] = used[r]
            r, h, at = _pop(h, entries, coarse, mask, precision, at, words)
            out[i + 7] = used[r]
            i += 8
        states[0], states[1], states[2], states[3] = a, b, c, d
        states[4], states[5], states[6], states[7] = e, f, g, h
    shift = np.uint64(max(precision - 16, 0))
    while i < n:
        x = states[i % turns]
        slot = x & mask
        part = np.int64(slot >> shift)
        rank, last = coarse[part], coarse[part + 1]
        if shift == np.uint64(0):
            last = rank
        while rank < last:
            middle = (rank + last + 1) // 2
            if (entries[middle] >> np.uint64(32)) <= slot:
                rank = middle
            else:
                last = middle - 1
        entry = entries[rank]
        x = (entry & np.uint64(0xFFFFFFFF)) * (x >> np.uint64(precision)) + slot - (entry >> np.uint64(32))
        if x < np.uint64(LOW) and at < words.size:
            x = (x << np.uint64(32)) | np.uint64(words[at])
            at += 1
        states[i % turns] = x
        out[i] = used[rank]
        i += 1
    return at
