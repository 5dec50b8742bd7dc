"""Processes that do not run the script again that this process was started with.

A spawned process imports its parent's ``__main__`` anew, for what was pickled of it. A script that calls
``nqbench.run`` outside ``if __name__ == "__main__"`` would so start a run in each of its own workers, and one from
standard input could not be found at all. What a worker does has a name and is imported by it: it needs nothing of the
script.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

_one_at_a_time = threading.Lock()


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _without_a_script():
            return SpawnProcess._Popen(process_obj)


class Spawning(SpawnContext):
    """multiprocessing's context ``spawn``, but for that."""

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
