"""The contracts of an entropy coder and of a writer of positions, and the streams between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from nqbench.api.errors import BadInput, CorruptFile
from nqbench.api.plugin import Plugin


@dataclass(frozen=True, eq=False)
class StreamTensor:
    """One tensor's part of a stream: symbols[start:stop], row-major, of the places where ``mask`` is True.

    mask: bool array of ``shape``, or None where every place has a symbol. zero: the symbol that stands for exactly 0,
    or None. In a stream of vectors (d > 1) the parts may share a symbol at their border; ``stop`` is then rounded up.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    zero: int | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class StreamSpec:
    """All that a decoder knows of a stream before it reads it.

    count: number of symbols; checked by the container against the file's own sizes and the caller's size limit, so a
    decoder may allocate ``4 * count`` bytes, and no more than a small multiple of that. alphabet: symbols lie in
    [0, alphabet), 1 <= alphabet <= 2^24. ordered: larger symbols stand for larger values. dimension: weights a symbol.
    tensors: the parts in order. Of a stream of positions: the pruned tensors' shapes in order, each part empty
    (start = stop = 0), since which symbols are whose only the positions know. May be empty (a stream of no tensor).
    """

    count: int
    alphabet: int
    ordered: bool = False
    dimension: int = 1
    tensors: tuple[StreamTensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Stream:
    """symbols: (count,) int32, C-contiguous, in [0, spec.alphabet); checked once, here."""

    symbols: np.ndarray
    spec: StreamSpec

    def __post_init__(self) -> None:
        symbols = np.ascontiguousarray(self.symbols, dtype=np.int32)
        object.__setattr__(self, "symbols", symbols)
        if symbols.shape != (self.spec.count,):
            raise BadInput(f"a stream of {self.spec.count} symbols has an array of shape {symbols.shape}")
        if symbols.size and (int(symbols.min()) < 0 or int(symbols.max()) >= self.spec.alphabet):
            raise BadInput(f"symbols must lie in [0, {self.spec.alphabet})")

    @staticmethod
    def of(symbols: Sequence[int] | np.ndarray, alphabet: int, **spec: object) -> Stream:
        """A stream of plain symbols."""
        array = np.asarray(symbols, dtype=np.int32).reshape(-1)
        return Stream(array, StreamSpec(array.size, alphabet, **spec))  # type: ignore[arg-type]

    @cached_property
    def counts(self) -> np.ndarray:
        """(alphabet,) int64: how often each symbol occurs."""
        return np.bincount(self.symbols, minlength=self.spec.alphabet)


@dataclass(frozen=True)
class Encoded:
    """table: what describes the code (counted as ``coder_table``). payload: the symbols."""

    table: bytes
    payload: bytes


class Coder(Plugin):
    """symbols -> bytes, and back, exactly. Encoding is a pure function; decoding trusts nothing."""

    kind: ClassVar[str] = "coder"

    def encode(self, stream: Stream) -> Encoded:
        raise NotImplementedError

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        """(spec.count,) int32 in [0, spec.alphabet), or ``CorruptFile`` with the offset; whatever the bytes are."""
        raise NotImplementedError

    def rate(self, counts: np.ndarray) -> np.ndarray:
        """(k,) float64 bits that each symbol costs when symbols occur ``counts`` (k,) times.

        Default: -log2 p, with one count added to each symbol so that an unseen one has a finite price.
        """
        smoothed = np.asarray(counts, dtype=np.float64) + 1.0
        return np.asarray(np.log2(smoothed.sum()) - np.log2(smoothed))


class Positions(Plugin):
    """How the places of pruned weights are written: masks -> a stream that a coder writes, and back.

    ``merges``: pruned weights become one more symbol of the weights' own stream, so that there is nothing to write
    (``zero``); the core does the merging, refuses it for vectors (d > 1), and calls neither method.
    """

    kind: ClassVar[str] = "positions"
    merges: ClassVar[bool] = False

    coder: str | None = None
    """Name of the coder that writes the positions; none: the trial's coder."""

    def to_stream(self, masks: Sequence[np.ndarray]) -> Stream:
        """masks: bool arrays, True where a weight is kept, one per tensor in the file's order."""
        raise NotImplementedError

    def from_stream(self, symbols: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """The masks again, or ``CorruptFile``. symbols: (count,) int32 as decoded."""
        raise NotImplementedError

    def max_count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """The most symbols that masks of these shapes can give: a longer stream is refused before it is decoded."""
        return 2 * sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes) + 2

    def alphabet(self) -> int | None:
        """The stream's alphabet where the parameters fix it; None: the file says it."""
        return None


def check_decoded(symbols: np.ndarray, spec: StreamSpec) -> np.ndarray:
    """A decoder's last line: int32, the right count, inside the alphabet, or ``CorruptFile``."""
    if symbols.shape != (spec.count,):
        raise CorruptFile(f"{symbols.size} symbols where {spec.count} were expected")
    if symbols.size and (int(symbols.min()) < 0 or int(symbols.max()) >= spec.alphabet):
        raise CorruptFile(f"a symbol lies outside [0, {spec.alphabet})")
    return np.ascontiguousarray(symbols, dtype=np.int32)
