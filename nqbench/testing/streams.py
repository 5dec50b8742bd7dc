"""The streams that coders are checked on: small, seeded, at the corners of what a stream may be."""

from __future__ import annotations

import numpy as np

from nqbench.api import Stream, StreamSpec, StreamTensor


def streams() -> dict[str, Stream]:
    """Streams by name. The largest has 2^16 symbols: a coder written in plain Python still ends in seconds."""
    rng = np.random.default_rng(0)
    skewed = np.minimum(rng.geometric(0.4, 5000) - 1, 31)
    runs = np.repeat(rng.integers(0, 5, 40), rng.integers(1, 400, 40))
    gaps = rng.choice(np.array([3, 70, 71, 4000, 65534]), 800, p=[0.6, 0.2, 0.1, 0.05, 0.05])
    return {
        "empty": Stream.of([], 4),
        "empty, alphabet of one": Stream.of([], 1),
        "one symbol": Stream.of([2], 5),
        "one symbol, alphabet of one": Stream.of([0], 1),
        "one distinct symbol": Stream.of(np.full(1000, 3), 7),
        "one distinct symbol, alphabet of one": Stream.of(np.zeros(1000), 1),
        "two distinct symbols": Stream.of(rng.integers(0, 2, 777), 2),
        "all distinct": Stream.of(rng.permutation(300), 300),
        "gaps in a large alphabet": Stream.of(gaps, 65535),
        "last symbols of 2^16": Stream.of([65535, 0, 65535, 65534], 1 << 16),
        "uniform over 2^16": Stream.of(rng.integers(0, 1 << 16, 20000), 1 << 16),
        "every symbol of 2^16 once": Stream.of(rng.permutation(1 << 16), 1 << 16),
        "beyond 2^16": Stream.of(rng.integers(0, 1 << 20, 300), 1 << 20),
        "byte alphabet": Stream.of(rng.integers(0, 256, 3000), 256),
        "skewed": Stream.of(skewed, 32),
        "almost always one symbol": Stream.of((rng.random(8000) < 0.002).astype(np.int32), 2),
        "long runs": Stream.of(runs, 5),
        "fibonacci counts": Stream.of(_fibonacci(rng), 18),
        "tensors with masks": tensor_stream(),
        "vectors": vector_stream(),
    }


def tensor_stream() -> Stream:
    """Ordered levels around a zero symbol in three tensors: a masked convolution, a matrix, an all-pruned one."""
    rng = np.random.default_rng(1)
    mask = rng.random((8, 4, 3, 3)) < 0.5
    first, second = int(mask.sum()), 16 * 24
    parts = (
        StreamTensor("convolution.weight", (8, 4, 3, 3), 0, first, zero=4, mask=mask),
        StreamTensor("linear.weight", (16, 24), first, first + second, zero=4),
        StreamTensor("gone.weight", (4, 4), first + second, first + second, zero=4, mask=np.zeros((4, 4), dtype=bool)),
    )
    symbols = np.clip(np.rint(rng.laplace(4, 1, first + second)), 0, 8).astype(np.int32)
    return Stream(symbols, StreamSpec(symbols.size, 9, ordered=True, tensors=parts))


def vector_stream() -> Stream:
    """Symbols that stand for three weights each; the two tensors share one at their border (25 and 20 weights)."""
    symbols = np.random.default_rng(2).integers(0, 6, 15).astype(np.int32)
    parts = (StreamTensor("a.weight", (5, 5), 0, 9), StreamTensor("b.weight", (4, 5), 8, 15))
    return Stream(symbols, StreamSpec(symbols.size, 6, dimension=3, tensors=parts))


def _fibonacci(rng: np.random.Generator) -> np.ndarray:
    """Counts that make an unlimited Huffman code as deep as it gets: 1, 1, 2, 3, 5, ... (18 symbols)."""
    counts = [1, 1]
    while len(counts) < 18:
        counts.append(counts[-1] + counts[-2])
    return rng.permutation(np.repeat(np.arange(18), counts))
