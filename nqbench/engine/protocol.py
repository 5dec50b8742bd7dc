"""What a run asks of an engine, wherever its workers are.

A job is a trial and a goal. The trial is names and JSON, the goal a stage's name or the whole; what comes back is plain
data. Results of stages pass between workers through the cache, by their keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from nqbench.pipeline.keys import Keys
from nqbench.suite.chain import KNOB, NETWORK, TRIAL
from nqbench.suite.schedule import Question
from nqbench.suite.trial import Trial

Outcome = dict[str, Any]
"""``status`` (ok, failed, timeout or crashed) and ``error``, or what was asked for; see ``nqbench.engine.worker``."""


class Job(NamedTuple):
    """A trial to run or, where there is a question, the knob of the trial's method to find; before either, where the
    keys wait for it, the trial's network. recipe: see ``KeyMaker.recipe``."""

    trial: Trial
    keys: Keys
    question: Question | None = None
    recipe: str = ""

    @property
    def goal(self) -> str:
        if self.keys.waits is not None:
            return NETWORK
        return TRIAL if self.question is None else KNOB.name

    def waits_as(self, other: Job) -> bool:
        """Whether another job waits for the same network."""
        return other.keys.waits == self.keys.waits


class Engine(Protocol):
    """Use as a context manager; leaving it stops every worker at once."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...

    def add(self, job: Job) -> None:
        """Work to do, when a worker is free."""

    def withdraw(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take back jobs that no worker has begun."""
        ...

    def step(self, seconds: float = 0.5) -> list[tuple[Job, Outcome]]:
        """Give work to idle workers, wait at most so long, and return what ended."""
        ...

    @property
    def busy(self) -> bool:
        """Whether there is work left, begun or not."""
        ...

    @property
    def started(self) -> bool:
        """Whether any worker was."""
        ...

    @property
    def current(self) -> list[tuple[Trial, str]]:
        """The trials that run now, each with what it is at: the step and, where somebody tells, how far it has come."""
        ...
