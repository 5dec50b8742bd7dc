"""The events that a run reports while it runs. A listener decides how to show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nqbench.results.goal import USUAL, Goal
from nqbench.results.record import Record


class Progress(Protocol):
    """Listener of a run."""

    def started(self, total: int, reused: int, *, search: bool = False, goal: Goal = USUAL) -> None:
        """The run begins. total: number of trials (of a search: the largest possible). reused: trials that have a
        record. goal: what its files are to hold."""

    def found(self, reused: int) -> None:
        """A search reused more trials that have a record already."""

    def running(self, trials: Sequence[tuple[str, str]]) -> None:
        """The trials that are running, each as a unique label and its current step. Called at least twice a second."""

    def ended(self, record: Record, label: str, *, again: bool = False) -> None:
        """A trial ended. label: unique in the run. again: it failed for the same reason as one before."""

    def warning(self, text: str) -> None:
        """A warning for the user."""

    def finished(self) -> None:
        """No more trials."""


class Silent:
    """Says nothing."""

    def started(self, total: int, reused: int, *, search: bool = False, goal: Goal = USUAL) -> None: ...

    def found(self, reused: int) -> None: ...

    def running(self, trials: Sequence[tuple[str, str]]) -> None: ...

    def ended(self, record: Record, label: str, *, again: bool = False) -> None: ...

    def warning(self, text: str) -> None: ...

    def finished(self) -> None: ...
