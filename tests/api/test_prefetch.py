"""Items drawn by a thread ahead of who works on them."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from nqbench.api.prefetch import DEPTH, prefetched


def noted(drawn: list[int]) -> Iterator[int]:
    """A thousand numbers, each noted when it is drawn."""
    for number in range(1000):
        drawn.append(number)
        yield number


def wait_for(drawn: list[int], count: int) -> None:
    """Until that many are drawn, and a little longer, in which no more should be."""
    deadline = time.monotonic() + 10
    while len(drawn) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)


def test_the_same_items_in_the_same_order() -> None:
    assert list(prefetched(range(100))) == list(range(100))
    assert list(prefetched([])) == []


def test_none_is_an_item() -> None:
    assert list(prefetched([None, 1, None])) == [None, 1, None]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    found = prefetched(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="no more"):
        next(found)


def test_an_error_leaves_nothing_of_the_source_behind() -> None:
    class Data:
        pass

    kept: list[weakref.ref[Data]] = []

    def items() -> Iterator[int]:
        data = Data()
        kept.append(weakref.ref(data))
        yield 1
        raise ValueError(str(data))

    gc.disable()
    try:
        with pytest.raises(ValueError, match="Data"):
            list(prefetched(items()))
        assert kept[0]() is None, "freed without the garbage collector"
    finally:
        gc.enable()


def test_no_further_item_is_drawn_when_the_caller_has_left() -> None:
    drawn: list[int] = []
    found = prefetched(noted(drawn), depth=1)
    next(found)
    wait_for(drawn, 3)
    found.close()  # type: ignore[attr-defined]
    assert len(drawn) == 3


def test_a_forgotten_generator_may_be_closed_by_its_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    ended = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield 1
            yield 2
            holder.clear()  # the last reference to the generator: it is closed here, in its own thread
            yield 3
        finally:
            ended.set()

    holder = [prefetched(items(), depth=1)]
    assert next(holder[0]) == 1
    assert ended.wait(10)
    assert not ignored, "a thread cannot join itself"


def test_items_are_drawn_while_the_caller_works_but_not_without_end() -> None:
    drawn: list[int] = []
    found = prefetched(noted(drawn))
    assert next(found) == 0
    wait_for(drawn, DEPTH + 2)
    assert len(drawn) == DEPTH + 2, "the one handed out, those that lie ready, and one that waits for room"
    found.close()  # type: ignore[attr-defined]


def test_a_caller_that_leaves_early_leaves_no_thread_behind() -> None:
    for number in prefetched(iter(int, 1)):
        assert number == 0
        break
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
