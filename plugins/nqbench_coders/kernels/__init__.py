"""Inner loops, compiled by numba. Nothing here is imported before a coder runs: numba alone takes half a second.

Symbols are always (n,) int32 and C-contiguous, bytes uint8, words uint64, so each kernel is compiled once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_BARE: dict[str, Any] = {"nogil": True, "_nrt": False, "error_model": "numpy"}
_PART: dict[str, Any] = _BARE | {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_SOURCES = hashlib.sha256(
    b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled on first use, kept on disk, run without the interpreter's lock."""
    return _stamped(numba.njit(cache=True, nogil=True)(function))


def _stamped(compiled: Any) -> Callable[..., Any]:
    """Machine code on disk is of all these sources. numba looks only at the file of the kernel itself, and would go on
    with what it was compiled to before a part in another file changed."""
    with contextlib.suppress(AttributeError):  # a later numba may keep the stamp elsewhere
        compiled._cache._cache_file._source_stamp = _SOURCES
    kept: Callable[..., Any] = compiled
    return kept


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """As ``kernel``, for what allocates nothing: arrays given to its parts are not counted, which took most of the time
    (an atomic increment and decrement around each use)."""
    return _stamped(numba.njit(cache=True, **_BARE)(function))


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of ``bare`` kernels, compiled by itself and put into each by LLVM, where records of state cost nothing:
    numba's own inlining takes three times as long to compile. Python cannot call it."""
    compiled: Callable[..., Any] = numba.njit(**_PART)(function)
    return compiled


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A short part of kernels, put into each by numba itself."""
    compiled: Callable[..., Any] = numba.njit(inline="always")(function)
    return compiled


def _high_product(_: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


high_product: Callable[..., Any] = intrinsic(_high_product)
"""The upper 64 bits of the 128-bit product of two uint64: one instruction, for which numpy has no name."""
