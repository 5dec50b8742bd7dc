"""Counting symbols."""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import kernel


@kernel
def _count(symbols: np.ndarray, tables: np.ndarray, stride: int) -> None:
    """Adds 1 to tables[(i mod 4) stride + symbols[i]] for each i. tables: int64."""
    whole = symbols.size // 4 * 4
    for i in range(0, whole, 4):
        tables[symbols[i]] += 1
        tables[symbols[i + 1] + stride] += 1
        tables[symbols[i + 2] + 2 * stride] += 1
        tables[symbols[i + 3] + 3 * stride] += 1
    for i in range(whole, symbols.size):
        tables[symbols[i]] += 1


def histogram(symbols: np.ndarray, alphabet: int) -> np.ndarray:
    """symbols: (n,) int32 -> (alphabet,) int64.

    Small alphabets are counted in four tables in turn, since in a run of one symbol each increment would otherwise wait
    for the store of the one before.
    """
    if alphabet > 4096:
        wide = np.zeros(alphabet, dtype=np.int64)
        _count(symbols, wide, 0)
        return wide
    tables = np.zeros(4 * alphabet, dtype=np.int64)
    _count(symbols, tables, alphabet)
    total: np.ndarray = tables.reshape(4, alphabet).sum(axis=0)
    return total
