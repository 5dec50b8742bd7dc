"""Items drawn by a thread ahead of who works on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from nqbench.api.ahead import DEPTH, ahead


def test_the_same_items_in_the_same_order() -> None:
    assert list(ahead(range(100))) == list(range(100))
    assert list(ahead([])) == []


def test_none_is_an_item() -> None:
    assert list(ahead([None, 1, None])) == [None, 1, None]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="no more"):
        next(found)


def test_items_are_drawn_while_the_caller_works_but_not_without_end() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            drawn.append(number)
            yield number

    found = ahead(items())
    assert next(found) == 0
    deadline = time.monotonic() + 10
    while len(drawn) < DEPTH + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(drawn) == DEPTH + 2, "the one handed out, those that lie ready, and one that waits for room"
    found.close()  # type: ignore[attr-defined]


def test_a_caller_that_leaves_early_leaves_no_thread_behind() -> None:
    for number in ahead(iter(int, 1)):
        assert number == 0
        break
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]
