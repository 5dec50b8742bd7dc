"""Inner loops, compiled by numba. Nothing here is imported before a coder runs: numba alone takes half a second.

Symbols are always (n,) int32 and C-contiguous, bytes uint8, words uint64, so each kernel is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compiled on first use, kept on disk, run without the interpreter's lock."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))
