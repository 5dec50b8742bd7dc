"""The inner loops of ``nqbench_coders.huffman``: encoding and decoding of prefix codes.

All indices are uint64: a signed index would be tested for being negative (counting from the end).
"""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import inlined, kernel

LOOKUP = 12
"""Number of bits of the decoder's first look-up; 2^12 entries of four symbols take 64 kB."""

LENGTHS = 34
"""Size of arrays that are indexed by code length."""

U0, U1, U2, U3, U4 = (np.uint64(i) for i in range(5))
U5, U6, U8, U31, U32, U63 = (np.uint64(i) for i in (5, 6, 8, 31, 32, 63))
LOW32 = np.uint64(0xFFFFFFFF)
TOP = np.uint64(64 - LOOKUP)


@kernel
def encode_bits(symbols: np.ndarray, codes: np.ndarray, out: np.ndarray) -> np.uint64:
    """symbols: (n,) int32; codes: uint64, code << 6 | length; out: uint32 words, first bit highest.

    Returns the number of bits. Words are stored whether full or not, which avoids a branch that would be mispredicted.
    """
    acc = U0
    held = U0  # number of bits in acc, below 32
    at = U0
    for i in range(symbols.size):
        entry = codes[np.uint64(symbols[i])]
        length = entry & U63
        acc = (acc << length) | (entry >> U6)
        held += length
        out[at] = np.uint32((acc >> ((held - U32) & U63)) & LOW32)
        at += held >> U5
        held &= U31
    if held:
        out[at] = np.uint32((acc << (U32 - held)) & LOW32)
    return at * U32 + held


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
    """Fills the decoder's look-up table: for each prefix of LOOKUP bits, up to four symbols whose codes it contains
    completely.

    symbols: (m,) int32 in canonical order; first, offset, counts: (LENGTHS,) int64 by length: the first code, its index
    in ``symbols``, and the number of codes. lengths, ranks: (2^LOOKUP,) int64, zeros, working memory. table: (4 *
    2^LOOKUP,) int32; info: (2^LOOKUP,) uint8: number of symbols << 5 | their bits, or, if the first code is longer than
    the prefix, its least possible length.
    """
    size = 1 << LOOKUP
    at = 0
    for length in range(1, LOOKUP + 1):
        for i in range(counts[length] << (LOOKUP - length)):
            lengths[at] = length
            ranks[at] = offset[length] + (i >> (LOOKUP - length))
            at += 1
    least = LOOKUP + 1
    for prefix in range(at, size):
        # the codes of a length whose last prefix lies before this one have been passed
        while least < 31 and (first[least] + counts[least]) <= prefix << (least - LOOKUP):
            least += 1
        info[prefix] = least
    for prefix in range(at):
        bits, found = 0, 0
        while found < 4:
            rest = (prefix << bits) & (size - 1)
            length = lengths[rest]
            if length == 0 or length > LOOKUP - bits:
                break
            table[4 * prefix + found] = symbols[ranks[rest]]
            bits += length
            found += 1
        info[prefix] = found << 5 | bits


@inlined
def _window(words: np.ndarray, bit: np.uint64) -> np.uint64:
    """64 bits from ``bit`` on, the first highest."""
    at = bit >> U6
    shift = bit & U63
    return np.uint64((words[at] << shift) | ((words[at + U1] >> U1) >> (U63 - shift)))


@inlined
def _copy(table: np.ndarray, prefix: np.uint64, at: np.uint64, out: np.ndarray) -> None:
    """Copies four symbols of a prefix even if it has fewer; the excess is overwritten later. All are read before one is
    written, so that the compiler, which cannot exclude that the arrays overlap, moves them as one."""
    place = prefix << U2
    first, second, third, fourth = table[place], table[place + U1], table[place + U2], table[place + U3]
    out[at], out[at + U1], out[at + U2], out[at + U3] = first, second, third, fourth


@inlined
def _again(
    prefix: np.uint64, bit: np.uint64, place: np.uint64, table: np.ndarray, info: np.ndarray, out: np.ndarray
) -> tuple[np.uint64, np.uint64]:
    """Copies the symbols of a prefix, none if its code is longer. Returns the next bit and the next place."""
    entry = np.uint64(info[prefix])
    entry = entry if entry >= U32 else U0
    _copy(table, prefix, place, out)
    return bit + (entry & U31), place + (entry >> U5)


@kernel
def _single(
    window: np.uint64, entry: np.uint64, symbols: np.ndarray, first: np.ndarray, offset: np.ndarray, counts: np.ndarray
) -> tuple[np.int32, np.uint64]:
    """The first symbol of the window and its length, searched from its least possible length."""
    length = np.int64(1) if entry >= U32 else np.int64(entry)
    code = np.int64(window >> np.uint64(64 - length))
    while code - first[length] >= counts[length] and length < 32:
        length += 1
        code = np.int64(window >> np.uint64(64 - length))
    return symbols[offset[length] + code - first[length]], np.uint64(length)


@kernel
def decode_four(
    words: np.ndarray,
    bits: np.ndarray,
    stops: np.ndarray,
    places: np.ndarray,
    ends: np.ndarray,
    symbols: np.ndarray,
    first: np.ndarray,
    offset: np.ndarray,
    counts: np.ndarray,
    table: np.ndarray,
    info: np.ndarray,
    out: np.ndarray,
) -> None:
    """Decodes four strings in parallel, which hides the latency of look-ups, until one is near its end.

    bits, stops: (4,) uint64, the current bit and the end of each string in ``words``; places, ends: (4,) uint64, the
    same in ``out``. bits and places are updated.
    """
    a, b, c, d = bits[0], bits[1], bits[2], bits[3]
    p, q, r, s = places[0], places[1], places[2], places[3]
    while a < stops[0] and b < stops[1] and c < stops[2] and d < stops[3]:
        if p + U8 > ends[0] or q + U8 > ends[1] or r + U8 > ends[2] or s + U8 > ends[3]:
            break
        t, u, v, w = _window(words, a), _window(words, b), _window(words, c), _window(words, d)
        i, j, k, m = t >> TOP, u >> TOP, v >> TOP, w >> TOP
        e, f, g, h = np.uint64(info[i]), np.uint64(info[j]), np.uint64(info[k]), np.uint64(info[m])
        if min(min(e, f), min(g, h)) < U32:
            # a long code in one of the strings: one symbol of each
            out[p], length = _single(t, e, symbols, first, offset, counts)
            a, p = a + length, p + U1
            out[q], length = _single(u, f, symbols, first, offset, counts)
            b, q = b + length, q + U1
            out[r], length = _single(v, g, symbols, first, offset, counts)
            c, r = c + length, r + U1
            out[s], length = _single(w, h, symbols, first, offset, counts)
            d, s = d + length, s + U1
            continue
        _copy(table, i, p, out)
        _copy(table, j, q, out)
        _copy(table, k, r, out)
        _copy(table, m, s, out)
        a, p, t = a + (e & U31), p + (e >> U5), t << (e & U31)
        b, q, u = b + (f & U31), q + (f >> U5), u << (f & U31)
        c, r, v = c + (g & U31), r + (g >> U5), v << (g & U31)
        d, s, w = d + (h & U31), s + (h >> U5), w << (h & U31)
        # a second look-up from the same windows; a long code is left to the next turn
        a, p = _again(t >> TOP, a, p, table, info, out)
        b, q = _again(u >> TOP, b, q, table, info, out)
        c, r = _again(v >> TOP, c, r, table, info, out)
        d, s = _again(w >> TOP, d, s, table, info, out)
    bits[0], bits[1], bits[2], bits[3] = a, b, c, d
    places[0], places[1], places[2], places[3] = p, q, r, s


@kernel
def decode_one(
    words: np.ndarray,
    bit: np.uint64,
    stop: np.uint64,
    place: np.uint64,
    end: np.uint64,
    symbols: np.ndarray,
    first: np.ndarray,
    offset: np.ndarray,
    counts: np.ndarray,
    table: np.ndarray,
    info: np.ndarray,
    out: np.ndarray,
) -> tuple[np.uint64, np.uint64]:
    """Decodes one string, from ``bit`` to ``stop``, into ``out`` from ``place`` to ``end``. Returns the final bit and
    place.

    If the bits run out first, the place returned lies before ``end``, or the bit beyond ``stop``.
    """
    while place < end and bit < stop:
        window = _window(words, bit)
        prefix = window >> TOP
        entry = np.uint64(info[prefix])
        if entry >= U32 and place + U4 <= end:
            _copy(table, prefix, place, out)
            place += entry >> U5
            bit += entry & U31
            continue
        out[place], length = _single(window, entry, symbols, first, offset, counts)
        bit += length
        place += U1
    return bit, place
