"""How much a file may stand for on this machine, and what happens where memory runs out all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMES = 10
"""Decoding takes at most this many times the bytes that a file stands for (measured by the container's tests)."""
_UNKNOWN = 16 << 30  # of a machine that does not say
_CONTROL_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def default_limit() -> int:
    """Bytes of decoded tensors that this machine can hold while it decodes them, whatever is in the file."""
    return machine_memory() // TIMES


def machine_memory() -> int:
    """Bytes of memory that this process may come to use: the machine's, or less in a container or under ``ulimit``."""
    found = [_UNKNOWN]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CONTROL_GROUPS:
        try:
            found.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    try:
        import resource
    except ImportError:  # not on Windows
        return min(found)
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        found.append(address_space)
    return min(size for size in found if size > 0)


@contextmanager
def allocating() -> Iterator[None]:
    """Turns torch's way of saying that memory ran out, a plain RuntimeError, into MemoryError."""
    try:
        yield
    except RuntimeError as error:
        if ran_out(error):
            raise MemoryError(" ".join(str(error).split())) from None
        raise


def ran_out(error: BaseException) -> bool:
    """Whether it says that memory ran out; torch has no class of its own for that on the CPU."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)
