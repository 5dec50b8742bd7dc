"""The inner loops of ``nqbench_coders.lzw``."""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import kernel

RAN_OUT, BAD_CODE, TOO_LONG = -1, -2, -3


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
        slot = (key * np.uint64(0x9E3779B97F4A7C15)) >> shift
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

    places: (limit,) int64: an entry's phrase is a part of ``out``: start << 22 | length. It may reach one symbol beyond
    what is decoded: the case where the code just made is used at once resolves itself, copying front to back.
    """
    size = roots
    width = bits_for(size)
    mask = np.uint64((1 << width) - 1)
    bit = 0
    at = 0
    n = out.size
    while at < n:
        if bit + width > stop:
            return RAN_OUT - 4 * bit
        word = bit >> 6
        low = np.uint64(bit & 63)
        window = (words[word] >> low) | ((words[word + 1] << np.uint64(1)) << (np.uint64(63) - low))
        code = np.int64(window & mask)
        if code < roots:
            out[at] = code
            length = 1
        elif code < size:
            place = places[code]
            length = place & 0x3FFFFF
            source = place >> 22
            if at + length > n:
                return TOO_LONG - 4 * bit
            if at - source >= 4 and at + length + 3 <= n:
                # four at a time, beyond the phrase's end where need be: what follows is written later
                for j in range(0, length, 4):
                    a, b, c, d = out[source + j], out[source + j + 1], out[source + j + 2], out[source + j + 3]
                    out[at + j] = a
                    out[at + j + 1] = b
                    out[at + j + 2] = c
                    out[at + j + 3] = d
            else:
                for j in range(length):
                    out[at + j] = out[source + j]
        else:
            return BAD_CODE - 4 * bit
        bit += width
        if size < limit:
            places[size] = at << 22 | (length + 1)
            size += 1
            if size > 1 << width:
                width += 1
                mask = np.uint64((1 << width) - 1)
            if reset and size == limit:
                size = roots
                width = bits_for(size)
                mask = np.uint64((1 << width) - 1)
        at += length
    return bit
