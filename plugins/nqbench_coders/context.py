"""Adaptive binary arithmetic coding of levels, in the contexts of the weights around them.

(draft)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec
from nqbench.api.toolkit.bits import ByteReader, varint
from nqbench_coders.huffman import Huffman
from nqbench_coders.rans import MOST_PRECISION, Rans
from nqbench_coders.used import used_symbols

CHUNK = 1 << 20
"""Symbols a chunk, at least: each learns anew, which costs a few hundred bytes, and is coded on a core of its own."""

HUFFMAN = MOST_PRECISION + 1
CONTEXT = 32
MIXED, NAMES_ZERO, BITMAP = 1, 2, 4
VERBATIM = 64

WIDEST = 4096
"""Places of a kernel; a tensor of more, or of fewer than two dimensions, is taken for rows of so many places."""

_REASONS = {-2: "a magnitude lies beyond the alphabet"}


@dataclass(frozen=True, eq=False)
class _Piece:
    """Symbols [start, stop) of the stream, those of a tensor from its given place on."""

    start: int
    stop: int
    place: int
    inputs: int
    height: int
    width: int
    zero: int
    mask: np.ndarray


class Context(Coder, name="context"):
    """Adaptive binary arithmetic coding with contexts from the weights around, on a static code where that is less."""

    mixing: bool = Field(True)
    """Chances from three models, weighed by how well each has done: 1 to 2 % fewer bytes, at two thirds of the speed."""

    def encode(self, stream: Stream) -> Encoded:
        if not stream.symbols.size:
            return Encoded(b"", b"")
        best = _static(stream)
        size = len(best.table) + len(best.payload)
        for flags, levels in _readings(stream):
            encoded = _encode(levels, CONTEXT | flags | MIXED * self.mixing, size)
            if encoded is not None and len(encoded.table) + len(encoded.payload) < size:
                best, size = encoded, len(encoded.table) + len(encoded.payload)
        return best

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


def _static(stream: Stream) -> Encoded:
    """By ``rans`` or ``huffman``, whichever is less."""
    rans, huffman = Rans().encode(stream), Huffman().encode(stream)
    if not huffman.table or huffman.table[0] < VERBATIM:
        huffman = Encoded(bytes([HUFFMAN]) + huffman.table, huffman.payload)
    return min(rans, huffman, key=lambda encoded: len(encoded.table) + len(encoded.payload))


def _readings(stream: Stream) -> Iterator[tuple[int, Stream]]:
    """What a stream may be read as: levels, or the places of a bitmap."""
    spec = stream.spec
    if _is_bitmap(spec):
        bits = np.unpackbits(stream.symbols.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
        places = bits[:, : spec.dimension].reshape(-1).astype(np.int32)[: _places(spec)]
        yield BITMAP, Stream(places, _bitmap_spec(spec))
    elif spec.dimension == 1 and (spec.ordered or spec.alphabet <= 1 << 8):
        yield 0, stream


def _is_bitmap(spec: StreamSpec) -> bool:
    """Whether each symbol holds ``dimension`` places of the tensors, one bit each."""
    d = spec.dimension
    return 1 < d <= 16 and spec.alphabet == 1 << d and 0 < _places(spec) and -(-_places(spec) // d) == spec.count


def _places(spec: StreamSpec) -> int:
    return sum(int(np.prod(tensor.shape, dtype=np.int64)) for tensor in spec.tensors)


def _bitmap_spec(spec: StreamSpec) -> StreamSpec:
    from dataclasses import replace

    tensors, start = [], 0
    for tensor in spec.tensors:
        stop = start + int(np.prod(tensor.shape, dtype=np.int64))
        tensors.append(replace(tensor, start=start, stop=stop, zero=0, mask=None))
        start = stop
    return StreamSpec(start, 2, True, 1, tuple(tensors))


# -- chunks --------------------------------------------------------------------------------------------------------
def _borders(count: int) -> list[int]:
    chunks = max(1, count // CHUNK)
    return [i * count // chunks for i in range(chunks + 1)]


def _zero_named(spec: StreamSpec) -> bool:
    """Whether the specification says each symbol's zero."""
    return _fits(spec) and all(t.zero is not None and 0 <= t.zero < spec.alphabet for t in spec.tensors)


def _fits(spec: StreamSpec) -> bool:
    """Whether the tensors are just the stream."""
    at = 0
    for tensor in spec.tensors:
        size = int(np.prod(tensor.shape, dtype=np.int64))
        if tensor.mask is not None:
            size = int(np.count_nonzero(tensor.mask)) if tensor.mask.size == size else -1
        if tensor.start != at or tensor.stop - at != size:
            return False
        at = tensor.stop
    return bool(spec.tensors) and at == spec.count


def _pieces(spec: StreamSpec, first: int, last: int, zero: int) -> Iterator[_Piece]:
    """A chunk's tensors. zero: for those whose specification has none."""
    nothing = np.zeros(0, dtype=np.bool_)
    if not _fits(spec):
        yield _Piece(first, last, first, 1, 1, WIDEST, zero, nothing)
        return
    for tensor in spec.tensors:
        start, stop = max(first, tensor.start), min(last, tensor.stop)
        if start >= stop:
            continue
        place, mask = start - tensor.start, nothing
        if tensor.mask is not None:
            mask = np.require(tensor.mask, np.bool_, ("C", "W")).reshape(-1)
            place = int(np.flatnonzero(mask)[place]) if place else 0
        own = tensor.zero if tensor.zero is not None and 0 <= tensor.zero < spec.alphabet else zero
        yield _Piece(start, stop, place, *_geometry(tensor.shape), own, mask)


def _geometry(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Inputs of a filter, height and width of its kernels."""
    if len(shape) < 2 or shape[0] < 2:
        return 1, 1, WIDEST
    height, width = int(np.prod(shape[2:-1], dtype=np.int64)), shape[-1] if len(shape) > 2 else 1
    return (shape[1], height, width) if height * width <= WIDEST else (1, 1, WIDEST)


def _model() -> tuple[np.ndarray, ...]:
    from nqbench_coders.kernels.context import fresh_model

    return np.full(2, 1 << 11, dtype=np.int64), *fresh_model()


def _in_parallel(task: Callable[[int], object], chunks: int) -> list[object]:
    from numba import config

    threads = min(chunks, int(config.NUMBA_NUM_THREADS))
    if threads == 1:
        return [task(i) for i in range(chunks)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(task, range(chunks)))


def _encode(stream: Stream, flags: int, most: int) -> Encoded | None:
    """None where the payload would have more than ``most`` bytes."""
    from nqbench_coders.kernels.context import code_tensor

    spec, table, zero = stream.spec, bytes([flags]), 0
    if not _zero_named(spec):
        used, counts = used_symbols(stream)
        zero = int(used[np.argmax(counts)])
        table = bytes([flags | NAMES_ZERO]) + varint(zero)
    borders = _borders(spec.count)
    symbols = np.require(stream.symbols, requirements="W")  # compiled once, for arrays that may be written to

    def chunk(i: int) -> bytes | None:
        room = min(most // 4, borders[i + 1] - borders[i]) + 100 + 64
        words, state = np.empty(room, dtype=np.uint32), np.array([0, (1 << 64) - 1, 0], dtype=np.uint64)
        model = _model()
        for p in _pieces(spec, borders[i], borders[i + 1], zero):
            status = code_tensor(
                symbols[p.start : p.stop], p.mask, p.place, p.inputs, p.height, p.width, p.zero, spec.alphabet,
                bool(flags & MIXED), False, words, state, *model,
            )  # fmt: skip
            if status:
                return None
        return _ended(words, state)

    parts = []
    for part in _in_parallel(chunk, len(borders) - 1):
        if not isinstance(part, bytes):
            return None
        parts.append(part)
    return Encoded(table + b"".join(varint(len(part)) for part in parts[:-1]), b"".join(parts))


def _ended(words: np.ndarray, state: np.ndarray) -> bytes:
    """The fewest bytes that, followed by zeros, name a number in [low, low + span)."""
    low, span, size = (int(value) for value in state)
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
    if flags & ~(CONTEXT | MIXED | NAMES_ZERO | BITMAP):
        raise CorruptFile(f"the table begins with {flags}", section="coder_table", offset=0)
    levels = spec
    if flags & BITMAP:
        if not _is_bitmap(spec):
            raise CorruptFile("a bitmap of a stream that is none", section="coder_table", offset=0)
        levels = _bitmap_spec(spec)
    if bool(flags & NAMES_ZERO) == _zero_named(levels):
        raise CorruptFile("a zero symbol where there is one, or none", section="coder_table", offset=0)
    borders, payload = _borders(levels.count), ByteReader(encoded.payload)
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
    symbols = np.empty(levels.count, dtype=np.int32)

    def chunk(i: int) -> None:
        pieces = _pieces(levels, borders[i], borders[i + 1], zero)
        _decode_chunk(encoded.payload, starts[i], starts[i + 1], pieces, levels.alphabet, bool(flags & MIXED), symbols)

    _in_parallel(chunk, len(borders) - 1)
    return _packed(symbols, spec) if flags & BITMAP else symbols


def _decode_chunk(
    payload: bytes, start: int, stop: int, pieces: Iterator[_Piece], alphabet: int, mixed: bool, symbols: np.ndarray
) -> None:
    from nqbench_coders.kernels.context import code_tensor

    size = stop - start
    words = np.zeros(-(-size // 4) + 2, dtype=np.uint32)
    words.view(np.uint8)[:size] = np.frombuffer(payload, dtype=np.uint8)[start:stop]
    words.byteswap(inplace=True)
    state = np.array([int(words[0]) << 32 | int(words[1]), (1 << 64) - 1, 2], dtype=np.uint64)
    model = _model()
    for p in pieces:
        status = code_tensor(
            symbols[p.start : p.stop], p.mask, p.place, p.inputs, p.height, p.width, p.zero, alphabet,
            mixed, True, words, state, *model,
        )  # fmt: skip
        if status:
            raise CorruptFile(_REASONS[status], offset=start + min(4 * int(state[2]), size))
    read = 4 * int(state[2])
    if size > read:
        raise CorruptFile("bytes follow the last symbol", offset=start + read)
    if size and not payload[stop - 1]:
        raise CorruptFile("the last byte says nothing", offset=stop - 1)


def _packed(places: np.ndarray, spec: StreamSpec) -> np.ndarray:
    """(count,) int32: ``dimension`` places a symbol, the first in the lowest bit."""
    padded = np.zeros((spec.count, spec.dimension), dtype=np.int32)
    padded.reshape(-1)[: places.size] = places
    return (padded << np.arange(spec.dimension, dtype=np.int32)).sum(axis=1, dtype=np.int32)
