"""Limits on a process that decodes a stranger's file: of time, of memory, of what it writes, of whom it can reach.

Defence in depth: decoding believes nothing and runs no code of the file, but its inner loops are compiled, and a
plugin's decoder is somebody's code. A caged process has none of this one's environment but what Python and nqbench
need (so no token of a CI job), cannot gain privileges, and on Linux, where the kernel allows it, has no network.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SYSTEMROOT", "XDG_CACHE_HOME")
_KEPT_OF = ("LC_", "PYTHON", "NQBENCH_", "NUMBA_", "OMP_", "MKL_", "OPENBLAS_", "COVERAGE_")
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # linux/sched.h
_NO_NEW_PRIVILEGES = 38  # linux/prctl.h


@dataclass(frozen=True)
class Cage:
    """seconds: that decoding one file may take. memory: bytes of address space beyond what the process has when it
    begins; written: the largest file that it may write."""

    seconds: float = 300.0
    memory: int = 4 << 30
    written: int = 4 << 30


def kept_environment() -> dict[str, str]:
    """Of this process's environment, what a caged one gets."""
    return {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_OF)}


def isolate() -> None:
    """Leave the network and give up privileges, before anything starts a thread."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if libc.unshare(_NEW_NET) != 0:  # who is not root needs a user namespace for it, which some systems forbid
        libc.unshare(_NEW_USER | _NEW_NET)


def limit(cage: Cage) -> None:
    """The limits, once everything that decoding needs is loaded."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    now = 0
    with contextlib.suppress(OSError, ValueError):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    wanted: Mapping[int, int] = {
        **({resource.RLIMIT_AS: now + cage.memory} if now else {}),
        resource.RLIMIT_FSIZE: cage.written,
        resource.RLIMIT_CORE: 0,
    }
    for what, most in wanted.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
