"""Inner loops, compiled by numba. Nothing here is imported before a coder runs: numba alone takes half a second.

Symbols are always (n,) int32 and C-contiguous, bytes uint8, words uint64, so each kernel is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


_BARE: dict[str, Any] = {"_nrt": False, "error_model": "numpy"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled on first use, kept on disk, run without the interpreter's lock."""
    compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
    return compiled


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """As ``kernel``, for what allocates nothing: arrays given to its parts are not counted, which took most of the time
    (an atomic increment and decrement around each use)."""
    compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, **_BARE)(function)
    return compiled


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of ``bare`` kernels, compiled by itself and put into each by LLVM, where records of state cost nothing:
    numba's own inlining would take three times as long to compile."""
    compiled: Callable[..., Any] = numba.njit(forceinline=True, nogil=True, no_cfunc_wrapper=True, no_cpython_wrapper=True, **_BARE)(function)
    return compiled


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A short part of kernels, put into each by numba itself."""
    compiled: Callable[..., Any] = numba.njit(inline="always")(function)
    return compiled


@intrinsic  # type: ignore[untyped-decorator]
def high_product(_: Any, a: Any, b: Any) -> Any:
    """The upper 64 bits of the 128-bit product of two uint64: one instruction, for which numpy has no name."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate
