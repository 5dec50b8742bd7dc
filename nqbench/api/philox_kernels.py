"""The compiled form of ``nqbench.api.philox`` on the CPU. Import lazily: numba is slow to load."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, inline="always")
def _words(seed: np.uint64, index: np.uint64, stream: np.uint64) -> Any:
    """``nqbench.api.philox.outputs`` of one index: Philox4x32-10 on unsigned words."""
    mask = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    m0, m1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
    w0, w1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
    x0, x1, x2, x3 = index & mask, index >> half, stream, np.uint64(0)
    k0, k1 = np.uint64(seed) & mask, np.uint64(seed) >> half
    for _ in range(10):
        p0, p1 = m0 * x0, m1 * x2
        x0, x1, x2, x3 = (p1 >> half) ^ x1 ^ k0, p1 & mask, (p0 >> half) ^ x3 ^ k1, p0 & mask
        k0, k1 = (k0 + w0) & mask, (k1 + w1) & mask
    return x0, x1, x2, x3


@numba.njit(nogil=True, cache=True)
def keys(seed: np.uint64, start: int, out: np.ndarray[Any, Any]) -> None:
    """out_i = the key by which ``random_code`` shuffles weight start + i."""
    for i in range(out.size):
        x0, x1, _, _ = _words(seed, np.uint64(start + i), np.uint64(1))
        out[i] = np.int64((x0 << np.uint64(31)) | (x1 >> np.uint64(1)))


@numba.njit(nogil=True, cache=True)
def bytes_summed(seed: np.uint64, index: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
    """out_i = the sum of the 16 bytes of the words for index_i."""
    low = np.uint64(0x00FF00FF)
    for i in range(out.size):
        total = np.uint64(0)
        for word in _words(seed, np.uint64(index[i]), np.uint64(0)):
            pairs = (word & low) + ((word >> np.uint64(8)) & low)
            total += (pairs & np.uint64(0xFFFF)) + (pairs >> np.uint64(16))
        out[i] = np.int64(total)


@numba.njit(nogil=True, cache=True)
def dither(seed: np.uint64, step: float, start: int, out: np.ndarray[Any, Any]) -> None:
    """out_i = the dither of vector start + i."""
    for i in range(out.size):
        x0, _, _, _ = _words(seed, np.uint64(start + i), np.uint64(0))
        out[i] = step * ((np.float64(np.int64(x0 >> np.uint64(8))) + 0.5) / 16777216.0 - 0.5)
