"""Checks of engines: slots join, run the tasks that they are sent, and leave no processes behind.

They run with a host that does its tasks in a thread of the slot's process: what an engine carries is what counts here,
not what is in it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nqbench.api.engine import Ended, Engine, Event, Greeting, Joined, Resources, Slots, SlotShape, Work
from nqbench.testing.check import check, require

_DEADLINE = 120.0
"""Seconds that slots may take to join, and tasks to end: the slots' processes import torch."""
_LARGE = 1 << 20


@dataclass(frozen=True)
class Chore:
    """A task for ``SmallHost``: give back a number of bytes, or wait for so many seconds."""

    what: Literal["give", "wait"]
    amount: float = 0

    def done(self) -> dict[str, Any]:
        if self.what == "wait":
            time.sleep(self.amount)
        return {"status": "ok", "process": os.getpid(), "data": b"x" * int(self.amount if self.what == "give" else 0)}


@dataclass(frozen=True)
class SmallHost:
    """A host whose slots do ``Chore``s."""

    def greet(self) -> Greeting:
        return {"cpus": 1, "memory": None, "gpu": 0, "environment": {"host": "here"}, "process": os.getpid()}

    def open(self, shapes: Sequence[SlotShape], scratch: Path, *, away: bool) -> Slots:
        return _Threads([shape.name for shape in shapes])


class _Threads(Slots):
    def __init__(self, names: Sequence[str]) -> None:
        self._events: list[Event] = [Joined(name) for name in names]
        self._happened = threading.Condition()
        self._busy: set[str] = set()

    def __exit__(self, *_: object) -> None: ...

    def send(self, slot: str, task: Chore) -> None:
        self._busy.add(slot)
        threading.Thread(target=self._do, args=(slot, task), daemon=True).start()

    def _do(self, slot: str, task: Chore) -> None:
        event = Ended(slot, task.done())
        with self._happened:
            self._events.append(event)
            self._busy.discard(slot)
            self._happened.notify()

    def wait(self, seconds: float) -> list[Event]:
        with self._happened:
            if not self._events:
                self._happened.wait(seconds)
            events, self._events = self._events, []
        return events

    def doing(self) -> dict[str, str]:
        return dict.fromkeys(self._busy, "busy")


@check("engine")
def slots_do_their_tasks(engine: Engine) -> None:
    """Two slots join with different names, and each does one task after another."""
    with _opened(engine) as slots:
        joined = _joined(slots, 2)
        for size in (0, 5, _LARGE):
            for one in joined:
                slots.send(one.slot, Chore("give", size))
            answers = _ended(slots, len(joined))
            require(answers.keys() == {one.slot for one in joined}, "a task's answer does not come from its slot")
            sizes = {len(answer["data"]) for answer in answers.values()}
            require(sizes == {size}, f"an answer of {size} bytes comes back as one of {sizes}")


@check("engine")
def greets_from_the_slot(engine: Engine) -> None:
    """What a slot on another machine says of itself comes from the process that does its tasks."""
    with _opened(engine) as slots:
        (joined,) = _joined(slots, 1)
        require(engine.away == (joined.greeting is not None), "slots elsewhere give a greeting, slots here none")
        if joined.greeting is not None:
            slots.send(joined.slot, Chore("give"))
            answers = _ended(slots, 1)
            require(answers[joined.slot]["process"] == joined.greeting["process"], "another process greets than works")


@check("engine")
def waits_no_longer_than_asked(engine: Engine) -> None:
    """Asked for events, it comes back in time while a task runs, and says what the slot is at."""
    with _opened(engine) as slots:
        (joined,) = _joined(slots, 1)
        slots.send(joined.slot, Chore("wait", 3))
        began = time.monotonic()
        slots.wait(0.2)
        require(time.monotonic() - began < 1.5, f"takes {time.monotonic() - began:.1f} s when asked to wait for 0.2")
        require(joined.slot in slots.doing(), "does not say what a slot with a task is at")
        _ended(slots, 1)


@check("engine", lambda engine: engine.away)
def leaves_at_once(engine: Engine) -> None:
    """Left while a task runs, it does not wait for that, and its process ends with it or is another's."""
    with _opened(engine) as slots:
        (joined,) = _joined(slots, 1)
        slots.send(joined.slot, Chore("wait", 60))
        slots.wait(0.5)
        began = time.monotonic()
    require(time.monotonic() - began < 45, "waits for the tasks that run when it is left")


@contextlib.contextmanager
def _opened(engine: Engine) -> Iterator[Slots]:
    with tempfile.TemporaryDirectory(prefix="nqbench-check-") as folder:
        work = Work(SmallHost(), Resources(), Resources(), 2, Path(folder) / "scratch")
        with engine.open(work) as slots:
            yield slots


def _joined(slots: Slots, count: int) -> list[Joined]:
    found: list[Joined] = []
    until = time.monotonic() + _DEADLINE
    while len(found) < count:
        require(time.monotonic() < until, f"{len(found)} of {count} slots join within {_DEADLINE:g} s")
        found += [event for event in slots.wait(0.5) if isinstance(event, Joined)]
    names = {one.slot for one in found}
    require(len(names) == len(found), "two slots have one name")
    return found[:count]


def _ended(slots: Slots, count: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    until = time.monotonic() + _DEADLINE
    while len(found) < count:
        require(time.monotonic() < until, f"{len(found)} of {count} tasks end within {_DEADLINE:g} s")
        found |= {event.slot: event.outcome for event in slots.wait(0.5) if isinstance(event, Ended)}
    return found
