"""Where a run's trials come from: a schedule is asked for trials and told how each ended.

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
    """What a schedule must know before it can go on: the knob of a trial's method, on the trial's own weights."""

    trial: Trial


class Schedule(Protocol):
    """Work is pulled: ``questions`` and ``ready`` until both give nothing, then what they gave is done, ``answered`` or
    ``ended`` is told of each, and so on until ``finished``. It decides by what it was told alone: told the same again,
    it hands out the same trials, so that a run that was killed resumes."""

    @property
    def search(self) -> bool:
        """Whether what it hands out depends on how trials end."""
        ...

    def upper_bound(self) -> int:
        """The most trials that it will hand out."""
        ...

    def questions(self) -> list[Question]:
        """What it must know now and has not asked before."""
        ...

    def answered(self, question: Question, knob: Knob | None) -> None:
        """The answer to a question; None: the method has no knob, or it could not be found."""
        ...

    def complaints(self) -> list[str]:
        """What the user should know that stops nothing, each said once."""
        ...

    def ready(self) -> list[Trial]:
        """Trials that may start now and were not handed out before."""
        ...

    def ended(self, trial: Trial, record: Mapping[str, Any]) -> None:
        """A trial that was handed out ended, however it did. record: the fields that records.json has."""
        ...

    def stop(self) -> None:
        """The time is up: what was handed out and has not ended will not, and what may follow is the least that makes
        an answer of what has."""
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
