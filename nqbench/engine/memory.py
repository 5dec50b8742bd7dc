"""What processes hold of main memory, from Linux's /proc; elsewhere nothing is known, and no limit is kept."""

from __future__ import annotations

import contextlib
from pathlib import Path

_PROC = Path("/proc")
KNOWN = (_PROC / "self" / "status").exists()
"""Whether this system says."""
_COUNTED = ("RssAnon", "RssShmem")
"""Not files that are mapped: the system drops those when it needs the room."""


def held(*processes: int) -> int:
    """Bytes that processes hold together; one that has ended holds none."""
    return sum(_held(process) for process in processes)


def _held(process: int) -> int:
    try:
        lines = (_PROC / str(process) / "status").read_text().splitlines()
    except OSError:
        return 0
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(told[name].split()[0]) << 10 for name in _COUNTED if name in told)


def below(process: int) -> list[int]:
    """The processes below one, as far down as there are any."""
    found: list[int] = []
    for task in (_PROC / str(process) / "task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *below(child)]
    return found


def sacrificed() -> None:
    """Where the machine runs out of memory, the kernel takes this process before the one that started it."""
    with contextlib.suppress(OSError):  # another system, or not allowed
        (_PROC / "self" / "oom_score_adj").write_text("500")
