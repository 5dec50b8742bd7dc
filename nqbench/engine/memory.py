"""Processes, and the main memory that they hold, from Linux's /proc; on other systems that is unknown and no limit is
enforced."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_PROC = Path("/proc")
KNOWN = (_PROC / "self" / "status").exists()
"""Whether this system says."""
_COUNTED = ("RssAnon", "RssShmem")
"""Not files that are mapped: the system drops those when it needs the room."""


def held(*processes: int) -> int:
    """Bytes of main memory that these processes hold together; one that has ended counts as 0."""
    return sum(_held(process) for process in processes)


def _told(process: int) -> dict[str, str]:
    """What the system says of a process; nothing of one that has ended."""
    try:
        lines = (_PROC / str(process) / "status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _held(process: int) -> int:
    told = _told(process)
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


def end_group(leader: int) -> None:
    """Kill all processes of a group that a child of this process leads, or led: as long as one is left, no other
    process gets its number."""
    parent = _told(leader).get("PPid")
    if parent is None or int(parent) == os.getpid():
        with contextlib.suppress(OSError):  # none is left
            os.killpg(leader, signal.SIGKILL)


def sacrificed() -> None:
    """If the machine runs out of memory, the kernel is to kill this process before the one that started it."""
    with contextlib.suppress(OSError):  # another system, or not allowed
        (_PROC / "self" / "oom_score_adj").write_text("500")
