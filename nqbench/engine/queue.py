"""Assigns jobs to slots: jobs with the same weights to quantize go to the slot that has these in memory."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from nqbench.engine.protocol import Job

J = TypeVar("J", bound=Job)


class AffinityQueue(Generic[J]):
    """Jobs by source (what the quantizer is given: the first of their affinities), each source owned by one slot until
    others run dry. Taking one takes the same time however many slots and sources there are, but for a slot that robs
    another: that looks at every source once."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[J]] = {}
        self._owner: dict[str, str] = {}
        self._free: OrderedDict[str, None] = OrderedDict()
        """Sources with jobs that nobody owns, in their order."""
        self._owned: dict[str, OrderedDict[str, None]] = {}
        """Sources with jobs by their owner."""
        self._length = 0

    def add(self, jobs: Iterable[J]) -> None:
        for job in jobs:
            self._source(job).append(job)
            self._length += 1

    def put_back(self, job: J) -> None:
        """A job that was taken and not done: it is the next of its source, and that the next of those nobody has."""
        self._source(job).appendleft(job)
        self._length += 1
        if (source := job.affinity[0]) in self._free:
            self._free.move_to_end(source, last=False)

    def later(self, job: J) -> None:
        """A job that waits for what another process makes: its source comes behind all others, and is nobody's."""
        source = job.affinity[0]
        owner = self._owner.pop(source, None)
        if owner is not None:
            self._owned.get(owner, OrderedDict()).pop(source, None)
        self.add([job])
        self._free[source] = None
        self._free.move_to_end(source)

    def __len__(self) -> int:
        return self._length

    def withdraw(self, which: Callable[[J], bool]) -> list[J]:
        """Take out jobs, in their order."""
        found = [job for jobs in self._waiting.values() for job in jobs if which(job)]
        for source in list(self._waiting):
            self._waiting[source] = deque(job for job in self._waiting[source] if not which(job))
            self._tidy(source)
        self._length -= len(found)
        return found

    def forget(self, slot: str) -> None:
        """A slot is gone: what it owned is anybody's."""
        self._owner = {source: owner for source, owner in self._owner.items() if owner != slot}
        for source in self._owned.pop(slot, ()):
            self._free[source] = None

    def take(self, slot: str) -> J | None:
        """The slot's next job: of its own source, else of a source nobody has, else from the end of another's."""
        own = self._owned.get(slot)
        if own:
            return self._first(next(iter(own)))
        if self._free:
            source = next(iter(self._free))
            del self._free[source]
            self._owner[source] = slot
            self._owned.setdefault(slot, OrderedDict())[source] = None
            return self._first(source)
        if not self._waiting:
            return None
        source = max(self._waiting, key=lambda s: len(self._waiting[s]))
        return self._taken(source, self._steal(source))

    def _source(self, job: J) -> deque[J]:
        source = job.affinity[0]
        if source not in self._waiting:
            self._waiting[source] = deque()
            owner = self._owner.get(source)
            where = self._free if owner is None else self._owned.setdefault(owner, OrderedDict())
            where[source] = None
        return self._waiting[source]

    def _first(self, source: str) -> J:
        return self._taken(source, self._waiting[source].popleft())

    def _steal(self, source: str) -> J:
        """The first of the last jobs that share one quantization, so that the owner's next ones are left to it."""
        jobs = self._waiting[source]
        shared = jobs[-1].affinity
        at = len(jobs) - 1
        while at > 0 and jobs[at - 1].affinity == shared:
            at -= 1
        job = jobs[at]
        del jobs[at]
        return job

    def _taken(self, source: str, job: J) -> J:
        self._length -= 1
        self._tidy(source)
        return job

    def _tidy(self, source: str) -> None:
        """A source without jobs waits for nothing; who worked on it still holds it: a search may come back."""
        if not self._waiting[source]:
            del self._waiting[source]
            self._free.pop(source, None)
            self._owned.get(self._owner.get(source, ""), OrderedDict()).pop(source, None)
