"""Where the trials of a run come from: a schedule is asked for trials, and is told how each of them ended.

A plain suite hands out all of its trials at once. A search for an operating point first asks for the knob of each
method on its own weights, and hands out the next trials once it has seen the last ones' records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nqbench.api.quantizer import Knob
from nqbench.pipeline.trial import Trial


@dataclass(frozen=True)
class Question:
    """A question of a schedule: what is the knob (the parameter to search) of this trial's method, for its weights?"""

    trial: Trial


class Schedule(Protocol):
    """A run calls ``questions`` and ``ready`` until both return nothing, does what they returned, calls ``answered`` or
    ``ended`` for each, and repeats this until ``finished``. A schedule depends only on what it was told, so that a run
    that was killed gets the same trials when it is repeated."""

    @property
    def search(self) -> bool:
        """Whether what it hands out depends on how trials end."""
        ...

    def upper_bound(self) -> int:
        """The most trials that it will hand out."""
        ...

    def questions(self) -> list[Question]:
        """Questions that it has now and has not asked before."""
        ...

    def answered(self, question: Question, knob: Knob | None) -> None:
        """The answer to a question; None: the method has no knob, or it could not be found."""
        ...

    def complaints(self) -> list[str]:
        """Warnings for the user, each returned once."""
        ...

    def ready(self) -> list[Trial]:
        """Trials that may start now and were not handed out before."""
        ...

    def ended(self, trial: Trial, record: Mapping[str, Any]) -> None:
        """A trial that was handed out ended, however it did. record: the fields that records.json has."""
        ...

    def stop(self) -> None:
        """The time is up. Trials that have not ended will not end; from now on, only trials that are needed to answer
        with the results so far are handed out."""
        ...

    def chosen(self) -> list[Trial]:
        """Of a search: the trials of its answers so far, one method after another; else none."""
        ...

    def finished(self) -> bool:
        """Whether every trial handed out has ended and no more will come."""
        ...


class GridSchedule:
    """Every trial of a list, at once, in its order."""

    search = False

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._waiting = list(trials)
        self._running: set[Trial] = set()
        self._total = len(self._waiting)

    def upper_bound(self) -> int:
        return self._total

    def questions(self) -> list[Question]:
        return []

    def answered(self, question: Question, knob: Knob | None) -> None:
        raise NotImplementedError("a grid asks nothing")

    def complaints(self) -> list[str]:
        return []

    def ready(self) -> list[Trial]:
        trials, self._waiting = self._waiting, []
        self._running.update(trials)
        return trials

    def ended(self, trial: Trial, record: Mapping[str, Any]) -> None:
        self._running.discard(trial)

    def stop(self) -> None:
        self._waiting.clear()
        self._running.clear()

    def chosen(self) -> list[Trial]:
        return []

    def finished(self) -> bool:
        return not self._waiting and not self._running
