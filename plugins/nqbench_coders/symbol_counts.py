"""Which symbols a stream uses and how often, within memory of the stream's own size."""

from __future__ import annotations

import numpy as np

from nqbench.api import Stream


def used_symbols(stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """(m,) int64 rising symbols that occur, and (m,) int64 how often each does."""
    from nqbench_coders.kernels.histogram import histogram

    if is_sparse(stream):
        used, counts = np.unique(stream.symbols, return_counts=True)
        return used.astype(np.int64), counts.astype(np.int64)
    counts = histogram(stream.symbols, stream.spec.alphabet)
    used = np.flatnonzero(counts)
    return used, counts[used]


def is_sparse(stream: Stream) -> bool:
    """Whether arrays of the alphabet's size would be large beside the stream."""
    return stream.spec.alphabet > stream.symbols.size // 4 + (1 << 16)


def ranked(stream: Stream, used: np.ndarray) -> tuple[np.ndarray, int]:
    """Symbols fit to index an array, and the array's size: the symbols themselves, or their ranks in ``used``."""
    if is_sparse(stream):
        ranks = np.empty(stream.symbols.size, dtype=np.int32)
        for start in range(0, ranks.size, 1 << 16):  # by parts: numpy searches in 8 bytes per symbol
            ranks[start : start + (1 << 16)] = np.searchsorted(used, stream.symbols[start : start + (1 << 16)])
        return ranks, used.size
    return stream.symbols, stream.spec.alphabet
