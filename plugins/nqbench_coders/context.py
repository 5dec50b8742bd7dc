"""Adaptive binary arithmetic coding of levels, with contexts from neighbouring weights.

Binarization and adaptive contexts as in CABAC (Marpe, Schwarz, Wiegand 2003) and DeepCABAC (Wiedemann et al. 2020,
arXiv:1907.11900), mixing as in PAQ (Mahoney 2005). The magnitude of a quantized weight can be predicted from the scale
of the weights of its input channel, its filter, its layer, and its neighbours. Since kernels are smooth, its sign can
be predicted from the signs of the neighbours in the kernel, of the weight at the same place in the preceding kernel,
and of the one in the preceding filter.

Bitstream
=========
All numbers are integers; a / b rounds down, also below zero; shifts likewise. [x] is 1 where x holds, else 0.

Table
-----
Nothing for an empty stream. Else the first byte says what the rest is:

- 0 ... 28: table and payload are those of ``rans`` (whose own first byte this is);
- 29: then those of ``huffman`` follow; 64 ... 255: they are those of ``huffman`` from this byte on;
- 32 + 1 [mixed] + 2 [a zero symbol is named] + 4 [bitmap] + 8 [signed]: then come the zero symbol, if named, and the
  sizes in bytes of all chunks but the last, all as varints (unsigned LEB128: an ``int`` of the file's specification);
  the payload is the chunks. Other values are none. (The encoder writes signed ones; there are older files of others.)

A *bitmap* (positions of pruned weights): the alphabet is 2^b, 1 <= b <= 16, the specification's tensors have empty
parts, and their T places, row-major one after the other, b to a symbol from its lowest bit up, are ceil(T / b) symbols;
what is coded is T symbols 0 or 1, of the alphabet 2, with the zero symbol 0 (its padding is 0s).

A zero symbol is named unless the specification names one in each of its tensors. (The encoder names the most common.)

Chunks
------
n symbols are in C = max(1, n / 2^20) chunks, the i-th of them [i n / C, (i + 1) n / C), i from 0; chunks share no
adaptive state. A chunk's *pieces* are the symbols that it holds of each of the specification's tensors, in order, if
the tensors' parts are just the stream; else the one piece is the chunk, of an imagined tensor without a mask.

A tensor's places are row-major. Of shape (O, I, ..., W), O >= 2, it is O filters, of I inputs, of kernels of H x W
places (H the product of what "..." stands for; H = W = 1 for (O, I)), unless H W > 4096. That, and any other shape, and
the imagined tensor, is filters of I = 1 input, H = 1, W = 4096, the last as long as it is. A piece goes through all
places from its first symbol's to its last symbol's; those that the mask leaves out have the magnitude 0 and no symbol.

Averages
--------
A magnitude is 4096 min(|symbol - zero|, 15). R(n) = 131072 / (2 n + 3). In a chunk, recent = mean = 2048 to begin with.
In a piece, each input i has an average A[i] and a time t[i] = 0; each filter, also one begun within, F = mean, u = 3.

At each place, of column c (from 0, in its filter), input i = c / (H W) and spot s = c mod (H W):

1. If t[i] = 0: A[i] = recent, t[i] = 1. If c is a multiple of 16, or the place is the piece's first:
   inverse = 2^24 / (mean + 82).
2. Unless masked, the symbol is coded, in contexts of these. m(k) is the magnitude k places before; where that is before
   the filter's or the piece's first place, the value that mean had when the filter or the piece began.
   left = m(1), above = m(3), beside = left if H = 1; else, with B = max(3, H W) for I > 1 and B = max(3, W) for I = 1,
   above = m(W) if s >= W, else m(B), and beside = m(1) if s mod W > 0, else m(B).
   near = (2 left + m(2) + 3 above + 2 beside) / 8,
   scale = min(65535, (A[i] + 82) ((F + 82) inverse / 256) / 65536): what input and filter are to the mean, multiplied.
3. With M the place's magnitude: A[i] += (M - A[i]) R(t[i]) / 65536, t[i] grows by 1 up to 200; F += (M - F) R(u) /
   65536, u grows by 1 up to 1023; recent += (M - recent) / 32; mean += (M - mean) / 256.

Contexts
--------
L(x; y, q, k): with z = x / 16 * 16, how many j of 0 ... k - 2 have z^q >= y^q 2^j (q thresholds an octave from y on).

- a = L((9 scale + 5 near + 2 recent) / 16; 128, 3, 32)
- b = 32 + 16 L(A[i]; 256, 2, 16) + L(F; 256, 2, 16)
- c = 288 + 27 v + 9 min(left / 4096, 2) + 3 min(above / 4096, 2) + min(beside / 4096, 2), with v = min(s, 7) if H W >
  1, else L(recent; 1024, 1, 8)

And, if signed, with V(k) the symbol k places before, less zero, held within [-15, 15], or 0 where that is masked or
before the filter's or the piece's first place:

- v1 = V(1) if H = 1 or s mod W > 0; v2 = V(W) if s >= W; v3 = V(H W); v4 the same at this column in the filter before,
  0 if that is not of the piece; v5 = V(W + 1) if v1 and v2 are so; v6 = V(W - 1) if s >= W and s mod W < W - 1; else 0.
- v = 3 v1 + 3 v2 + v5 + v6; U = L(min(65535, 2^21 |v| / (scale + 1024)); 256, 2, 16), less than 0 if v is.
- d = 504 + 31 L(scale; 1024, 1, 8) + 15 + |U| for decision 0; for the others + U, or - U if the symbol is below zero.
- e = 792 + 27 sgn v1 + 9 sgn v2 + 3 sgn v3 + sgn v4
- g = 833 + 8 (U + 15) + min(s, 7)

Decisions
---------
A symbol is zero + x or zero - x, x <= alphabet - 1 - zero or x <= zero. Decision f, in this order, left out where the
alphabet leaves no choice: 0: x > 0; 15: it is below zero; 1 ... 14: x > f, until one is 0; if x >= 15 and may be more,
r = x - 14 in Exp-Golomb form: 16 + min(j, 15), j = 0, 1, ...: r >= 2^(j + 1), until one is 0; then the j bits of r
after its leading one, highest first, each with the chance 32768. (x beyond the alphabet is an error.)

If signed, x = 1 + q 2^t + r, t = min(max(0, a - 15) / 3, floor(log2 X)) with the a above and X the most that x may be
with its sign. After the sign comes q as if it were x - 1 and the most X - 1, over 2^t, but that 16 + min(j, 7) stands
for 16 + min(j, 15); then the t bits of r, highest first: the first is decision 24 + min(q, 7), the others have the
chance 32768.

Each context has for each f a state: slow = fast = 2^21 and n = 0. Its chance is (slow + fast) / 128. After a decision d
(0 or 1), with r = R(n): slow += (2^22 d - slow) r / 65536, fast += (2^22 d - fast) max(r, 2048) / 65536, and n grows by
1 up to 800.

Not mixed: P = the chance in context a, held within [4, 65532]; only that state learns. If signed, decision 15 is in
context e instead.
Mixed: the chances p of a, b, c give s = round(256 ln((h + 1/2) / (4095.5 - h))), h = min(p / 16, 4095). With weights
w, three for each f, 419430 to begin with: y = (w_a s_a + w_b s_b + w_c s_c) / 2^20, held within [-3072, 3071], and
P = round(65536 / (1 + exp(-y / 256))), held within [4, 65532]. (Nothing here is near a half that might be rounded
either way.) Afterwards each w += (s (65536 d - P) + 8192) / 16384, and the three states learn. If signed, decisions 0
and 1 have four contexts, a, b, c, d, of weights 314572 to begin with, and decision 15 two, e and g, of weights 629145;
the others are not mixed.

Arithmetic coder
----------------
A chunk is a number in [0, 1), its bytes the digits after the point, the highest first, without 0s at the end. The
decoder has x, the first 8 bytes (with 0s for those that are not there), and span = 2^64 - 1. A decision of chance P:
bound = span / 65536 P; it is 1 if x < bound, and span becomes bound; else it is 0, x falls by bound and span by bound.
Then, if span < 2^32, x = 2^32 x + the next 4 bytes, and span = 2^32 span. A chunk has no more bytes than are read so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec
from nqbench.api.toolkit.bits import ByteReader, varint
from nqbench_coders.huffman import Huffman
from nqbench_coders.rans import MOST_PRECISION, Rans
from nqbench_coders.symbol_counts import is_sparse, used_symbols
from nqbench_coders.tensor_layout import (
    Piece,
    as_bitmap,
    bitmap_spec,
    borders_of,
    packed,
    pieces_of,
    places_a_symbol,
    zero_named,
)

if TYPE_CHECKING:
    from nqbench_coders.kernels.context import Chunk

FEW = 1 << 8
"""Largest alphabet for which contexts are tried even if the stream is not declared as levels, as for gaps between
positions."""

TRIED_PART, FEWEST_TRIED = 16, 1 << 16
"""Contexts are tried on a sixteenth of a stream first, if that is at least this many symbols, to see whether the whole
is worth the time."""

WORTH = 1.001
"""Contexts are worth trying on the whole if the part takes at most this share of the bits of a static code: independent
symbols take 0.13 % more for any alphabet, and 0.4 to 1.8 % more if there are 2^16 of them."""

HUFFMAN = MOST_PRECISION + 1
CONTEXT = 32
MIXED, NAMES_ZERO, BITMAP, SIGNED = 1, 2, 4, 8
VERBATIM = 64

_REASONS = {-2: "a magnitude lies beyond the alphabet"}


class Context(Coder, name="context", paper="Wiedemann et al. 2020, arXiv:1907.11900; Mahoney 2005"):
    """Adaptive binary arithmetic coding with contexts from neighbouring weights; or a static code, if smaller."""

    mixing: bool = Field(True)
    """Mix the predictions of several contexts, weighted by how well each did so far: 1 to 2 % fewer bytes, at two
    thirds of the speed."""

    def encode(self, stream: Stream) -> Encoded:
        if not stream.symbols.size:
            return Encoded(b"", b"")
        best, rans = _huffman(stream), Rans()
        least = rans.least(stream)
        flags = CONTEXT | SIGNED | MIXED * self.mixing
        readings = [(flags | BITMAP, as_bitmap(stream))]
        if stream.spec.dimension == 1 and (stream.spec.ordered or stream.spec.alphabet <= FEW):
            readings.append((flags, stream if _promising(stream, flags) else None))
        for form, levels in readings:
            encoded = None if levels is None else _encode(levels, form, _size(best))
            if encoded is not None and _size(encoded) < _size(best):
                best = encoded
        return best if _size(best) <= least else min(rans.encode(stream), best, key=_size)

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        if not spec.count:
            if encoded.table or encoded.payload:
                raise CorruptFile("an empty stream has bytes", offset=0)
            return np.empty(0, dtype=np.int32)
        if not encoded.table:
            raise CorruptFile("the table is empty", section="coder_table", offset=0)
        first = encoded.table[0]
        if first <= MOST_PRECISION:
            return Rans().decode(encoded, spec)
        if first >= VERBATIM:
            return Huffman().decode(encoded, spec)
        if first == HUFFMAN:
            try:
                return Huffman().decode(Encoded(encoded.table[1:], encoded.payload), spec)
            except CorruptFile as error:
                if error.section == "coder_table" and error.offset is not None:
                    raise CorruptFile(error.reason, section=error.section, offset=error.offset + 1) from None
                raise
        return _decode(encoded, spec)


def _size(encoded: Encoded) -> int:
    return len(encoded.table) + len(encoded.payload)


def _huffman(stream: Stream) -> Encoded:
    encoded = Huffman().encode(stream)
    if encoded.table and encoded.table[0] >= VERBATIM:
        return encoded
    return Encoded(bytes([HUFFMAN]) + encoded.table, encoded.payload)


def _promising(stream: Stream, flags: int) -> bool:
    """Whether contexts help, judged from the first sixteenth of every tensor of a long stream.

    A static code is twenty times as fast as coding with contexts, whose result would be discarded if symbols are
    independent.
    """
    spec, count = stream.spec, stream.symbols.size
    if count // TRIED_PART < FEWEST_TRIED or is_sparse(stream):
        return True
    used, counts = used_symbols(stream)
    zero = int(used[np.argmax(counts)])
    (whole,) = pieces_of(spec, [0, count], zero)
    tried = [replace(p, stop=p.start - (p.start - p.stop) // TRIED_PART) for p in whole]
    sample = np.concatenate([stream.symbols[p.start : p.stop] for p in tried])
    found, occurring = used_symbols(Stream.of(sample, spec.alphabet))
    bits = np.log2(count / counts[np.searchsorted(used, found)])
    most = int(WORTH * (occurring * bits).sum() / 8)
    payload = _encoded_pieces(stream, tried, most, flags)
    return payload is not None and len(payload) <= most


def _fresh_chunk(words: np.ndarray, interval: list[int], flags: int, *, decoding: bool) -> Chunk:
    from nqbench_coders.kernels.context import CONTEXTS, Chunk
    from nqbench_coders.kernels.decisions import fresh_model

    model = fresh_model(CONTEXTS, mixing=bool(flags & MIXED), signed=bool(flags & SIGNED))
    averages = np.full(2, 1 << 11, dtype=np.int64)
    return Chunk(words, np.array(interval, dtype=np.uint64), averages, model, decoding)


def _in_parallel(task: Callable[[int], object], chunks: int) -> list[object]:
    from numba import config

    threads = min(chunks, int(config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    if threads == 1:
        return [task(i) for i in range(chunks)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(task, range(chunks)))


def _encode(stream: Stream, flags: int, most: int) -> Encoded | None:
    """None if the payload would have more than ``most`` bytes."""
    spec, table, zero = stream.spec, bytes([flags]), 0
    if not zero_named(spec):
        used, counts = used_symbols(stream)
        zero = int(used[np.argmax(counts)])
        table = bytes([flags | NAMES_ZERO]) + varint(zero)
    borders = borders_of(spec.count)
    held = pieces_of(spec, borders, zero)

    def chunk(i: int) -> bytes | None:
        return _encoded_pieces(stream, held[i], min(most, 4 * (borders[i + 1] - borders[i])), flags)

    parts = []
    for part in _in_parallel(chunk, len(borders) - 1):
        if not isinstance(part, bytes):
            return None
        parts.append(part)
    return Encoded(table + b"".join(varint(len(part)) for part in parts[:-1]), b"".join(parts))


def _encoded_pieces(stream: Stream, held: Iterable[Piece], most: int, flags: int) -> bytes | None:
    """The pieces as one chunk; None if it would have more than about ``most`` bytes."""
    words = np.empty(most // 4 + 164, dtype=np.uint32)
    chunk = _fresh_chunk(words, [0, (1 << 64) - 1, 0], flags, decoding=False)
    for piece in held:
        # a read-only array would make numba compile the kernel a second time
        symbols = np.require(stream.symbols[piece.start : piece.stop], requirements="W")
        if _code(symbols, piece, stream.spec.alphabet, chunk):
            return None
    return _ended(words, chunk.interval)


def _code(symbols: np.ndarray, piece: Piece, alphabet: int, chunk: Chunk) -> int:
    from nqbench_coders.kernels.context import Tensor, code_places, fresh_filters

    tensor = Tensor(piece.place, piece.inputs, piece.height, piece.width, piece.zero, alphabet)
    return int(code_places(symbols, piece.mask, tensor, fresh_filters(tensor, int(chunk.averages[1])), chunk))


def _ended(words: np.ndarray, interval: np.ndarray) -> bytes:
    """The fewest bytes that, followed by zeros, name a number in [low, low + span)."""
    low, span, size = (int(value) for value in interval)
    for shift in range(64, -1, -8):
        last = (low + (1 << shift) - 1) >> shift << shift
        if last < low + span:
            break
    if last >> 64:
        size -= 1
        while words[size] == 0xFFFFFFFF:
            size -= 1
        words[size] += 1
        size += 1
    data = words[:size].astype(">u4").tobytes() + (last & (1 << 64) - 1).to_bytes(8, "big")
    return data.rstrip(b"\0")


def _decode(encoded: Encoded, spec: StreamSpec) -> np.ndarray:
    flags, reader = encoded.table[0], ByteReader(encoded.table)
    reader.take(1)
    if flags & ~(CONTEXT | MIXED | NAMES_ZERO | BITMAP | SIGNED):
        raise CorruptFile(f"the table begins with {flags}", section="coder_table", offset=0)
    levels = spec
    if flags & BITMAP:
        if not places_a_symbol(spec):
            raise CorruptFile(
                "the table declares a bitmap, but the stream cannot be one", section="coder_table", offset=0
            )
        levels = bitmap_spec(spec)
    if bool(flags & NAMES_ZERO) == zero_named(levels):
        raise CorruptFile(
            "a zero symbol must be named exactly where the specification has none", section="coder_table", offset=0
        )
    borders, payload = borders_of(levels.count), ByteReader(encoded.payload)
    try:
        zero = reader.varint(levels.alphabet - 1, "the zero symbol") if flags & NAMES_ZERO else 0
        sizes = [reader.varint(len(encoded.payload), "a chunk's size") for _ in borders[2:]]
    except CorruptFile as error:
        raise error.at(section="coder_table") from None
    if reader.left:
        raise CorruptFile("bytes follow the table's end", section="coder_table", offset=reader.offset)
    starts = [0]
    for size in sizes:
        payload.take(size)
        starts.append(payload.offset)
    starts.append(len(encoded.payload))
    symbols, held = np.empty(levels.count, dtype=np.int32), pieces_of(levels, borders, zero)

    def chunk(i: int) -> None:
        _decode_chunk(encoded.payload, starts[i], starts[i + 1], held[i], levels.alphabet, flags, symbols)

    _in_parallel(chunk, len(borders) - 1)
    return packed(symbols, spec) if flags & BITMAP else symbols


def _decode_chunk(
    payload: bytes, start: int, stop: int, pieces: Iterable[Piece], alphabet: int, flags: int, symbols: np.ndarray
) -> None:
    size = stop - start
    words = np.zeros(-(-size // 4) + 2, dtype=np.uint32)
    words.view(np.uint8)[:size] = np.frombuffer(payload, dtype=np.uint8)[start:stop]
    words.byteswap(inplace=True)
    chunk = _fresh_chunk(words, [int(words[0]) << 32 | int(words[1]), (1 << 64) - 1, 2], flags, decoding=True)
    for piece in pieces:
        status = _code(symbols[piece.start : piece.stop], piece, alphabet, chunk)
        if status:
            raise CorruptFile(_REASONS[status], offset=start + min(4 * int(chunk.interval[2]), size))
    read = 4 * int(chunk.interval[2])
    if size > read:
        raise CorruptFile("bytes follow the last symbol", offset=start + read)
    if size and not payload[stop - 1]:
        raise CorruptFile("the last byte is superfluous", offset=stop - 1)
