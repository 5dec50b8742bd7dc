"""How work that another process is at is waited for: one network need not be trained ten times side by side.

A worker has other work to do, so that its patience is short (``patience``): what it would have to wait for longer
raises ``Busy``, and the engine gives it something else. Anywhere else one waits until the other is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from nqbench.api.errors import NqbenchError
from nqbench.api.toolkit.progress import tell

_FIRST, _LONGEST = 0.02, 2.0
"""Seconds between two looks: at first, and after a while."""

_patience: ContextVar[float | None] = ContextVar("patience", default=None)


class Busy(NqbenchError):
    """Another process is making what is needed; there may be other work meanwhile."""


@contextmanager
def patience(seconds: float | None) -> Iterator[None]:
    """How long is waited inside the block, in this thread, before ``Busy`` is raised. None: for ever."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


class Waiting:
    """One wait. what: that is waited for, in a few words."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._begun = time.monotonic()
        self._pause = _FIRST

    def pause(self) -> None:
        """Sleep a little, longer each time. Raises Busy where patience is at its end."""
        limit = _patience.get()
        if limit is not None and time.monotonic() - self._begun >= limit:
            raise Busy(f"another process is at {self.what}")
        tell(f"waits for another process: {self.what}")
        time.sleep(self._pause)
        self._pause = min(self._pause * 1.5, _LONGEST)
