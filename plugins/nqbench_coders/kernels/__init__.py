"""Inner loops, compiled by numba. Imported only when a coder runs, since importing numba takes half a second.

Symbols are always (n,) int32 and C-contiguous, bytes uint8, words uint64, so that each kernel is compiled only once.
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
    """Compile on first use, cache on disk, and run without the interpreter's lock."""
    return _stamped(numba.njit(cache=True, nogil=True)(function))


def _stamped(compiled: Any) -> Callable[..., Any]:
    """Make the cached machine code depend on all source files of this package. numba only checks the file of the kernel
    itself, and would reuse outdated code after a part in another file has changed."""
    with contextlib.suppress(AttributeError):  # a later version of numba may store the stamp elsewhere
        compiled._cache._cache_file._source_stamp = _SOURCES
    kept: Callable[..., Any] = compiled
    return kept


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """As ``kernel``, for functions that allocate no arrays: without reference counting of the arrays passed to their
    parts (an atomic increment and decrement at each use), which took most of the time."""
    return _stamped(numba.njit(cache=True, **_BARE)(function))


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of ``bare`` kernels, compiled separately and inlined by LLVM, so that passing records of state costs
    nothing. numba's own inlining takes three times as long to compile. It cannot be called from Python."""
    compiled: Callable[..., Any] = numba.njit(**_PART)(function)
    return compiled


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A short part of kernels, inlined by numba itself."""
    compiled: Callable[..., Any] = numba.njit(inline="always")(function)
    return compiled


def _high_product(_: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


high_product: Callable[..., Any] = intrinsic(_high_product)
"""The upper 64 bits of the 128-bit product of two uint64: one instruction, which numpy does not offer."""
