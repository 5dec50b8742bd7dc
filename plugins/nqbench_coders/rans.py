"""Static range asymmetric numeral systems (Duda 2013, arXiv:1311.2540): the coder that reaches the entropy.

Bitstream
---------
Table: nothing for an empty stream; else one byte P, the precision, at most 28, and, by ``nqbench_coders.table``, each
symbol that occurs with its frequency F >= 1, the class being floor(log2 F) and the extra bits the rest of F; the
frequencies sum to 2^P. C is the sum of the frequencies of smaller symbols. With one distinct symbol (P = 0) there is
no payload.

Decoding symbol i = 0, 1, ...: of state x = x[i mod N], slot = x mod 2^P lies in [C, C + F) of exactly one symbol, which
is the one; then x becomes F (x >> P) + slot - C; then, if x < 2^31 and words are left, x becomes x 2^32 + the next
word. Words have 32 bits, little-endian.

Payload, from 2^19 symbols on: N = 8 states of 8 bytes, little-endian, then the words; after the last symbol every
state is 2^31 and no word is left. Shorter streams: N = 1, and the state ends as 0, which saves its bytes: with no more
than 8 bytes in all they are the state, little-endian, without its leading zeros, and there are no words; else, with B
bytes, the state has (B - 1) mod 4 + 5, and the words follow.

The precision is chosen for the fewest bytes, table and payload together: up to 16 bits (or ceil(log2 m) + 4, if that is
more, m being the number of distinct symbols), and from there on, by two at a time, as long as it pays. It does in long
streams where one symbol dominates: thousands of rare ones, which take 2^-P of the whole each, are dear at 16 bits.
"""

from __future__ import annotations

import numpy as np

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec
from nqbench.api.toolkit.bits import bit_width
from nqbench_coders.symbol_counts import ranked, used_symbols
from nqbench_coders.table import Table, read_table, write_table

MANY = 1 << 19
"""Number of symbols from which there are eight states, whose 64 bytes are then less than 0.1 % at 1 bit per symbol."""

MOST_PRECISION = 28

LOOKED_UP = 18
"""Largest precision at which the decoder looks up a slot's symbol, in 512 KiB. A larger table does not fit the caches
near the core, and is not faster than the search among the cumulative frequencies that takes its place."""


class Rans(Coder, name="rans", paper="Duda 2013, arXiv:1311.2540"):
    """Range asymmetric numeral system; the symbols' frequencies are stored in the file."""

    def encode(self, stream: Stream) -> Encoded:
        from nqbench_coders.kernels.rans import MULTIPLIED, encode_rans, encode_rans_of_eight, reciprocals

        if not stream.symbols.size:
            return Encoded(b"", b"")
        used, counts = used_symbols(stream)
        precision, frequencies, table = best_table(used, counts)
        if used.size == 1:
            return Encoded(table, b"")
        symbols, size = ranked(stream, used)
        # bound of the excess per symbol: a state has at least 31 - precision bits more than the frequency
        bits = _bits(counts, frequencies, precision) + symbols.size * 1.5 * 2.0 ** (precision - 31)
        words = np.empty(int(bits) // 32 + 16, dtype=np.uint32)
        states = _first_states(symbols.size)
        if states.size == 8 and size <= MULTIPLIED:
            rows = _spread(reciprocals(frequencies, precision), used, size)
            first = int(encode_rans_of_eight(symbols, rows, states, words))
        else:
            rows = _spread(_entries(frequencies), used, size)
            first = int(encode_rans(symbols, rows, np.uint64(precision), states, words))
        tail = words[first:].astype("<u4").tobytes()
        if states.size > 1:
            return Encoded(table, states.astype("<u8").tobytes() + tail)
        state = int(states[0])
        length = (state.bit_length() + 7) // 8
        return Encoded(table, state.to_bytes(max(length, 5) if tail else length, "little") + tail)

    def least(self, stream: Stream) -> float:
        """A lower bound of the size of ``encode``'s result, in bytes, from the entropy; to decide whether encoding is
        worthwhile."""
        used, counts = used_symbols(stream)
        if used.size == 1:
            return 0.0
        # pushing the smallest symbol onto the state 0 leaves it 0: such symbols at the end of the stream cost nothing
        counts[0] -= np.argmax(stream.symbols[::-1] != used[0])
        counts = counts[counts > 0]
        precision = _most_tried(used.size, stream.symbols.size)
        bits = (counts * np.log2(counts.sum() / counts)).sum() - stream.symbols.size * 1.5 * 2.0 ** (precision - 31)
        return float(bits) / 8 - 8

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        if not spec.count:
            if encoded.table or encoded.payload:
                raise CorruptFile("an empty stream has bytes", offset=0)
            return np.empty(0, dtype=np.int32)
        if not encoded.table or encoded.table[0] > MOST_PRECISION:
            reason = f"the table does not begin with a precision of at most {MOST_PRECISION}"
            raise CorruptFile(reason, section="coder_table", offset=0)
        precision = encoded.table[0]
        table = read_table(encoded.table, spec.alphabet, spec.count, 1 << precision, with_extra=True, start=1)
        if table.used.size == 1:
            if encoded.payload:
                raise CorruptFile("a stream of one distinct symbol has a payload", offset=0)
            return np.full(spec.count, table.used[0], dtype=np.int32)
        return _decode(encoded.payload, spec.count, table, precision)


def _decode(payload: bytes, count: int, table: Table, precision: int) -> np.ndarray:
    from nqbench_coders.kernels.rans import decode_rans

    end = _first_states(count)
    states, words = _split_payload(payload, end.size)
    frequencies = (1 << table.classes) + table.extra
    entries = _entries(frequencies)
    ranks = np.empty(0, dtype=np.uint16)
    if precision <= LOOKED_UP and table.used.size <= 1 << 16:
        ranks = np.repeat(np.arange(table.used.size, dtype=np.uint16), frequencies)
    out = np.empty(count, dtype=np.int32)
    used = table.used.astype(np.int32)
    read = int(decode_rans(words, used, entries, ranks, np.uint64(precision), states, out))
    if read != words.size:
        raise CorruptFile("words follow the last symbol", offset=len(payload) - 4 * (words.size - read))
    if (states != end).any():
        raise CorruptFile("the last state is not the one a coder begins with", offset=len(payload))
    return out


def _split_payload(payload: bytes, turns: int) -> tuple[np.ndarray, np.ndarray]:
    """(turns,) uint64 states and the uint32 words after them."""
    size = len(payload)
    if turns > 1:
        head = 8 * turns
        if size < head or (size - head) % 4:
            raise CorruptFile(f"{size} bytes are not {turns} states and whole words", offset=min(size, head))
        states = np.frombuffer(payload[:head], dtype="<u8").astype(np.uint64)
    else:
        head = size if size <= 8 else (size - 1) % 4 + 5
        states = np.array([int.from_bytes(payload[:head], "little")], dtype=np.uint64)
    if int(states.max()) >> 63:
        raise CorruptFile("a state is too large", offset=0)
    return states, np.frombuffer(payload[head:], dtype="<u4").astype(np.uint32)


def _first_states(count: int) -> np.ndarray:
    if count >= MANY:
        return np.full(8, 1 << 31, dtype=np.uint64)
    return np.zeros(1, dtype=np.uint64)


def _entries(frequencies: np.ndarray) -> np.ndarray:
    """(m,) uint64: cumulative frequency << 32 | frequency."""
    entries: np.ndarray = (np.cumsum(frequencies) - frequencies) << 32 | frequencies
    return entries.astype(np.uint64)


def _spread(rows: np.ndarray, used: np.ndarray, size: int) -> np.ndarray:
    """Rows indexed by rank -> rows indexed by symbol: (m w,) uint64 -> (size w,), ones for symbols that do not
    occur."""
    if size == used.size:
        return rows
    spread = np.ones((size, rows.size // used.size), dtype=np.uint64)
    spread[used] = rows.reshape(used.size, -1)
    return spread.reshape(-1)


def _bits(counts: np.ndarray, frequencies: np.ndarray, precision: int) -> float:
    return float(np.dot(counts, precision - np.log2(frequencies)))


def _most_tried(distinct: int, count: int) -> int:
    """The largest precision that may be chosen. Beyond the number of symbols none has less than its share."""
    return min(max(16, bit_width(distinct) + 4, bit_width(count)), MOST_PRECISION)


def best_table(used: np.ndarray, counts: np.ndarray) -> tuple[int, np.ndarray, bytes]:
    """The precision, (m,) int64 frequencies and the table for which table and payload take the fewest bytes."""
    least = bit_width(used.size)
    if used.size == 1:
        return _with_table(used, counts, 0)[1]
    if least > 12:
        tried = [min(least + 4, MOST_PRECISION)]
    else:
        tried = sorted({p for p in (least, least + 1, least + 2, 8, 10, 12, 14, 16) if least <= p <= 16})
    size, best = min((_with_table(used, counts, precision) for precision in tried), key=lambda found: found[0])
    for precision in range(tried[-1] + 2, _most_tried(used.size, int(counts.sum())) + 1, 2):
        if best[0] != precision - 2:
            break
        longer, found = _with_table(used, counts, precision)
        if longer < size:
            size, best = longer, found
    return best


def _with_table(used: np.ndarray, counts: np.ndarray, precision: int) -> tuple[float, tuple[int, np.ndarray, bytes]]:
    """The bytes of table and payload at a precision, and what ``best_table`` gives then."""
    frequencies = quantized_frequencies(counts, precision)
    classes = np.frexp(frequencies)[1].astype(np.int64) - 1
    table = bytes([precision]) + write_table(used, classes, frequencies - (1 << classes))
    return len(table) + _bits(counts, frequencies, precision) / 8, (precision, frequencies, table)


def quantized_frequencies(counts: np.ndarray, precision: int) -> np.ndarray:
    """counts: (m,) int64 > 0 -> (m,) int64 >= 1 that sum to 2^precision, nearly proportional, m <= 2^precision.

    They are rounded, then changed by one at a time where that costs the fewest bits, until the sum is right: no other
    frequencies that all lie on that side of the rounded ones take fewer bits.
    """
    from nqbench_coders.kernels.rans import costs_of_a_step, step_where_cheapest

    counts = np.ascontiguousarray(counts, dtype=np.int64)
    total = 1 << precision
    f: np.ndarray = np.maximum(np.rint(counts * (total / counts.sum())).astype(np.int64), 1)
    excess = int(f.sum()) - total
    if excess:
        step, times = (-1 if excess > 0 else 1), abs(excess)
        costs = costs_of_a_step(counts, f, step)
        # so many steps reach at most as many places, those at which the first one is cheapest
        heap = np.argsort(costs, kind="stable")[:times]
        step_where_cheapest(counts, f, step, times, costs[heap], heap)
    return f
