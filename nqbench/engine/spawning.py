"""Processes that do not run the script again that this process was started with, and that are not meant to end.

A spawned process imports its parent's ``__main__`` anew, for what was pickled of it. A script that calls
``nqbench.run`` outside ``if __name__ == "__main__"`` would so start a run in each of its own workers, and one from
standard input could not be found at all. What a worker does has a name and is imported by it: it needs nothing of the
script.

A worker process ends when it is stopped, never by itself. Pebble takes exit code 0 for an end that was meant, and what
the worker was doing is then never heard of again; but a plugin, or a library in C below it, can call ``exit(0)``.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

LEFT = 256
"""Stands for exit code 0; no process can end with it."""
_one_at_a_time = threading.Lock()


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _without_a_script():
            return SpawnProcess._Popen(process_obj)

    @property
    def exitcode(self) -> int | None:
        """``LEFT`` where the process ended with exit code 0."""
        code = super().exitcode
        return LEFT if code == 0 else code


class Spawning(SpawnContext):
    """multiprocessing's context ``spawn``, but for these two."""

    Process = _Process


@contextmanager
def _without_a_script() -> Iterator[None]:
    """Inside the block this process was started with nothing."""
    with _one_at_a_time:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script
