"""What a run tells while it runs. The engine reports events; who listens decides how they look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nqbench.results.record import Record


class Progress(Protocol):
    """Listener of a run."""

    def started(self, total: int, reused: int, *, search: bool = False) -> None:
        """The run begins. total: its trials; of a search: the most there can be. reused: those already there."""

    def found(self, reused: int) -> None:
        """A search came to more trials that are already there."""

    def running(self, trials: Sequence[tuple[str, str]]) -> None:
        """The trials that run now: a label that tells each from the others, and what it is at. Called twice a second
        or more."""

    def ended(self, record: Record, label: str, *, again: bool = False) -> None:
        """A trial ended. label: what tells it from the run's others. again: it failed of what was told already."""

    def warning(self, text: str) -> None:
        """Something the user should know that stops nothing."""

    def finished(self) -> None:
        """No more trials."""


class Silent:
    """Says nothing."""

    def started(self, total: int, reused: int, *, search: bool = False) -> None: ...

    def found(self, reused: int) -> None: ...

    def running(self, trials: Sequence[tuple[str, str]]) -> None: ...

    def ended(self, record: Record, label: str, *, again: bool = False) -> None: ...

    def warning(self, text: str) -> None: ...

    def finished(self) -> None: ...
