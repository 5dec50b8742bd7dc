"""The inner loops of ``nqbench_coders.lzw``, except the encoder's for a full dictionary, which is ``lzw_full``."""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import inlined, kernel

RAN_OUT, BAD_CODE, TOO_LONG = -1, -2, -3

U0, U1, U2, U3, U4, U63 = (np.uint64(i) for i in (0, 1, 2, 3, 4, 63))
LENGTH = np.uint64(0x3FFFFF)
CODE_BITS = np.uint64(20)
CODE = np.uint64(0xFFFFF)
WINDOW = 4096
"""Number of symbols after which an encoder that clears checks whether the dictionary still compresses well."""


@kernel
def bits_for(size: int) -> int:
    """ceil(log2 size)."""
    width = 0
    while (1 << width) < size:
        width += 1
    return width


@inlined
def put(
    code: np.uint64, width: np.uint64, acc: np.uint64, held: np.uint64, at: np.uint64, out: np.ndarray
) -> tuple[np.uint64, np.uint64, np.uint64]:
    acc |= code << held
    held += width
    if held >= np.uint64(64):
        out[at] = acc
        at += U1
        held -= np.uint64(64)
        acc = code >> (width - held)
    return acc, held, at


@kernel
def encode_lzw(
    symbols: np.ndarray,
    root_of: np.ndarray,
    roots: int,
    limit: int,
    clears: bool,
    stops: bool,
    firsts: np.ndarray,
    slots: np.ndarray,
    state: np.ndarray,
    out: np.ndarray,
) -> int:
    """symbols: (n,) int32, n >= 1; root_of: int32, a symbol's root in [0, roots); out: uint64 words. Returns the number
    of symbols read: all of them, or fewer if the encoder stops when the dictionary is full. state: (5,) uint64, filled
    with the bits not yet in ``out``, their number, the number of whole words, the code of the current phrase, the width
    of a code.

    clears: the code ``roots`` empties the dictionary, which happens when it is full, and when the last
    ``WINDOW`` symbols took an eighth more bits each than those of the best window since it was emptied.

    Of the phrases that extend a phrase by one symbol, the first is the most frequent, so it is stored with that phrase:
    firsts: (max(limit, roots),) uint32, zeros: symbol << 20 | code, for symbols under 2^12. The others are in a hash
    table with open addressing: slots: uint64, zeros, a power of two of at least 2 limit: code of the other phrase << 44
    | symbol << 20 | code. New codes are never 0, so that 0 marks an empty entry in both.
    """
    mask = np.uint64(slots.size - 1)
    shift = np.uint64(64 - bits_for(slots.size))
    bottom, most = np.uint64(roots + clears), np.uint64(limit)
    acc, held, at = U0, U0, U0  # held: number of bits in acc, below 64
    size = bottom
    width = np.uint64(bits_for(roots + clears))
    window_end, window_start, bits_before = WINDOW if clears else symbols.size, 0, 0
    best_bits, best_symbols = 0, 0
    prefix = np.uint64(root_of[np.uint64(symbols[0])])
    for i in range(1, symbols.size):
        symbol = np.uint64(root_of[np.uint64(symbols[i])])
        first = np.uint64(firsts[prefix])
        if first >> CODE_BITS == symbol and first != U0:
            prefix = first & CODE
            continue
        key = (prefix << np.uint64(24)) | symbol
        slot = (key * np.uint64(0x9E3779B97F4A7C15)) >> shift
        entry = slots[slot]
        while entry != U0 and (entry >> CODE_BITS) != key:
            slot = (slot + U1) & mask
            entry = slots[slot]
        if entry != U0:
            prefix = entry & CODE
            continue
        acc, held, at = put(prefix, width, acc, held, at, out)
        if size < most:
            if first == U0 and symbol < np.uint64(4096):
                firsts[prefix] = np.uint32(symbol << CODE_BITS | size)
            else:
                slots[slot] = (key << CODE_BITS) | size
            size += U1
            if size > U1 << width:
                width += U1
            if stops and size == most:
                state[0], state[1], state[2], state[3], state[4] = acc, held, at, symbol, width
                return i + 1
        full = clears and size == most and most > bottom
        if full or i >= window_end:
            bits = int(np.int64(at * np.uint64(64) + held))
            spent, read = bits - bits_before, i - window_start
            pays = best_symbols == 0 or 8 * spent * best_symbols <= 9 * best_bits * read
            if pays and (best_symbols == 0 or spent * best_symbols < best_bits * read):
                best_bits, best_symbols = spent, read
            if full or not pays:
                acc, held, at = put(np.uint64(roots), width, acc, held, at, out)
                firsts[:] = np.uint32(0)
                slots[:] = U0
                size = bottom
                width = np.uint64(bits_for(roots + clears))
                best_symbols = 0
            window_start, window_end = i, i + WINDOW
            bits_before = int(np.int64(at * np.uint64(64) + held))
        prefix = symbol
    state[0], state[1], state[2], state[3], state[4] = acc, held, at, prefix, width
    return symbols.size


@kernel
def last_code(state: np.ndarray, out: np.ndarray) -> np.uint64:
    """Writes the code of the current phrase and all bits that are not yet in ``out``. Returns the number of bits."""
    acc, held, at = put(state[3], state[4], state[0], state[1], state[2], out)
    out[at] = acc
    return np.uint64(at * np.uint64(64) + held)


@kernel
def decode_lzw(
    words: np.ndarray,
    stop: int,
    roots: int,
    limit: int,
    clears: bool,
    reset: bool,
    places: np.ndarray,
    out: np.ndarray,
) -> int:
    """Fills ``out`` (int32) from the first ``stop`` bits of ``words``; returns the bits read, or, negative, a
    status - 4 bits. clears: the code ``roots`` empties the dictionary; reset: it is emptied when it is full.

    places: (limit,) uint64: the phrase of an entry as a slice of ``out``: start << 22 | length. It may extend one
    symbol beyond the decoded part: if a code is used immediately after it was made, copying front to back gives the
    right phrase.
    """
    first = np.uint64(roots + clears)  # the first code that is not a root
    size, bottom, top = first, np.uint64(roots), np.uint64(limit)
    width = np.uint64(bits_for(roots + clears))
    mask = (U1 << width) - U1
    bit, at = U0, U0
    n, end = np.uint64(out.size), np.uint64(stop)
    while at < n:
        if bit + width > end:
            return RAN_OUT - 4 * int(np.int64(bit))
        word = bit >> np.uint64(6)
        low = bit & U63
        code = ((words[word] >> low) | ((words[word + U1] << U1) << (U63 - low))) & mask
        if code < bottom:
            out[at] = np.int32(code)
            length = U1
        elif code < first:
            bit += width
            size = first
            width = np.uint64(bits_for(roots + clears))
            mask = (U1 << width) - U1
            continue
        elif code < size:
            place = places[code]
            length = place & LENGTH
            source = place >> np.uint64(22)
            if at + length + U4 > n or at - source < U4:
                if at + length > n:
                    return TOO_LONG - 4 * int(np.int64(bit))
                for j in range(length):
                    out[at + j] = out[source + j]
            else:
                # four at a time, possibly beyond the phrase's end; the excess is overwritten later
                target, last = at, at + length
                while target < last:
                    a, b, c, d = out[source], out[source + U1], out[source + U2], out[source + U3]
                    out[target], out[target + U1], out[target + U2], out[target + U3] = a, b, c, d
                    source += U4
                    target += U4
        else:
            return BAD_CODE - 4 * int(np.int64(bit))
        bit += width
        if size < top:
            places[size] = at << np.uint64(22) | (length + U1)
            size += U1
            if size > U1 << width:
                width += U1
                mask = (U1 << width) - U1
            if reset and size == top:
                size = first
                width = np.uint64(bits_for(roots))
                mask = (U1 << width) - U1
        at += length
    return int(np.int64(bit))
