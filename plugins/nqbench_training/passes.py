"""Forward passes that end as soon as all that is looked for was seen."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from nqbench.api import Batch, Network


class Passes:
    """The first pass goes through the whole network and counts the uses of each tensor; each pass after it makes the
    same, and ends at the last of them.

    expected: the uses of each tensor in a whole pass; None before the first.
    """

    def __init__(self) -> None:
        self.expected: Counter[str] | None = None
        self._calls: Counter[str] = Counter()

    def used(self, name: str) -> None:
        """Note a use, inside ``run``; ends the pass if it is the last one."""
        self._calls[name] += 1
        if self._calls == self.expected:
            raise _Seen

    def run(self, task: Network, batch: Batch) -> None:
        """One pass."""
        self._calls.clear()
        with suppress(_Seen):
            task.predict(batch)
            self.expected = self._calls.copy()


class _Seen(Exception):
    """Ends a pass."""
