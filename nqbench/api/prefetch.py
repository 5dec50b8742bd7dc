"""Items prepared by a thread while the caller works on the ones before: what a GPU would wait for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread, current_thread
from typing import TypeVar

T = TypeVar("T")

DEPTH = 4
"""Items that lie ready at most."""
_PATIENCE = 0.1
"""Seconds between two looks at whether the caller has left."""


def prefetched(items: Iterable[T], depth: int = DEPTH) -> Iterator[T]:
    """The same items in the same order; what drawing one raises is raised where it would have been.

    At most ``depth`` items lie ready and one more waits for room. A caller that leaves early stops the thread after the
    item that it is drawing.
    """
    ready: Queue[tuple[T | None, BaseException | None]] = Queue(depth)
    left = Event()

    def put(entry: tuple[T | None, BaseException | None]) -> bool:
        while not left.is_set():
            try:
                ready.put(entry, timeout=_PATIENCE)
            except Full:
                continue
            return not left.is_set()
        return False

    def draw() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as error:  # noqa: BLE001 - it is the caller's to handle
            put((None, error))
        else:
            put((None, StopIteration()))

    thread = Thread(target=draw, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # its traceback holds this frame, which would hold it
            yield item  # type: ignore[misc]
    finally:
        left.set()
        # the garbage collector may close a forgotten generator in any thread, this one too
        while current_thread() is not thread:  # a thread that waits for room finds it, and ends
            try:
                ready.get_nowait()
            except Empty:
                thread.join()
                break
