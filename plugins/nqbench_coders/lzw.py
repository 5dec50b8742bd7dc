"""LZW (Welch 1984, A technique for high-performance data compression) on symbols of any alphabet.

Bitstream
---------
Table: empty for an empty stream. With a clear code (``reset``) it begins with a byte 0. Then comes nothing if the roots
are the whole alphabet, 0 .. alphabet - 1; else (where the symbols that occur, m of them, allow narrower codes) a varint
m (unsigned LEB128: an ``int`` of the file's specification) and, by ``nqbench_coders.table``, those symbols, each of
class 0 with a frequency of 1 (target m): root r then stands for the r-th of them. R is the number of roots.

Payload: codes, one after the other, each from its lowest bit up, bits filling bytes from the lowest up; the last byte
is filled with 0s. The dictionary begins with codes 0 .. R - 1, the roots, and, where there is one, the clear code R; B
is their number, and its size S = B. A code is written in ceil(log2 S) bits, S being the size when it is written. It
stands for the longest phrase of the dictionary that the rest of the stream begins with. After each code, if S < L =
max(2^dictionary_bits, B), the phrase and the symbol after it become entry S, and S grows by 1. (A decoder knows that
symbol one code later; the code in between may be S - 1 itself, whose phrase then ends with its own first symbol.) When
S reaches L the dictionary stays as it is. The clear code stands for no symbol, makes no entry, and brings the
dictionary back to S = B.

The encoder decides when to clear. This one clears as soon as S reaches L, or earlier if compression gets worse: if the
last 4096 symbols or so took an eighth more bits each than the best such window since the last clearing.

``reset`` without the byte 0 (files written before there was a clear code): B = R, and when S reaches L, S = R again.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec
from nqbench.api.toolkit.bits import ByteReader, bit_width, varint, words
from nqbench_coders.symbol_counts import ranked, used_symbols
from nqbench_coders.table import read_table, write_table

_CLEARS = b"\0"
_PART = 1 << 16
"""Number of symbols renamed at a time: numpy takes 8 bytes for each index."""

_WORTH = 16
"""A full dictionary is laid out again if the stream has at least this many symbols per entry."""
_ROOM = 4
"""Largest number of places per entry that the layout may take."""

_REASONS = {
    -1: "the codes run out before the symbols",
    -2: "a code is not in the dictionary",
    -3: "a phrase is longer than the rest of the stream",
}


class Lzw(Coder, name="lzw", paper="Welch 1984, A technique for high-performance data compression"):
    """Lempel-Ziv-Welch with codes that widen as the dictionary grows."""

    dictionary_bits: int = Field(16, ge=9, le=20)
    """The dictionary has at most 2^dictionary_bits entries (or one per symbol, if there are more symbols)."""

    when_full: Literal["freeze", "reset"] = "freeze"
    """What to do when the dictionary is full: keep it, or empty it, in which case it is also emptied when compression
    gets worse."""

    def encode(self, stream: Stream) -> Encoded:
        from nqbench_coders.kernels.lzw import WINDOW

        if not stream.symbols.size:
            return Encoded(b"", b"")
        clears = self.when_full == "reset"
        symbols, roots, table = stream.symbols, stream.spec.alphabet, _CLEARS * clears
        used, _ = used_symbols(stream)
        if bit_width(used.size) < bit_width(roots):
            symbols, size = ranked(stream, used)
            roots = used.size
            root_of = np.zeros(size, dtype=np.int32)
            root_of[used if size > roots else slice(None)] = np.arange(roots, dtype=np.int32)
            table += varint(used.size) + write_table(used, np.zeros_like(used), np.zeros_like(used))
        else:
            root_of = np.arange(roots, dtype=np.int32)
        limit = self._limit(roots + clears)
        codes = symbols.size + clears * (symbols.size // min(WINDOW, max(limit - roots - 1, 1)) + 1)
        out = np.empty(codes * bit_width(limit) // 64 + 2, dtype=np.uint64)
        bits = self._fill(symbols, root_of, roots, out)
        return Encoded(table, out[: bits // 64 + 1].astype("<u8").tobytes()[: (bits + 7) // 8])

    def _fill(self, symbols: np.ndarray, root_of: np.ndarray, roots: int, out: np.ndarray) -> int:
        """Fills ``out`` with the payload. Returns its number of bits."""
        from nqbench_coders.kernels import lzw as growing
        from nqbench_coders.kernels import lzw_full as full

        clears = self.when_full == "reset"
        limit = self._limit(roots + clears)
        firsts = np.zeros(limit, dtype=np.uint32)
        slots = np.zeros(2 << self.dictionary_bits, dtype=np.uint64)
        state = np.zeros(5, dtype=np.uint64)
        # a full dictionary is laid out again if that pays for itself and takes little memory compared with the stream
        many = not clears and roots <= limit // 2 and symbols.size >= _WORTH * limit
        read = growing.encode_lzw(symbols, root_of, roots, limit, clears, many, firsts, slots, state, out)
        if read < symbols.size:
            steps = np.empty(limit, dtype=np.uint64)
            places = full.rows_of(limit, roots, firsts, slots, steps)
            if places <= min(_ROOM * limit, 1 << full.SLOT_BITS):
                entries = np.zeros(places, dtype=np.uint64)
                full.lay_out(firsts, slots, steps, entries)
                found = np.empty(4 * full.LANE, dtype=np.uint64)
                full.encode_full(symbols, root_of, read, entries, steps, found, state, out)
            else:
                firsts[:], slots[:] = 0, 0
                growing.encode_lzw(symbols, root_of, roots, limit, clears, False, firsts, slots, state, out)
        return int(growing.last_code(state, out))

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        if not spec.count:
            if encoded.table or encoded.payload:
                raise CorruptFile("an empty stream has bytes", offset=0)
            return np.empty(0, dtype=np.int32)
        clears = self.when_full == "reset" and encoded.table[:1] == _CLEARS
        if len(encoded.table) == clears:
            return self._decode(encoded.payload, spec.count, spec.alphabet, clears)
        reader = ByteReader(encoded.table)
        reader.take(int(clears))
        try:
            distinct = reader.varint(min(spec.alphabet, spec.count), "the number of symbols that occur")
        except CorruptFile as error:
            raise error.at(section="coder_table") from None
        if not distinct:
            raise CorruptFile("a table of no symbols", section="coder_table", offset=int(clears))
        start = reader.offset
        used = read_table(encoded.table, spec.alphabet, spec.count, distinct, with_extra=True, start=start).used
        if used.size != distinct:
            reason = f"the table names {used.size} symbols where {distinct} were announced"
            raise CorruptFile(reason, section="coder_table", offset=0)
        out = self._decode(encoded.payload, spec.count, distinct, clears)
        named = used.astype(np.int32)
        for start in range(0, out.size, _PART):
            out[start : start + _PART] = named[out[start : start + _PART]]
        return out

    def _limit(self, first: int) -> int:
        return max(1 << self.dictionary_bits, first)

    def _decode(self, payload: bytes, count: int, roots: int, clears: bool) -> np.ndarray:
        from nqbench_coders.kernels.lzw import decode_lzw

        limit = self._limit(roots + clears)
        out = np.empty(count, dtype=np.int32)
        places = np.empty(1 << self.dictionary_bits, dtype=np.uint64)
        reset = self.when_full == "reset" and not clears
        bits = int(decode_lzw(words(payload), 8 * len(payload), roots, limit, clears, reset, places, out))
        if bits < 0:
            status = -(-bits % 4)
            raise CorruptFile(_REASONS[status], offset=(-bits // 4) // 8)
        if len(payload) != (bits + 7) // 8:
            raise CorruptFile("bytes follow the last code", offset=(bits + 7) // 8)
        if bits & 7 and payload[-1] >> (bits & 7):
            raise CorruptFile("the bits after the last code are not zero", offset=len(payload) - 1)
        return out
