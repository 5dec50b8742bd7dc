"""Inner loops, compiled by numba. Nothing here is imported before a coder runs: numba alone takes half a second.

Symbols are always (n,) int32 and C-contiguous, bytes uint8, words uint64, so each kernel is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compiled on first use, kept on disk, run without the interpreter's lock."""
    compiled: F = njit(cache=True, nogil=True)(function)
    return compiled
