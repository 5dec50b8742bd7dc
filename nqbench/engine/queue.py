"""Which trial goes to which worker: trials on one source stay with the worker that holds it."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from nqbench.engine.protocol import Job


class AffinityQueue:
    """Trials by source (what the quantizer is given: the first of their affinities), each source owned by one worker
    until others run dry."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._owner: dict[str, int] = {}

    def add(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._waiting.setdefault(job.keys.affinity[0], deque()).append(job)

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    def withdraw(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take out jobs, in their order."""
        found = [job for jobs in self._waiting.values() for job in jobs if which(job)]
        left = {source: deque(job for job in jobs if not which(job)) for source, jobs in self._waiting.items()}
        self._waiting = OrderedDict((source, jobs) for source, jobs in left.items() if jobs)
        return found

    def take(self, worker: int) -> Job | None:
        """The worker's next trial: of its own source, else of a source nobody has, else from the end of another's."""
        for source, jobs in self._waiting.items():
            if self._owner.get(source) == worker:
                return self._pop(source, jobs.popleft())
        for source, jobs in self._waiting.items():
            if source not in self._owner:
                self._owner[source] = worker
                return self._pop(source, jobs.popleft())
        if not self._waiting:
            return None
        source = max(self._waiting, key=lambda s: len(self._waiting[s]))
        return self._pop(source, self._steal(source))

    def _steal(self, source: str) -> Job:
        """The first of the last trials that share one quantization, so that the owner's next ones are left to it."""
        jobs = self._waiting[source]
        shared = jobs[-1].keys.affinity
        at = len(jobs) - 1
        while at > 0 and jobs[at - 1].keys.affinity == shared:
            at -= 1
        job = jobs[at]
        del jobs[at]
        return job

    def _pop(self, source: str, job: Job) -> Job:
        if not self._waiting[source]:
            # who worked on it still holds it: a search may come back with more
            del self._waiting[source]
        return job
