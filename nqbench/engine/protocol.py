"""Jobs: a trial and what is asked of it, as the run has it; a task is what of it is sent to a slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from nqbench.api.engine import Outcome, Task
from nqbench.engine.worker import TrialTask
from nqbench.pipeline.chain import KNOB, NETWORK
from nqbench.pipeline.keys import Keys
from nqbench.pipeline.stage import TRIAL
from nqbench.pipeline.trial import Trial
from nqbench.suite.schedule import Question


class Job(Protocol):
    """What an engine's slots are given, one after another."""

    @property
    def affinity(self) -> tuple[str, ...]:
        """What jobs stay with a slot for, where they share it: the most shared first."""
        ...

    @property
    def task(self) -> Task:
        """What the slot is sent."""
        ...


@dataclass(frozen=True)
class Done:
    """How a job ended, and where. outcome: ``status`` (ok, failed, timeout, crashed or lost) and ``error``, or what was
    asked for; see ``nqbench.engine.worker``. environment: of the slot; None: this process's. slots: how many there are
    now. alone: whether no other trial can have run beside it, as far as the engine knows."""

    outcome: Outcome
    environment: Outcome | None = None
    slots: int = 1
    alone: bool = True


class TrialJob(NamedTuple):
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

    @property
    def affinity(self) -> tuple[str, ...]:
        return self.keys.affinity

    @property
    def task(self) -> TrialTask:
        return TrialTask(self.trial, self.goal, self.recipe)

    def waits_as(self, other: TrialJob) -> bool:
        """Whether another job waits for the same network."""
        return other.keys.waits == self.keys.waits
