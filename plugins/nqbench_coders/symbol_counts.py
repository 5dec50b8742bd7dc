"""Which symbols occur in a stream and how often, with memory of the order of the stream's size."""

from __future__ import annotations

import numpy as np

from nqbench.api import Stream


def used_symbols(stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """(m,) int64 symbols that occur, ascending, and (m,) int64 their counts."""
    from nqbench_coders.kernels.histogram import histogram

    if is_sparse(stream):
        used, counts = np.unique(stream.symbols, return_counts=True)
        return used.astype(np.int64), counts.astype(np.int64)
    counts = histogram(stream.symbols, stream.spec.alphabet)
    used = np.flatnonzero(counts)
    return used, counts[used]


def is_sparse(stream: Stream) -> bool:
    """Whether arrays of the alphabet's size would be large compared with the stream."""
    return stream.spec.alphabet > stream.symbols.size // 4 + (1 << 16)


def ranked(stream: Stream, used: np.ndarray) -> tuple[np.ndarray, int]:
    """Indices for an array by symbol, and the array's size: the symbols themselves, or their ranks in ``used``."""
    if is_sparse(stream):
        ranks = np.empty(stream.symbols.size, dtype=np.int32)
        for start in range(0, ranks.size, 1 << 16):  # in parts: numpy's search takes 8 bytes per symbol
            ranks[start : start + (1 << 16)] = np.searchsorted(used, stream.symbols[start : start + (1 << 16)])
        return ranks, used.size
    return stream.symbols, stream.spec.alphabet
