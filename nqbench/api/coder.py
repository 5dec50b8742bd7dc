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

    Args:
        name: in the network's state.
        shape: of the whole tensor.
        start: of its symbols in the stream.
        stop: their end. In a stream of vectors (d > 1) the parts may share a symbol at their border; it is then rounded
            up.
        zero: the symbol that stands for exactly 0, or None.
        mask: bool array of ``shape``, or None where every place has a symbol.

    Example:
        >>> StreamTensor("fc.weight", (2, 3), 0, 4, mask=np.array([[1, 1, 0], [0, 1, 1]], bool)).stop
        4
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    zero: int | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class StreamSpec:
    """Everything that a decoder knows about a stream before it reads it.

    Args:
        count: number of symbols. The container has checked it against the sizes in the file and the caller's limit, so
            a decoder may allocate ``4 * count`` bytes, or a small multiple of that, but no more.
        alphabet: symbols lie in [0, alphabet), 1 <= alphabet <= 2^24.
        ordered: larger symbols stand for larger values.
        dimension: weights per symbol.
        tensors: the parts in order; may be empty (a stream of no tensor). Of a stream of positions: the pruned tensors'
            shapes in order, each part empty (start = stop = 0), since which symbols are whose only the positions know.

    Example:
        >>> StreamSpec(count=100, alphabet=16).dimension
        1
    """

    count: int
    alphabet: int
    ordered: bool = False
    dimension: int = 1
    tensors: tuple[StreamTensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Stream:
    """The symbols that a coder encodes. They are checked when the stream is made.

    Args:
        symbols: (count,) integers in [0, spec.alphabet); kept as C-contiguous int32.
        spec: what the decoder will know.

    Raises:
        BadInput: the number of symbols differs from the spec, or a symbol is outside the alphabet.

    Example:
        >>> Stream.of([2, 0, 2], alphabet=3).counts.tolist()
        [1, 0, 2]
    """

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
        """A stream of plain symbols.

        Args:
            symbols: any integers in [0, alphabet).
            alphabet: number of possible symbols.
            spec: further fields of ``StreamSpec``.

        Returns:
            The stream.
        """
        array = np.asarray(symbols, dtype=np.int32).reshape(-1)
        return Stream(array, StreamSpec(array.size, alphabet, **spec))  # type: ignore[arg-type]

    @cached_property
    def counts(self) -> np.ndarray:
        """(alphabet,) int64: number of occurrences of each symbol."""
        return np.bincount(self.symbols, minlength=self.spec.alphabet)


@dataclass(frozen=True)
class Encoded:
    """The output of a coder.

    Args:
        table: the description of the code; its bytes are counted as ``coder_table``.
        payload: the encoded symbols.

    Example:
        >>> len(Encoded(b"", bytes(3)).payload)
        3
    """

    table: bytes
    payload: bytes


class Coder(Plugin):
    """Encodes symbols as bytes and decodes them again without loss.

    Encoding is a pure function. Decoding must cope with damaged or hostile bytes.

    Example:
        >>> class Bytes(Coder, name="bytes"):
        ...     def encode(self, stream):
        ...         return Encoded(b"", stream.symbols.astype(np.uint8).tobytes())
        ...     def decode(self, encoded, spec):
        ...         return check_decoded(np.frombuffer(encoded.payload, np.uint8).astype(np.int32), spec)
        >>> stream = Stream.of([3, 1, 2], alphabet=4)
        >>> Bytes().decode(Bytes().encode(stream), stream.spec).tolist()
        [3, 1, 2]
    """

    kind: ClassVar[str] = "coder"

    def encode(self, stream: Stream) -> Encoded:
        """Encode symbols.

        Args:
            stream: the symbols; there may be none.

        Returns:
            Table and payload. ``decode`` is given these and ``stream.spec``, nothing else.
        """
        raise NotImplementedError

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        """Decode symbols. The bytes may be damaged or hostile.

        Args:
            encoded: table and payload as the file has them.
            spec: from the file's header, checked against the sizes in the file.

        Returns:
            (spec.count,) int32 in [0, spec.alphabet).

        Raises:
            CorruptFile: the bytes are not a stream of this coder; with the offset, if it is known.
        """
        raise NotImplementedError

    def rate(self, counts: np.ndarray) -> np.ndarray:
        """The price of each symbol, for quantizers that minimize the rate.

        Args:
            counts: (k,) how often each symbol occurs.

        Returns:
            (k,) float64 bits. Default: -log2 p, with one count added to each symbol so that an unseen one has a finite
                price.
        """
        smoothed = np.asarray(counts, dtype=np.float64) + 1.0
        return np.asarray(np.log2(smoothed.sum()) - np.log2(smoothed))


class Positions(Plugin):
    """Writes the positions of kept weights: turns masks into a stream of symbols for a coder, and back.

    ``merges``: pruned weights become one more symbol in the stream of the weights (``zero``), so that no positions are
    written. The core does this itself and calls neither method. Trials with vectors (d > 1) cannot merge and are left
    out of the plan.

    Example:
        >>> class Bits(Positions, name="bits"):
        ...     def to_stream(self, masks):
        ...         return Stream.of(np.concatenate([m.reshape(-1) for m in masks]).astype(int), 2)
        ...     def from_stream(self, symbols, shapes):
        ...         ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        ...         return [part.reshape(s) != 0 for part, s in zip(np.split(symbols, ends), shapes)]
        >>> mask = np.array([[True, False]])
        >>> Bits().from_stream(Bits().to_stream([mask]).symbols, [(1, 2)])[0].tolist()
        [[True, False]]
    """

    kind: ClassVar[str] = "positions"
    merges: ClassVar[bool] = False

    coder: str | None = None
    """Name of the coder that encodes the positions. None: the trial's coder."""

    def to_stream(self, masks: Sequence[np.ndarray]) -> Stream:
        """Turn masks into symbols.

        Args:
            masks: bool arrays, True where a weight is kept, one per tensor in the file's order.

        Returns:
            A stream for a coder.
        """
        raise NotImplementedError

    def from_stream(self, symbols: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """Turn symbols back into masks.

        Args:
            symbols: (count,) int32 as decoded.
            shapes: of the pruned tensors, in the file's order.

        Returns:
            Bool arrays of these shapes.

        Raises:
            CorruptFile: the symbols do not describe masks of these shapes.
        """
        raise NotImplementedError

    def max_count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """The largest number of symbols for masks of these shapes. A longer stream is refused before it is decoded."""
        return 2 * sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes) + 2

    def alphabet(self) -> int | None:
        """The stream's alphabet where the parameters fix it; None: the file says it."""
        return None


def check_decoded(symbols: np.ndarray, spec: StreamSpec) -> np.ndarray:
    """Check decoded symbols: their number, and that they lie in the alphabet. Meant as the last line of a decoder.

    Args:
        symbols: what was decoded, of any integer dtype.
        spec: what the file's header says.

    Returns:
        The symbols as C-contiguous int32.

    Raises:
        CorruptFile: the number of symbols is wrong, or one is outside the alphabet.

    Example:
        >>> check_decoded(np.array([1, 5]), StreamSpec(2, alphabet=4))
        Traceback (most recent call last):
        nqbench.api.errors.CorruptFile: a symbol lies outside [0, 4)
    """
    if symbols.shape != (spec.count,):
        raise CorruptFile(f"{symbols.size} symbols where {spec.count} were expected")
    if symbols.size and (int(symbols.min()) < 0 or int(symbols.max()) >= spec.alphabet):
        raise CorruptFile(f"a symbol lies outside [0, {spec.alphabet})")
    return np.ascontiguousarray(symbols, dtype=np.int32)
