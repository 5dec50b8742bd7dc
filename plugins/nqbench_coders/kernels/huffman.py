"""Prefix-coded streams: the inner loops of ``nqbench_coders.huffman``."""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import kernel

LOOKUP = 11
"""Bits of the decoder's first look-up: 2^11 entries of four symbols fill a first-level cache."""


@kernel
def encode_bits(symbols: np.ndarray, codes: np.ndarray, out: np.ndarray) -> int:
    """symbols: (n,) int32; codes: uint64, code << 6 | length; out: uint32 words, first bit highest.

    Returns the number of bits. Words are stored whether full or not: no branch to mispredict.
    """
    acc = np.uint64(0)
    held = np.uint64(0)  # bits in acc, under 32
    at = 0
    for i in range(symbols.size):
        entry = codes[symbols[i]]
        length = entry & np.uint64(63)
        acc = (acc << length) | (entry >> np.uint64(6))
        held += length
        out[at] = np.uint32((acc >> ((held - np.uint64(32)) & np.uint64(63))) & np.uint64(0xFFFFFFFF))
        at += np.int64(held >> np.uint64(5))
        held &= np.uint64(31)
    if held:
        out[at] = np.uint32((acc << (np.uint64(32) - held)) & np.uint64(0xFFFFFFFF))
    return at * 32 + np.int64(held)


@kernel
def build_lookup(
    symbols: np.ndarray,
    first: np.ndarray,
    offset: np.ndarray,
    counts: np.ndarray,
    lengths: np.ndarray,
    ranks: np.ndarray,
    table: np.ndarray,
    info: np.ndarray,
) -> None:
    """Fills the decoder's look-up: up to four symbols that a prefix of LOOKUP bits holds in full.

    symbols: (m,) int32 in canonical order; first, offset, counts: (33,) int64 by length: the first code, its place in
    ``symbols``, how many. table: (2^LOOKUP, 4) int32; info: (2^LOOKUP,) int64: number of symbols << 8 | their bits, or, where
    the first code is longer than the prefix, the least length it can have.
    """
    size = 1 << LOOKUP
    at = 0
    for length in range(1, LOOKUP + 1):
        for i in range(counts[length]):
            for _ in range(1 << (LOOKUP - length)):
                lengths[at] = length
                ranks[at] = offset[length] + i
                at += 1
    least = LOOKUP + 1
    for prefix in range(at, size):
        # the longest code of a length whose last prefix lies before this one has been passed
        while least < 32 and (first[least] + counts[least]) <= prefix << (least - LOOKUP):
            least += 1
        info[prefix] = least
    for prefix in range(at):
        bits, found = 0, 0
        while found < 4:
            rest = (prefix << bits) & (size - 1)
            length = lengths[rest]
            if length == 0 or length > LOOKUP - bits:
                break
            table[prefix, found] = symbols[ranks[rest]]
            bits += length
            found += 1
        info[prefix] = found << 8 | bits


@kernel
def _window(words: np.ndarray, bit: int) -> np.uint64:
    """64 bits from ``bit`` on, the first highest."""
    at = bit >> 6
    shift = np.uint64(bit & 63)
    return (words[at] << shift) | ((words[at + 1] >> np.uint64(1)) >> (np.uint64(63) - shift))


@kernel
def _long(window: np.uint64, least: int, first: np.ndarray, offset: np.ndarray, counts: np.ndarray) -> tuple[int, int]:
    """(length, rank) of the code at the head of the window, which is at least ``least`` bits long."""
    length = least
    code = np.int64(window >> np.uint64(64 - length))
    while code - first[length] >= counts[length]:
        length += 1
        if length > 32:
            return 0, 0
        code = np.int64(window >> np.uint64(64 - length))
    return length, offset[length] + code - first[length]


@kernel
def decode_bits(
    words: np.ndarray,
    start: int,
    stop: int,
    out: np.ndarray,
    symbols: np.ndarray,
    first: np.ndarray,
    offset: np.ndarray,
    counts: np.ndarray,
    table: np.ndarray,
    info: np.ndarray,
) -> int:
    """Fills ``out`` (int32) from the bits [start, stop) of ``words``.

    Returns the bit after the last code; it lies above ``stop`` if the bits ran out, in which case ``out`` is not to be used.
    """
    bit = start
    at = 0
    whole = out.size - 4
    while at <= whole and bit < stop:
        window = _window(words, bit)
        prefix = np.int64(window >> np.uint64(64 - LOOKUP))
        entry = info[prefix]
        found = entry >> 8
        if found == 0:
            length, rank = _long(window, entry, first, offset, counts)
            out[at] = symbols[rank]
            bit += length
            at += 1
            continue
        out[at] = table[prefix, 0]
        out[at + 1] = table[prefix, 1]
        out[at + 2] = table[prefix, 2]
        out[at + 3] = table[prefix, 3]
        at += found
        bit += entry & 255
    while at < out.size and bit < stop:
        window = _window(words, bit)
        length, rank = _long(window, 1, first, offset, counts)
        out[at] = symbols[rank]
        bit += length
        at += 1
    return bit if at == out.size else stop + 1
