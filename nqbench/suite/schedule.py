"""Where a run's trials come from: a schedule is asked for trials and told how each ended.

A plain suite hands out all of its trials at once. A search for an operating point hands out the next trial once it has
seen the last one's record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from nqbench.suite.trial import Trial


class Schedule(Protocol):
    """Trials are pulled: ``ready`` until it gives nothing, run, ``ended`` for each, until ``finished``."""

    def upper_bound(self) -> int:
        """The most trials that it will hand out."""
        ...

    def ready(self) -> list[Trial]:
        """Trials that may start now and were not handed out before."""
        ...

    def ended(self, trial: Trial, record: Mapping[str, Any]) -> None:
        """A trial that was handed out ended, however it did. record: the fields that records.json has."""
        ...

    def finished(self) -> bool:
        """Whether every trial handed out has ended and no more will come."""
        ...


class GridSchedule:
    """Every trial of a list, at once, in its order."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._waiting = list(trials)
        self._running: set[Trial] = set()
        self._total = len(self._waiting)

    def upper_bound(self) -> int:
        return self._total

    def ready(self) -> list[Trial]:
        trials, self._waiting = self._waiting, []
        self._running.update(trials)
        return trials

    def ended(self, trial: Trial, record: Mapping[str, Any]) -> None:
        self._running.discard(trial)

    def finished(self) -> bool:
        return not self._waiting and not self._running
