"""Canonical, length-limited Huffman codes (Huffman 1952; limit: Larmore and Hirschberg 1990).

Bitstream
---------
Table: nothing for an empty stream; else, by ``nqbench_coders.table``, each symbol that occurs, its class being the
length of its code, in [1, 31]; an entry weighs 2^-length and the table ends where the weights sum to 1 (Kraft). A
single distinct symbol has length 0 and the payload is empty.

Codes are canonical: in order of (length, symbol), the first code is all zeros, the next is the one before plus 1,
shifted left by the difference of their lengths.

Payload: the codes one after the other, each from its highest bit down, bits filling bytes from the highest down; the
last byte is filled with 0s. From 2^18 symbols on there are four such strings, of ceil(n / 4) symbols each (the last has
the rest), each filled up to whole bytes, so that a decoder may read them side by side; before them stand the sizes in
bytes of the first three as varints.

The lengths are optimal among those of at most max(16, ceil(log2 m) + 2) bits, m the number of distinct symbols, which
costs less than 0.02 % against no limit; a decoder takes any lengths up to 31.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec
from nqbench.api.toolkit.bits import ByteReader, bit_width, varint, words
from nqbench_coders.table import read_table, write_table
from nqbench_coders.used import ranked, used_symbols

KRAFT = 1 << 31
SPLIT = 1 << 18
"""Symbols from which the payload is four strings: their three sizes then cost less than 0.04 %."""


def length_limit(distinct: int) -> int:
    return max(16, bit_width(distinct) + 2)


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """lengths: (m,) int64 in order of symbol -> (m,) int64 codes."""
    order = np.argsort(lengths, kind="stable")
    rising = lengths[order]
    # codes left-justified to the longest are the running sum of 2^(longest - length)
    longest = int(rising[-1])
    steps = np.left_shift(1, longest - rising)
    codes = np.empty_like(lengths)
    codes[order] = (np.cumsum(steps) - steps) >> (longest - rising)
    return codes


def string_borders(count: int) -> list[int]:
    """Where the strings of the payload begin and end, in symbols."""
    if count < SPLIT:
        return [0, count]
    quarter = -(-count // 4)
    return [0, quarter, 2 * quarter, 3 * quarter, count]


class Huffman(Coder, name="huffman", paper="Huffman 1952, A method for the construction of minimum-redundancy codes"):
    """Canonical length-limited Huffman code with its code lengths in the file."""

    def encode(self, stream: Stream) -> Encoded:
        from nqbench_coders.kernels.huffman import encode_bits
        from nqbench_coders.kernels.prefix import code_lengths

        if not stream.symbols.size:
            return Encoded(b"", b"")
        used, counts = used_symbols(stream)
        lengths = code_lengths(counts, length_limit(used.size))
        table = write_table(used, lengths)
        if used.size == 1:
            return Encoded(table, b"")
        symbols, size = ranked(stream, used)
        entries = (canonical_codes(lengths) << 6 | lengths).astype(np.uint64)
        if size == used.size:
            codes = entries
        else:
            codes = np.zeros(size, dtype=np.uint64)
            codes[used] = entries
        borders = string_borders(symbols.size)
        buffer = np.empty(int((counts * lengths).sum()) // 32 + 2, dtype=np.uint32)
        strings = []
        for start, stop in pairwise(borders):
            bits = encode_bits(symbols[start:stop], codes, buffer)
            strings.append(buffer[: bits // 32 + 1].astype(">u4").tobytes()[: (bits + 7) // 8])
        sizes = b"".join(varint(len(string)) for string in strings[:-1])
        return Encoded(table, sizes + b"".join(strings))

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        if not spec.count:
            if encoded.table or encoded.payload:
                raise CorruptFile("an empty stream has bytes", offset=0)
            return np.empty(0, dtype=np.int32)
        table = read_table(encoded.table, spec.alphabet, spec.count, KRAFT, with_extra=False)
        if table.used.size == 1:
            if encoded.payload:
                raise CorruptFile("a stream of one distinct symbol has a payload", offset=0)
            return np.full(spec.count, table.used[0], dtype=np.int32)
        return _decode_strings(encoded.payload, spec.count, table.used, table.classes)

    def rate(self, counts: np.ndarray) -> np.ndarray:
        """The code's own lengths, with one count added to each symbol so that an unseen one has a code."""
        from nqbench_coders.kernels.prefix import code_lengths

        smoothed = np.asarray(counts, dtype=np.int64) + 1
        return code_lengths(smoothed, length_limit(smoothed.size)).astype(np.float64)


def _decode_strings(payload: bytes, count: int, used: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    from nqbench_coders.kernels.huffman import LOOKUP, build_lookup, decode_bits

    by_length = np.bincount(lengths, minlength=34)[:34]
    offset = np.cumsum(by_length) - by_length
    first = np.zeros(34, dtype=np.int64)
    for length in range(1, 34):
        first[length] = (first[length - 1] + by_length[length - 1]) << 1
    order = np.argsort(lengths, kind="stable")
    canonical = used[order].astype(np.int32)
    lookup = np.zeros((1 << LOOKUP, 4), dtype=np.int32)
    info, single, ranks = np.zeros((3, 1 << LOOKUP), dtype=np.int64)
    build_lookup(canonical, first, offset, by_length, single, ranks, lookup, info)

    reader = ByteReader(payload)
    borders = string_borders(count)
    sizes = [reader.varint(len(payload), "a string's size") for _ in borders[2:]]
    out = np.empty(count, dtype=np.int32)
    for start, stop, size in zip(borders, borders[1:], [*sizes, None], strict=False):
        begin = reader.offset
        string = reader.rest() if size is None else reader.take(size)
        bits = decode_bits(
            words(string, ">"), 0, 8 * len(string), out[start:stop], canonical, first, offset, by_length, lookup, info
        )
        if bits > 8 * len(string):
            raise CorruptFile("the codes run out before the symbols", offset=begin + len(string))
        if len(string) != (bits + 7) // 8:
            raise CorruptFile("bytes follow the last code", offset=begin + (bits + 7) // 8)
        if bits & 7 and string[-1] & (255 >> (bits & 7)):
            raise CorruptFile("the bits after the last code are not zero", offset=begin + len(string) - 1)
    return out
