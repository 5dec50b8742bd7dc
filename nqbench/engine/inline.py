"""The engine without workers: jobs are done in this process, one after another.

For a network that only this process has. A method that hangs or crashes takes the run with it, and deadlines cannot be
kept; what has ended is in the store and in the cache all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from nqbench.engine.protocol import Job, Outcome
from nqbench.engine.worker import STARTING, performed
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.workbench import Workbench
from nqbench.registry import registry
from nqbench.suite.trial import Trial


class InlineEngine:
    """Use as a context manager. files: where compressed files go."""

    def __init__(self, cache: Cache, device: str, files: Path) -> None:
        self._cache, self._device, self._files = cache, torch.device(device), files
        self._jobs: list[Job] = []
        self._bench: Workbench | None = None
        self._step = STARTING

    def __enter__(self) -> InlineEngine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bench is not None:
            self._bench.close()

    def add(self, job: Job) -> None:
        self._jobs.append(job)

    def withdraw(self, which: Callable[[Job], bool]) -> list[Job]:
        found = [job for job in self._jobs if which(job)]
        self._jobs = [job for job in self._jobs if not which(job)]
        return found

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    @property
    def started(self) -> bool:
        return self._bench is not None

    @property
    def current(self) -> list[tuple[Trial, str]]:
        return []

    def step(self, seconds: float = 0.5) -> list[tuple[Job, Outcome]]:
        """Do one job, however long it takes."""
        if not self._jobs:
            return []
        if self._bench is None:
            self._bench = Workbench(registry(), self._cache, self._device, on_stage=self._note)
        job = self._jobs.pop(0)
        with _as_it_was():
            outcome = performed(self._bench, self._files, job.trial, job.goal, job.recipe, lambda: self._step)
        outcome.pop("unusable", None)
        return [(job, outcome)]

    def _note(self, name: str, since: float) -> None:
        self._step = name


@contextmanager
def _as_it_was() -> Iterator[None]:
    """torch's generator inside a trial is not the caller's."""
    with torch.random.fork_rng():
        yield
