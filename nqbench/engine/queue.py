"""Which trial goes to which worker: trials on one source stay with the worker that holds it."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

from nqbench.pipeline.keys import Keys
from nqbench.suite.schedule import Question
from nqbench.suite.trial import Trial


class Job(NamedTuple):
    """A trial to run or, where there is a question, the knob of the trial's method to find."""

    trial: Trial
    keys: Keys
    question: Question | None = None


class AffinityQueue:
    """Trials by source (what the quantizer is given), each source owned by one worker until others run dry."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._owner: dict[str, int] = {}

    def add(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._waiting.setdefault(job.keys.sense, deque()).append(job)

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

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
        quantize = jobs[-1].keys.quantize
        at = len(jobs) - 1
        while at > 0 and jobs[at - 1].keys.quantize == quantize:
            at -= 1
        job = jobs[at]
        del jobs[at]
        return job

    def _pop(self, source: str, job: Job) -> Job:
        if not self._waiting[source]:
            # who worked on it still holds it: a search may come back with more
            del self._waiting[source]
        return job
