"""Philox4x32-10, the counter-based generator of everything a decoder redraws, and the dither made from it.

Salmon, Moraes, Dror, Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011. Integer arithmetic only, so every
device and version gives the same words; torch's and numpy's own generators do not promise that.

Use in nqbench: key = (seed mod 2^32, seed div 2^32); random codes have counters and words of their own
(``nqbench.api.toolkit.random_code``). For the dither, counter = (index mod 2^32, index div 2^32, 0, 0), and only the
first output word is used. The uniform dither of width ``step`` is step * ((x + 1/2) / 2^24 - 1/2), x the word's top
24 bits [1802.02271, section 3].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nqbench.api.chunks import in_chunks

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
_COMPILED_FROM = 1 << 16  # numbers from which loading the compiled loop is worth its while
_CHUNK = 1 << 20  # indices at a time: bounds the int64 temporaries to a few tens of MB


def _mulhilo(m: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of m * x for x (n,) int64 in [0, 2^32): the 64-bit product in two signed halves."""
    low = m * (x & 0xFFFF)  # < 2^48
    high = m * (x >> 16)  # < 2^48
    middle = high + (low >> 16)  # m * x = middle * 2^16 + (low & 0xFFFF)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Ten rounds. counter: four (n,) int64 tensors of 32-bit words; returns four more."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        hi0, lo0 = _mulhilo(_M0, x0)
        hi1, lo1 = _mulhilo(_M1, x2)
        x0, x1, x2, x3 = hi1 ^ x1 ^ k0, lo1, hi0 ^ x3 ^ k1, lo0
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return x0, x1, x2, x3


def outputs(seed: int, index: Tensor, stream: int = 0) -> tuple[Tensor, ...]:
    """The four 32-bit words, each (n,) int64, for the counters (index mod 2^32, index div 2^32, stream, 0).

    0 <= seed < 2^64. index: (n,) int64, not negative.
    """
    zero = torch.zeros_like(index)
    return philox4x32((index & _MASK, index >> 32, zero + stream, zero), (seed & _MASK, seed >> 32 & _MASK))


def words(seed: int, start: int, stop: int, device: torch.device | str = "cpu") -> Tensor:
    """(stop - start,) int64: the first 32-bit word for each counter in [start, stop). 0 <= seed < 2^64."""
    return outputs(seed, torch.arange(start, stop, dtype=torch.int64, device=device))[0]


def compiled(count: int, device: torch.device | str) -> bool:
    """Whether so many numbers are drawn by the compiled loops, which give the same."""
    return torch.device(device).type == "cpu" and count >= _COMPILED_FROM


def dither(seed: int, step: float, count: int, device: torch.device | str = "cpu") -> Tensor:
    """The dither u of a compressed file, redrawn from its seed: the same numbers on every machine.

    By torch operations and by a compiled loop alike: computed in float64 (exact up to the product with ``step``) and
    rounded once.

    Args:
        seed: 0 <= seed < 2^64.
        step: width of the dither, in the weights' unit.
        count: how many numbers, the first of the seed's stream.
        device: where they shall be.

    Returns:
        (count,) float32, uniform on (-step/2, step/2).

    Example:
        >>> u = dither(7, 1.0, 4)
        >>> bool((u.abs() < 0.5).all()), torch.equal(u[:2], dither(7, 1.0, 2))
        (True, True)
    """
    out = torch.empty(count, dtype=torch.float32, device=device)
    if compiled(count, out.device):
        from nqbench.api import philox_kernels

        flat, key = out.numpy(), np.uint64(seed)
        in_chunks(count, lambda at: philox_kernels.dither(key, step, at.start, flat[at]))
        return out
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        x = words(seed, start, stop, device) >> 8
        out[start:stop] = (step * ((x.double() + 0.5) / 2**24 - 0.5)).float()
    return out


def unit_dither(seed: int, sizes: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """(sum of sizes,) float32: the dither of width 1, in each tensor from the seed's first number on."""
    longest = dither(seed, 1.0, max(sizes, default=0), device)
    return torch.cat([longest[:size] for size in sizes]) if len(sizes) != 1 else longest
