"""The dispatcher of a run: it sends jobs to the slots of an engine (places where one trial runs at a time) and reports
how each ended.

A slot that is lost costs no job: what it had goes to another, twice at most. A slot whose versions or code are others
than this process's is refused before its first job, and so is one that has too little of what a trial needs.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, TypeVar

from nqbench.api.engine import Ended, Greeting, Joined, Lost, Refused, Resources, Slots
from nqbench.api.errors import BadInput, Note
from nqbench.engine.greeting import difference
from nqbench.engine.protocol import Done, Job
from nqbench.engine.queue import AffinityQueue

J = TypeVar("J", bound=Job)

ELSEWHERE = 2
"""How often a job whose slot was lost goes to another."""
_PATIENCE = 10.0
"""Seconds without a slot after which that is said."""


@dataclass
class _Running(Generic[J]):
    job: J
    losses: list[str] = field(default_factory=list)


class Dispatcher(Generic[J]):
    """Use as a context manager; leaving it leaves nothing running. Slots are opened when the first job is there.

    slots: opens them. needs: what a slot must have. greeting: what this process says of itself, for comparison. limit:
    how many slots to use at most. tell: hears what the user should know.
    """

    def __init__(
        self,
        slots: Callable[[], Slots],
        greeting: Callable[[], Greeting],
        tell: Callable[[str], None],
        *,
        needs: Resources | None = None,
        limit: int | None = None,
    ) -> None:
        self._make, self._greeting, self._tell = slots, greeting, tell
        self._needs, self._limit = needs or Resources(), limit
        self._queue: AffinityQueue[J] = AffinityQueue()
        self._losses: dict[int, list[str]] = {}  # of jobs that wait again, by their identity
        self._slots: Slots | None = None
        self._known: dict[str, Joined] = {}
        self._idle: dict[str, None] = {}
        self._spare: dict[str, Joined] = {}
        self._running: dict[str, _Running[J]] = {}
        self._refused: list[str] = []
        self._lacking: float | None = None  # since when there has been no slot

    def __enter__(self) -> Dispatcher[J]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._slots is not None:
            self._slots.__exit__(kind, error, trace)

    def add(self, job: J) -> None:
        """Work to do, when a slot is ready."""
        self._queue.add([job])

    def later(self, job: J) -> None:
        """As ``add``, of a job that waits for what another process makes: all other work comes first."""
        self._queue.later(job)

    def withdraw(self, which: Callable[[J], bool]) -> list[J]:
        """Take back jobs that no slot has begun."""
        found = self._queue.withdraw(which)
        for job in found:  # another job may come to have its identity
            self._losses.pop(id(job), None)
        return found

    @property
    def busy(self) -> bool:
        """Whether there is work left, begun or not."""
        return bool(self._running) or len(self._queue) > 0

    @property
    def started(self) -> bool:
        """Whether any slot was given work."""
        return self._slots is not None

    @property
    def current(self) -> list[tuple[J, str]]:
        """The jobs that run now, each with what it is at: the step and, where somebody tells, how far it has come; and
        where, unless that is this machine."""
        if self._slots is None:
            return []
        doing = self._slots.doing()
        found = []
        for slot, running in self._running.items():
            label = self._known[slot].label
            found.append((running.job, f"{doing.get(slot, 'sent')}{f' on {label}' if label else ''}"))
        return found

    def step(self, seconds: float = 0.5) -> list[tuple[J, Done]]:
        """Give work to idle slots, wait at most so long, and return what ended. Raises BadInput where no slot can take
        part, SlotsLost where the engine is gone."""
        if not self.busy:
            return []
        slots = self._open()
        self._fill(slots)
        ended: list[tuple[J, Done]] = []
        for event in slots.wait(seconds):
            if isinstance(event, Ended):
                ended += self._ended(event)
            elif isinstance(event, Lost):
                ended += self._lost(event)
            elif isinstance(event, Joined):
                self._joined(event)
            elif isinstance(event, Refused):
                self._refuse(event.why)
        self._fill(slots)
        self._judge(slots)
        return ended

    def _open(self) -> Slots:
        if self._slots is None:
            slots = self._make()
            slots.__enter__()
            self._slots = slots
            if slots.notice:
                warnings.warn(slots.notice, Note, stacklevel=2)
        return self._slots

    def _fill(self, slots: Slots) -> None:
        while self._idle:
            slot = next(iter(self._idle))
            job = self._queue.take(slot)
            if job is None:
                return
            del self._idle[slot]
            self._running[slot] = _Running(job, self._losses.pop(id(job), []))
            slots.send(slot, job.task)

    # -- events ------------------------------------------------------------------------------------------------------
    def _joined(self, event: Joined) -> None:
        why = self._needs.lacks(event.offers)
        if not why and event.greeting is not None:
            why = difference(self._greeting(), event.greeting)
        if why:
            self._refuse(f"{event.label or event.slot} {why}")
        elif self._limit is not None and len(self._known) >= self._limit:
            self._spare[event.slot] = event
        else:
            self._take_on(event)

    def _take_on(self, event: Joined) -> None:
        self._known[event.slot] = event
        self._idle[event.slot] = None
        self._lacking = None

    def _refuse(self, why: str) -> None:
        self._refused.append(why)
        self._tell(f"a slot is refused: {why}")

    def _ended(self, event: Ended) -> list[tuple[J, Done]]:
        running = self._running.pop(event.slot, None)
        if event.slot in self._known:
            self._idle[event.slot] = None
        return [] if running is None else [(running.job, self._done(event))]

    def _done(self, event: Ended) -> Done:
        slot = self._known[event.slot]
        greeting = slot.greeting
        environment = None if greeting is None else dict(greeting["environment"])
        alone = slot.alone and len(self._known) == 1
        return Done(event.outcome, environment, len(self._known), alone)

    def _lost(self, event: Lost) -> list[tuple[J, Done]]:
        slot = self._known.pop(event.slot, None)
        self._spare.pop(event.slot, None)
        self._idle.pop(event.slot, None)
        self._queue.forget(event.slot)
        running = self._running.pop(event.slot, None)
        if slot is None:
            return []
        if self._spare:
            self._take_on(self._spare.pop(next(iter(self._spare))))
        label = slot.label or event.slot
        if running is None:
            self._tell(f"a slot is lost: {label}: {event.why}")
            return []
        running.losses.append(f"{label}: {event.why}")
        if len(running.losses) <= ELSEWHERE:
            self._tell(f"a slot is lost: {label}: {event.why}; its trial goes to another")
            self._losses[id(running.job)] = running.losses
            self._queue.put_back(running.job)
            return []
        error = f"lost {len(running.losses)} slots, one after another: {'; '.join(running.losses)}"
        return [(running.job, Done({"status": "lost", "error": error}, slots=max(1, len(self._known))))]

    def _judge(self, slots: Slots) -> None:
        """Say that there is no slot, or give up where there will be none."""
        if self._known or not self.busy:
            return
        if self._refused and not slots.expecting():
            more = f" (and {len(self._refused) - 1} more)" if len(self._refused) > 1 else ""
            raise BadInput(f"no slot can take part: {self._refused[-1]}{more}")
        now = time.monotonic()
        if self._lacking is None:
            self._lacking = now
        elif now - self._lacking > _PATIENCE:
            self._lacking = float("inf")
            self._tell("no worker is available yet; the run continues as soon as one joins")
