"""The inner loops of ``nqbench_coders.lzw``."""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import kernel

RAN_OUT, BAD_CODE, TOO_LONG = -1, -2, -3

U0, U1, U2, U3, U4, U63 = (np.uint64(i) for i in (0, 1, 2, 3, 4, 63))
LENGTH = np.uint64(0x3FFFFF)


@kernel
def bits_for(size: int) -> int:
    """ceil(log2 size)."""
    width = 0
    while (1 << width) < size:
        width += 1
    return width


@kernel
def encode_lzw(symbols: np.ndarray, roots: int, limit: int, reset: bool, slots: np.ndarray, out: np.ndarray) -> int:
    """symbols: (n,) int32 in [0, roots), n >= 1; out: uint64 words. Returns the number of bits.

    slots: uint64, all 0, a power of two of at least 2 limit: a hash table (open addressing) of the entries, each packed
    as prefix code << 44 | symbol << 20 | its own code, which is never 0.
    """
    mask = np.uint64(slots.size - 1)
    shift = np.uint64(64 - bits_for(slots.size))
    acc = np.uint64(0)
    held = 0  # bits in acc, under 64
    at = 0
    size = roots
    width = bits_for(size)
    prefix = np.uint64(symbols[0])
    for i in range(1, symbols.size):
        symbol = np.uint64(symbols[i])
        key = (prefix << np.uint64(24)) | symbol
        # one phrase's children lie side by side, in a cache line or two
        slot = (((prefix * np.uint64(0x9E3779B97F4A7C15)) >> shift) ^ symbol) & mask
        entry = slots[slot]
        while entry != np.uint64(0) and (entry >> np.uint64(20)) != key:
            slot = (slot + np.uint64(1)) & mask
            entry = slots[slot]
        if entry != np.uint64(0):
            prefix = entry & np.uint64(0xFFFFF)
            continue
        acc |= prefix << np.uint64(held)
        held += width
        if held >= 64:
            out[at] = acc
            at += 1
            held -= 64
            acc = prefix >> np.uint64(width - held)
        prefix = symbol
        if size < limit:
            slots[slot] = (key << np.uint64(20)) | np.uint64(size)
            size += 1
            if size > 1 << width:
                width += 1
            if reset and size == limit:
                slots[:] = np.uint64(0)
                size = roots
                width = bits_for(size)
    acc |= prefix << np.uint64(held)
    held += width
    out[at] = acc
    if held >= 64:
        at += 1
        held -= 64
        out[at] = prefix >> np.uint64(width - held)
    return at * 64 + held


@kernel
def decode_lzw(
    words: np.ndarray, stop: int, roots: int, limit: int, reset: bool, places: np.ndarray, out: np.ndarray
) -> int:
    """Fills ``out`` (int32) from the first ``stop`` bits of ``words``; returns the bits read, or, negative, a
    status - 4 bits.

    places: (limit,) uint64: an entry's phrase is a part of ``out``: start << 22 | length. It may reach one symbol
    beyond what is decoded: the case where the code just made is used at once resolves itself, copying front to back.
    """
    size, bottom, top = np.uint64(roots), np.uint64(roots), np.uint64(limit)
    width = np.uint64(bits_for(roots))
    mask = (U1 << width) - U1
    bit, at = U0, U0
    n, end = np.uint64(out.size), np.uint64(stop)
    while at < n:
        if bit + width > end:
            return RAN_OUT - 4 * np.int64(bit)
        word = bit >> np.uint64(6)
        low = bit & U63
        code = ((words[word] >> low) | ((words[word + U1] << U1) << (U63 - low))) & mask
        if code < bottom:
            out[at] = np.int32(code)
            length = U1
        elif code < size:
            place = places[code]
            length = place & LENGTH
            source = place >> np.uint64(22)
            if at + length + U4 > n or at - source < U4:
                if at + length > n:
                    return TOO_LONG - 4 * np.int64(bit)
                for j in range(length):
                    out[at + j] = out[source + j]
            else:
                # four at a time, beyond the phrase's end where need be: what follows is written later
                target, last = at, at + length
                while target < last:
                    a, b, c, d = out[source], out[source + U1], out[source + U2], out[source + U3]
                    out[target], out[target + U1], out[target + U2], out[target + U3] = a, b, c, d
                    source += U4
                    target += U4
        else:
            return BAD_CODE - 4 * np.int64(bit)
        bit += width
        if size < top:
            places[size] = at << np.uint64(22) | (length + U1)
            size += U1
            if size > U1 << width:
                width += U1
                mask = (U1 << width) - U1
            if reset and size == top:
                size = bottom
                width = np.uint64(bits_for(roots))
                mask = (U1 << width) - U1
        at += length
    return np.int64(bit)
