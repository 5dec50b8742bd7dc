"""The local engine: worker processes on this machine, one Pebble pool of one process each, always spawned.

A pool a worker, so that a trial can be sent to the worker that already holds its source. A worker that dies, or that is
stopped at its deadline, costs the trial it was at; Pebble starts another in its place.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from nqbench.engine.queue import AffinityQueue, Job
from nqbench.engine.worker import WorkerSettings, run_trial, start
from nqbench.suite.trial import Trial


class LocalEngine:
    """Use as a context manager; leaving it stops every worker at once."""

    def __init__(self, jobs: int, settings: WorkerSettings, timeout: float | None = None) -> None:
        self.timeout = timeout
        self.queue = AffinityQueue()
        self._folder = tempfile.TemporaryDirectory(prefix="nqbench-engine-")
        self._settings = [
            replace(settings, parent=os.getpid(), stage_file=str(Path(self._folder.name) / f"stage-{index}"))
            for index in range(jobs)
        ]
        self._pools: list[ProcessPool | None] = [None] * jobs
        self._running: dict[Future[Any], tuple[int, Job]] = {}

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            if pool is not None:
                pool.stop()  # type: ignore[no-untyped-call]
        for pool in self._pools:
            if pool is not None:
                pool.join()
        self._folder.cleanup()

    @property
    def busy(self) -> bool:
        return bool(self._running) or len(self.queue) > 0

    @property
    def current(self) -> list[Trial]:
        """The trials that run now."""
        return [trial for _, (trial, _) in self._running.values()]

    def step(self, seconds: float = 0.5) -> list[tuple[Job, dict[str, Any]]]:
        """Give work to idle workers, wait at most so long, and return what ended: jobs and their outcomes."""
        self._fill()
        if not self._running:
            return []
        done, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        ended = []
        for future in done:
            worker, job = self._running.pop(future)
            ended.append((job, self._outcome(future, worker)))
        self._fill()
        return ended

    def _fill(self) -> None:
        taken = {worker for worker, _ in self._running.values()}
        for worker, settings in enumerate(self._settings):
            if worker in taken:
                continue
            job = self.queue.take(worker)
            if job is None:
                return
            if self._pools[worker] is None:
                self._pools[worker] = ProcessPool(
                    max_workers=1,
                    context=multiprocessing.get_context("spawn"),
                    initializer=start,
                    initargs=(settings,),
                )
            pool = self._pools[worker]
            assert pool is not None
            future = pool.schedule(run_trial, args=(job[0],), timeout=self.timeout)
            self._running[future] = (worker, job)

    def _outcome(self, future: Future[Any], worker: int) -> dict[str, Any]:
        try:
            outcome: dict[str, Any] = future.result()
        except TimeoutError:
            stage = self._stage(worker)
            return {"status": "timeout", "error": f"stopped after {self.timeout:g} s in the stage '{stage}'"}
        except ProcessExpired as error:
            return {"status": "crashed", "error": f"{_death(error.exitcode)} in the stage '{self._stage(worker)}'"}
        except Exception as error:  # noqa: BLE001 - what Pebble itself raises (a result that does not pickle)
            return {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        return outcome

    def _stage(self, worker: int) -> str:
        path = Path(self._settings[worker].stage_file)
        return path.read_text().strip() if path.exists() else "start"


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the worker was killed by {name}{hint}"
    return f"the worker ended with exit code {code}"
