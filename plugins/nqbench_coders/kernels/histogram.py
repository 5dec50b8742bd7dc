"""Counting symbols."""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import kernel


@kernel
def histogram(symbols: np.ndarray, alphabet: int) -> np.ndarray:
    """symbols: (n,) int32 -> (alphabet,) int64. Four tables by turns where they are small: runs of one symbol would
    otherwise wait for their own last store."""
    if alphabet > 4096:
        wide = np.zeros(alphabet, dtype=np.int64)
        for i in range(symbols.size):
            wide[symbols[i]] += 1
        return wide
    tables = np.zeros((4, alphabet), dtype=np.int64)
    n = symbols.size // 4 * 4
    for i in range(0, n, 4):
        tables[0, symbols[i]] += 1
        tables[1, symbols[i + 1]] += 1
        tables[2, symbols[i + 2]] += 1
        tables[3, symbols[i + 3]] += 1
    for i in range(n, symbols.size):
        tables[0, symbols[i]] += 1
    return tables[0] + tables[1] + tables[2] + tables[3]
