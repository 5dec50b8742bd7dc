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
bytes of the first three as varints (unsigned LEB128: an ``int`` of the file's specification).

The lengths are optimal among those of at most max(16, ceil(log2 m) + 2) bits, m the number of distinct symbols, which
costs less than 0.02 % against no limit; a decoder takes any lengths up to 31.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec
from nqbench.api.toolkit.bits import ByteReader, bit_width, varint, words
from nqbench_coders.symbol_counts import ranked, used_symbols
from nqbench_coders.table import read_table, write_table

KRAFT = 1 << 31
SPLIT = 1 << 18
"""Number of symbols from which the payload consists of four strings, whose three sizes then take less than 0.04 % of
it."""


def length_limit(distinct: int) -> int:
    return max(16, bit_width(distinct) + 2)


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """lengths: (m,) int64 in order of symbol -> (m,) int64 codes."""
    order = np.argsort(lengths, kind="stable")
    rising = lengths[order]
    # codes, left-justified to the longest length, are the cumulative sums of 2^(longest - length)
    longest = int(rising[-1])
    steps = np.left_shift(1, longest - rising)
    codes = np.empty_like(lengths)
    codes[order] = (np.cumsum(steps) - steps) >> (longest - rising)
    return codes


def string_borders(count: int) -> list[int]:
    """The symbols at which the strings of the payload begin and end."""
    if count < SPLIT:
        return [0, count]
    quarter = -(-count // 4)
    return [0, quarter, 2 * quarter, 3 * quarter, count]


class Huffman(Coder, name="huffman", paper="Huffman 1952, A method for the construction of minimum-redundancy codes"):
    """Canonical length-limited Huffman code; its code lengths are stored in the file."""

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
            bits = int(encode_bits(symbols[start:stop], codes, buffer))
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
        """The code lengths for these counts plus 1, so that symbols that do not occur have a code, too."""
        from nqbench_coders.kernels.prefix import code_lengths

        smoothed = np.asarray(counts, dtype=np.int64) + 1
        return code_lengths(smoothed, length_limit(smoothed.size)).astype(np.float64)


def _decode_strings(payload: bytes, count: int, used: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    from nqbench_coders.kernels.huffman import decode_four, decode_one

    borders = string_borders(count)
    reader = ByteReader(payload)
    sizes = [reader.varint(len(payload), "a string's size") for _ in borders[2:]]
    starts = [reader.offset]
    for size in sizes:
        reader.take(size)
        starts.append(reader.offset)
    stops = [*starts[1:], len(payload)]

    code = _canonical_decoder(used, lengths)
    data = words(payload, ">")
    out = np.empty(count, dtype=np.int32)
    bits, places = np.array(starts, dtype=np.uint64) * np.uint64(8), np.array(borders[:-1], dtype=np.uint64)
    stop_bits, ends = np.array(stops, dtype=np.uint64) * np.uint64(8), np.array(borders[1:], dtype=np.uint64)
    if len(starts) == 4:
        decode_four(data, bits, stop_bits, places, ends, *code, out)
    for string, stop in enumerate(stops):
        bit, place = (
            int(at)
            for at in decode_one(data, bits[string], stop_bits[string], places[string], ends[string], *code, out)
        )
        if place < borders[string + 1] or bit > 8 * stop:
            raise CorruptFile("the codes run out before the symbols", offset=stop)
        end = (bit + 7) // 8
        if end != stop:
            raise CorruptFile("bytes follow the last code", offset=end)
        if bit & 7 and payload[end - 1] & (255 >> (bit & 7)):
            raise CorruptFile("the bits after the last code are not zero", offset=end - 1)
    return out


def _canonical_decoder(used: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, ...]:
    """The tables for the decoding kernels: symbols in canonical order; first code, offset and count by length; look-up
    table."""
    from nqbench_coders.kernels.huffman import LENGTHS, LOOKUP, build_lookup

    counts = np.bincount(lengths, minlength=LENGTHS)
    offset = np.cumsum(counts) - counts
    first = np.zeros(LENGTHS, dtype=np.int64)
    for length in range(1, LENGTHS):
        first[length] = (first[length - 1] + counts[length - 1]) << 1
    symbols = used[np.argsort(lengths, kind="stable")].astype(np.int32)
    table = np.zeros(4 << LOOKUP, dtype=np.int32)
    info = np.zeros(1 << LOOKUP, dtype=np.uint8)
    single, ranks = np.zeros((2, 1 << LOOKUP), dtype=np.int64)
    build_lookup(symbols, first, offset, counts, single, ranks, table, info)
    return symbols, first, offset, counts, table, info
