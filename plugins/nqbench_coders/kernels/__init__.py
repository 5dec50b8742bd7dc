"""Inner loops, compiled by numba. Nothing here is imported before a coder runs: numba alone takes half a second.

Symbols are always (n,) int32 and C-contiguous, bytes uint8, words uint64, so each kernel is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled on first use, kept on disk, run without the interpreter's lock."""
    compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
    return compiled


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of kernels, put into each by numba itself: as a call, its arrays would be counted at every one."""
    part: Callable[..., Any] = numba.njit(inline="always")(function)
    return part
