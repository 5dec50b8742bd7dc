"""Forward passes that end as soon as all that is looked for was seen."""

from __future__ import annotations

from collections import Counter
from types import TracebackType

from nqbench.api import Batch, Network


class Ending:
    """``with ending:`` around a forward pass, which ``now``, called by something that watches it, ends.

    TorchScript's interpreter and functions that explain a user's errors put what is raised inside a pass into
    exceptions of their own, so that what arrives here is not asked what it is.
    """

    def __init__(self) -> None:
        self._ended = False

    def now(self) -> None:
        self._ended = True
        raise _Ended

    def __enter__(self) -> Ending:
        self._ended = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self._ended and isinstance(error, Exception)


class _Ended(Exception):
    """Ends a pass."""


class Passes:
    """The first pass goes through the whole network and counts the uses of each tensor; each pass after it makes the
    same, and ends at the last of them.

    expected: the uses of each tensor in a whole pass; None before the first.
    """

    def __init__(self) -> None:
        self.expected: Counter[str] | None = None
        self._calls: Counter[str] = Counter()
        self._ending = Ending()

    def used(self, name: str) -> None:
        """Note a use, inside ``run``; ends the pass if it is the last one."""
        self._calls[name] += 1
        if self._calls == self.expected:
            self._ending.now()

    def run(self, task: Network, batch: Batch) -> None:
        """One pass."""
        self._calls.clear()
        with self._ending:
            task.predict(batch)
            self.expected = self._calls.copy()
