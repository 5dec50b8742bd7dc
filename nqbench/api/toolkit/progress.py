"""What long work says while it runs: ``tell("tensor 3 of 20")`` reaches whoever listens, wherever it is called from.

A plugin need not know who that is: the engine listens around a trial and shows the words beside the trial's stage. With
nobody listening nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def tell(text: str) -> None:
    """Say how far the work has come, in a few words on one line: ``epoch 3 of 12, loss 0.412``."""
    listener = _listener.get()
    if listener is not None:
        listener(text)


@contextmanager
def telling(listener: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, ``listener`` gets what ``tell`` is given in this thread (or task), and no outer one does."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def quiet() -> AbstractContextManager[None]:
    """Inside the block nothing is told: of small steps of long work, which speaks for itself."""
    return telling(lambda _: None)
