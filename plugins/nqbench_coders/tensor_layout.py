"""The layout of a stream for ``nqbench_coders.context``: chunks, the pieces of tensors in them, and bitmaps of
positions.

The docstring of that module is the specification.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nqbench.api import Stream, StreamSpec, StreamTensor

CHUNK = 1 << 20
"""Smallest number of symbols per chunk: each chunk adapts from scratch, which costs a few hundred bytes, and can be
coded by a core of its own."""

WIDEST = 4096
"""Largest number of places of a kernel; a tensor with larger kernels, or of fewer than two dimensions, is treated as
rows of this many places."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Symbols [start, stop) of the stream, which are those of a tensor from the given place on."""

    start: int
    stop: int
    place: int
    inputs: int
    height: int
    width: int
    zero: int
    mask: np.ndarray


def as_bitmap(stream: Stream) -> Stream | None:
    """The stream of a bitmap's single places, if the stream can be a bitmap; else None."""
    each = places_a_symbol(stream.spec)
    if not each:
        return None
    bits = np.unpackbits(stream.symbols.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    row, of = bits[:, :each].reshape(-1), bitmap_spec(stream.spec)
    return None if row[of.count :].any() else Stream(row[: of.count].astype(np.int32), of)


def places_a_symbol(spec: StreamSpec) -> int:
    """The number of places per symbol, one bit each, if the stream can be a bitmap; else 0."""
    each = spec.alphabet.bit_length() - 1
    if not 1 <= each <= 16 or spec.alphabet != 1 << each or any(t.stop for t in spec.tensors):
        return 0
    places = sum(math.prod(tensor.shape) for tensor in spec.tensors)
    return each if places and -(-places // each) == spec.count else 0


def bitmap_spec(spec: StreamSpec) -> StreamSpec:
    tensors, start = [], 0
    for tensor in spec.tensors:
        stop = start + math.prod(tensor.shape)
        tensors.append(StreamTensor(tensor.name, tensor.shape, start, stop, zero=0))
        start = stop
    return StreamSpec(start, 2, ordered=True, tensors=tuple(tensors))


def borders_of(count: int) -> list[int]:
    chunks = max(1, count // CHUNK)
    return [i * count // chunks for i in range(chunks + 1)]


def zero_named(spec: StreamSpec) -> bool:
    """Whether the specification names a zero symbol for each of its tensors."""
    return _fits(spec) and all(t.zero is not None and 0 <= t.zero < spec.alphabet for t in spec.tensors)


def _fits(spec: StreamSpec) -> bool:
    """Whether the tensors' parts are exactly the stream."""
    at = 0
    for tensor in spec.tensors:
        size = math.prod(tensor.shape)
        if tensor.mask is not None:
            size = int(np.count_nonzero(tensor.mask)) if tensor.mask.size == size else -1
        if tensor.start != at or tensor.stop - at != size:
            return False
        at = tensor.stop
    return bool(spec.tensors) and at == spec.count


def pieces_of(spec: StreamSpec, borders: Sequence[int], zero: int) -> list[list[Piece]]:
    """The pieces of each chunk, which goes from one border to the next, from 0 to the stream's end. zero: the zero
    symbol of tensors whose specification has none."""
    nothing = np.zeros(0, dtype=np.bool_)
    if not _fits(spec):
        return [[Piece(first, last, first, 1, 1, WIDEST, zero, nothing)] for first, last in pairwise(borders)]
    held: list[list[Piece]] = [[] for _ in borders[1:]]
    for tensor in spec.tensors:
        if tensor.start == tensor.stop:
            continue
        chunk, end = bisect_right(borders, tensor.start), bisect_left(borders, tensor.stop)
        cuts = [tensor.start, *borders[chunk:end], tensor.stop]
        places, mask = [cut - tensor.start for cut in cuts[:-1]], nothing
        if tensor.mask is not None:
            mask = np.require(tensor.mask, np.bool_, ("C", "W")).reshape(-1)
            if places[1:]:  # the whole mask is searched once, not for each chunk
                places[1:] = np.flatnonzero(mask)[places[1:]].tolist()
        own = tensor.zero if tensor.zero is not None and 0 <= tensor.zero < spec.alphabet else zero
        for i, ((start, stop), place) in enumerate(zip(pairwise(cuts), places, strict=True), chunk - 1):
            held[i].append(Piece(start, stop, place, *_geometry(tensor.shape), own, mask))
    return held


def _geometry(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The number of inputs of a filter, and the height and width of its kernels."""
    if len(shape) < 2 or shape[0] < 2:
        return 1, 1, WIDEST
    height, width = math.prod(shape[2:-1]), shape[-1] if len(shape) > 2 else 1
    return (shape[1], height, width) if height * width <= WIDEST else (1, 1, WIDEST)


def packed(places: np.ndarray, spec: StreamSpec) -> np.ndarray:
    """(count,) int32: places packed into symbols, the first in the lowest bit."""
    each = places_a_symbol(spec)
    padded = np.zeros(spec.count * each, dtype=np.int32)
    padded[: places.size] = places
    symbols = np.zeros(spec.count, dtype=np.int32)
    for bit in range(each):
        symbols |= padded[bit::each] << bit
    return symbols
