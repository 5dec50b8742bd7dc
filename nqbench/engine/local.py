"""The local engine: worker processes on this machine, one Pebble pool of one process each, always spawned.

A pool a worker, so that a trial can be sent to the worker that already holds its source. A worker that dies, or that is
stopped at its deadline, costs the trial it was at; another takes its place.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from nqbench.engine.deadlines import Deadlines
from nqbench.engine.protocol import Job, Outcome
from nqbench.engine.queue import AffinityQueue
from nqbench.engine.worker import WorkerSettings, noted, perform, start
from nqbench.suite.trial import Trial


class LocalEngine:
    """Use as a context manager; leaving it stops every worker at once.

    scratch: a folder of this engine's own, for temporary files of the workers; made and removed here.
    """

    def __init__(self, jobs: int, settings: WorkerSettings, scratch: Path, deadlines: Deadlines | None = None) -> None:
        self.deadlines = deadlines or Deadlines()
        self._queue = AffinityQueue()
        self._scratch = scratch
        self._settings = [
            replace(
                settings,
                parent=os.getpid(),
                scratch=str((scratch / f"worker-{index}").absolute()),
                stage_file=str((scratch / f"stage-{index}").absolute()),
            )
            for index in range(jobs)
        ]
        self._pools: list[ProcessPool | None] = [None] * jobs
        self._running: dict[Future[Any], tuple[int, Job, float]] = {}

    def __enter__(self) -> LocalEngine:
        shutil.rmtree(self._scratch, ignore_errors=True)  # of a run that was killed
        return self

    def __exit__(self, *_: object) -> None:
        _stop(*self._pools)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def add(self, job: Job) -> None:
        self._queue.add([job])

    def withdraw(self, which: Callable[[Job], bool]) -> list[Job]:
        return self._queue.withdraw(which)

    @property
    def started(self) -> bool:
        """Whether any worker was."""
        return any(pool is not None for pool in self._pools)

    @property
    def busy(self) -> bool:
        return bool(self._running) or len(self._queue) > 0

    @property
    def current(self) -> list[tuple[Trial, str]]:
        """The trials that run now, each with what it is at."""
        found = []
        for worker, job, _ in self._running.values():
            step, _, told = noted(self._settings[worker].stage_file)
            found.append((job.trial, f"{step}: {told}" if told else step))
        return found

    def step(self, seconds: float = 0.5) -> list[tuple[Job, Outcome]]:
        self._fill()
        if not self._running:
            return []
        done, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        ended = []
        for future in done:
            worker, job, _ = self._running.pop(future)
            ended.append((job, self._outcome(future, worker)))
        ended += self._overdue() if self.deadlines.by_stage else []
        self._fill()
        return ended

    def _overdue(self) -> list[tuple[Job, Outcome]]:
        """Stop workers whose stage has taken too long."""
        ended: list[tuple[Job, Outcome]] = []
        for future, (worker, job, begun) in list(self._running.items()):
            step, since, _ = noted(self._settings[worker].stage_file)
            # what an earlier trial left may still stand there
            told = self.deadlines.passed(step, time.monotonic() - max(since, begun))
            if told is not None and not future.done():
                del self._running[future]
                self._discard(worker)
                ended.append((job, {"status": "timeout", "error": told}))
        return ended

    def _fill(self) -> None:
        taken = {worker for worker, _, _ in self._running.values()}
        for worker in range(len(self._pools)):
            if worker in taken:
                continue
            job = self._queue.take(worker)
            if job is None:
                return
            self._running[self._schedule(worker, job)] = (worker, job, time.monotonic())

    def _schedule(self, worker: int, job: Job) -> Future[Any]:
        pool = self._pools[worker]
        if pool is not None and not pool.active:  # its process died while it had nothing to do
            self._discard(worker)
        # a worker inherits what is blocked: Ctrl-C must not reach one that still imports
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            arguments = (job.trial, job.goal, job.recipe)
            return self._pool(worker).schedule(perform, args=arguments, timeout=self.deadlines.trial)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _pool(self, worker: int) -> ProcessPool:
        pool = self._pools[worker]
        if pool is None:
            settings = self._settings[worker]
            Path(settings.scratch).mkdir(parents=True, exist_ok=True)
            Path(settings.stage_file).unlink(missing_ok=True)
            pool = self._pools[worker] = ProcessPool(
                max_workers=1,
                context=multiprocessing.get_context("spawn"),
                initializer=start,
                initargs=(settings,),
            )
        return pool

    def _discard(self, worker: int) -> None:
        _stop(self._pools[worker])
        self._pools[worker] = None
        shutil.rmtree(self._settings[worker].scratch, ignore_errors=True)

    def _outcome(self, future: Future[Any], worker: int) -> Outcome:
        stage = noted(self._settings[worker].stage_file).step
        try:
            outcome: Outcome = future.result()
        except TimeoutError:
            return {"status": "timeout", "error": f"stopped after {self.deadlines.trial:g} s in the stage '{stage}'"}
        except ProcessExpired as error:
            self._discard(worker)
            return {"status": "crashed", "error": f"{_death(error.exitcode)} in the stage '{stage}'"}
        except BrokenProcessPool:
            self._discard(worker)
            return {"status": "crashed", "error": f"the worker ended in the stage '{stage}'; its last words are above"}
        except Exception as error:  # noqa: BLE001 - what Pebble itself raises (a result that does not pickle)
            return {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        if outcome.pop("unusable", False):
            self._discard(worker)
        return outcome


def _stop(*pools: ProcessPool | None) -> None:
    """Kill the processes of pools, all at once, and wait until they are gone."""
    running = [pool for pool in pools if pool is not None]
    for pool in running:
        pool.stop()  # type: ignore[no-untyped-call]
    for pool in running:
        pool.join()


def _death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"the worker ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"the worker was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
