"""The slot without a worker: tasks are done in this process, one after another.

For a network that only this process has. A method that hangs or crashes ends the run, and deadlines cannot be enforced;
trials that had ended are in the store and in the cache nevertheless.
"""

from __future__ import annotations

import torch

from nqbench.api.engine import Ended, Event, Joined, Slots, Task
from nqbench.engine.worker import Worker, WorkerSettings
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.precision import usual_modes
from nqbench.pipeline.workbench import Workbench
from nqbench.registry import registry

_SLOT = "here"


class Inline(Slots):
    """One slot: this process."""

    def __init__(self, settings: WorkerSettings, cache: Cache) -> None:
        self._settings, self._cache = settings, cache
        self._worker: Worker | None = None
        self._events: list[Event] = [Joined(_SLOT)]
        self._task: Task | None = None

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.bench.close()

    def send(self, slot: str, task: Task) -> None:
        self._task = task

    def wait(self, seconds: float) -> list[Event]:
        """Do the task, however long it takes."""
        events, self._events = self._events, []
        if self._task is not None:
            if self._worker is None:
                bench = Workbench(registry(), self._cache, torch.device(self._settings.device))
                self._worker = Worker(bench, self._settings)
            task, self._task = self._task, None
            with torch.random.fork_rng(), usual_modes():
                outcome = task.done_by(self._worker)
            outcome.pop("unusable", None)
            events.append(Ended(_SLOT, outcome))
        return events

    def doing(self) -> dict[str, str]:
        return {}
