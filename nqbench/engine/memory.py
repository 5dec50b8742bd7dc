"""Main memory held by processes, from Linux's /proc; on other systems it is unknown and no limit is enforced."""

from __future__ import annotations

import contextlib
from pathlib import Path

_PROC = Path("/proc")
KNOWN = (_PROC / "self" / "status").exists()
"""Whether this system says."""
_COUNTED = ("RssAnon", "RssShmem")
"""Not files that are mapped: the system drops those when it needs the room."""


def held(*processes: int) -> int:
    """Bytes of main memory that these processes hold together; one that has ended counts as 0."""
    return sum(_held(process) for process in processes)


def _held(process: int) -> int:
    try:
        lines = (_PROC / str(process) / "status").read_text().splitlines()
    except OSError:
        return 0
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(told[name].split()[0]) << 10 for name in _COUNTED if name in told)


def below(process: int) -> list[int]:
    """The ids of all descendants of a process."""
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
    """If the machine runs out of memory, the kernel is to kill this process before the one that started it."""
    with contextlib.suppress(OSError):  # another system, or not allowed
        (_PROC / "self" / "oom_score_adj").write_text("500")
