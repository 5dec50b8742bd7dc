"""Positions of the kept weights of a pruned network: masks as a stream of symbols for a coder.

All masks are concatenated to T places: the tensors in the file's order, each row-major.

``gaps`` (Han, Mao, Dally, Deep Compression, ICLR 2016, section 2): with E = 2^bits - 1, symbol s < E means "skip s
places, the next is kept"; E is the escape, "skip E places". The places after the last kept one are not coded. Each
symbol advances by at least one place, so there are at most T of them; the last one is not an escape. A large alphabet
costs nothing with an entropy coder, since unused symbols are not in its table.

``bitmap``: symbol i holds the places i bits ... i bits + bits - 1, the first in the lowest bit, 1 for kept; the last
symbol is filled with 0s. There are eight places per symbol, because a prefix code spends at least one bit per symbol:
with single places it would gain nothing, with bytes it comes within a few percent of the entropy.

``zero`` writes no positions: pruned weights are an additional symbol in the stream of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from nqbench.api import CorruptFile, Positions, Stream


def _joined(masks: Sequence[np.ndarray]) -> np.ndarray:
    """(T,) bool."""
    return np.concatenate([np.zeros(0, dtype=np.bool_), *(np.asarray(mask, dtype=np.bool_).ravel() for mask in masks)])


def _places(shapes: Sequence[tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)


def _parted(places: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """The places as masks of these shapes."""
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    parts = np.split(places, np.cumsum(sizes)[:-1]) if sizes else []
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _checked(symbols: np.ndarray, bits: int) -> np.ndarray:
    symbols = np.asarray(symbols).reshape(-1)
    if symbols.size and (int(symbols.min()) < 0 or int(symbols.max()) >= 1 << bits):
        raise CorruptFile(f"a symbol of the positions lies outside [0, {1 << bits})")
    return symbols


class Gaps(Positions, name="gaps", paper="Han et al. 2016, arXiv:1510.00149"):
    """Differences between successive kept places, with an escape for large ones."""

    bits: int = Field(8, ge=1, le=16)
    """A gap of 2^bits - 1 places or more takes an escape symbol for every 2^bits - 1 of them."""

    def to_stream(self, masks: Sequence[np.ndarray]) -> Stream:
        kept = np.flatnonzero(_joined(masks))
        escape = self._escape
        skipped = np.diff(kept, prepend=-1) - 1
        escapes = skipped // escape
        last = np.cumsum(escapes + 1) - 1  # the index of each gap's last symbol
        symbols = np.full(int(last[-1]) + 1 if last.size else 0, escape, dtype=np.int32)
        symbols[last] = skipped % escape
        return Stream.of(symbols, escape + 1)

    def from_stream(self, symbols: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        symbols = _checked(symbols, self.bits)
        places = np.zeros(_places(shapes), dtype=np.bool_)
        if symbols.size > places.size:
            raise CorruptFile(f"{symbols.size} gaps for {places.size} places")
        if symbols.size:
            escaped = symbols == self._escape
            if escaped[-1]:
                raise CorruptFile("the last gap has no end")
            place = np.cumsum(symbols + np.int64(1) - escaped) - 1
            if int(place[-1]) >= places.size:
                raise CorruptFile(f"the gaps reach beyond the {places.size} places")
            places[place[~escaped]] = True
        return _parted(places, shapes)

    def max_count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        return _places(shapes)

    def alphabet(self) -> int:
        return self._escape + 1

    @property
    def _escape(self) -> int:
        return (1 << self.bits) - 1


class Bitmap(Positions, name="bitmap"):
    """One bit per place, several places per symbol."""

    bits: int = Field(8, ge=1, le=16)
    """Number of places per symbol."""

    def to_stream(self, masks: Sequence[np.ndarray]) -> Stream:
        places = _joined(masks)
        padded = np.zeros(-(-places.size // self.bits) * self.bits, dtype=np.bool_)
        padded[: places.size] = places
        symbols = np.zeros(padded.size // self.bits, dtype=np.int32)
        for bit in range(self.bits):
            symbols |= padded[bit :: self.bits].astype(np.int32) << bit
        return Stream.of(symbols, 1 << self.bits)

    def from_stream(self, symbols: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        symbols = _checked(symbols, self.bits)
        count = _places(shapes)
        if symbols.size != self.max_count(shapes):
            raise CorruptFile(f"{symbols.size} symbols for {count} places, {self.bits} a symbol")
        padded = np.empty(symbols.size * self.bits, dtype=np.bool_)
        for bit in range(self.bits):
            padded[bit :: self.bits] = symbols >> bit & 1
        if padded[count:].any():
            raise CorruptFile("a place beyond the last one is kept")
        return _parted(padded[:count], shapes)

    def max_count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        return -(-_places(shapes) // self.bits)

    def alphabet(self) -> int:
        return 1 << self.bits


class Zero(Positions, name="zero"):
    """Pruned weights are an additional symbol in the stream of the weights."""

    merges = True
