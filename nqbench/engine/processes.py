"""Slots of this process: worker processes below it, one Pebble pool of one process each, always spawned.

Each slot has a pool of its own, so that a task can be sent to the worker that already has its weights in memory. When a
worker dies, or is stopped at its deadline or memory limit, only its current task is lost; a new worker takes its place.
Each worker leads a process group: what a method started below it ends with it, and holds neither locks nor pipes.
On a cluster, each slot's process has such a worker below it, too: a method that crashes never costs the slot.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from nqbench.api.engine import Ended, Event, Joined, Outcome, Slots, Task
from nqbench.engine.deadlines import Deadlines
from nqbench.engine.memory import below, end_group, held
from nqbench.engine.spawning import LEFT, Spawning
from nqbench.engine.worker import WorkerSettings, begun, noted, perform, start

_LOOK = 0.1
"""Seconds between two looks at what a worker's processes hold, where that is limited."""


@dataclass
class _Running:
    """sent, begun: when, on ``time.monotonic``, which no setting of a clock moves; begun: None until the worker, which
    may have to start first, has the task."""

    slot: str
    sent: float
    begun: float | None = None


class Processes(Slots):
    """settings: of each slot's worker, with a scratch folder and a stage file of its own. memory: bytes that a worker's
    processes may hold, where that is limited. scratch: a folder around those folders, made and removed here."""

    def __init__(
        self,
        settings: Mapping[str, WorkerSettings],
        scratch: Path,
        deadlines: Deadlines,
        memory: Mapping[str, int | None] | None = None,
    ) -> None:
        self.deadlines = deadlines
        self._settings, self._memory, self._scratch = settings, memory or {}, scratch
        self._pools: dict[str, ProcessPool | None] = dict.fromkeys(settings)
        self._workers: dict[str, int] = {}  # of slots whose task was begun, which process has it
        self._running: dict[Future[Any], _Running] = {}
        self._joining: list[Event] = [Joined(slot) for slot in settings]

    def __enter__(self) -> Processes:
        shutil.rmtree(self._scratch, ignore_errors=True)  # of a run that was killed
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(*self._pools)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def send(self, slot: str, task: Task) -> None:
        pool = self._pools[slot]
        if pool is not None and not pool.active:  # its process died while it had nothing to do
            self._discard(slot)
        future: Future[Any]
        try:
            with _interrupts_held_back():
                future = self._pool(slot).schedule(perform, args=(task,))
        except RuntimeError as error:  # its process could not be started, or has already ended
            future = Future()
            future.set_exception(error if isinstance(error, BrokenProcessPool) else BrokenProcessPool(*error.args))
        self._running[future] = _Running(slot, time.monotonic())

    def wait(self, seconds: float) -> list[Event]:
        events, self._joining = self._joining, []
        if events or not self._running:
            return events
        limited = any(self._memory.get(running.slot) is not None for running in self._running.values())
        until = time.monotonic() + seconds
        while not events:
            left = until - time.monotonic()
            done, _ = wait(self._running, timeout=min(left, _LOOK) if limited else left, return_when=FIRST_COMPLETED)
            for future in done:
                slot = self._running.pop(future).slot
                events.append(Ended(slot, self._outcome(future, slot)))
            events += self._stopped()
            if left <= _LOOK:
                break
        return events

    def doing(self) -> dict[str, str]:
        found = {}
        for running in self._running.values():
            step, _, told = noted(self._settings[running.slot].stage_file)
            found[running.slot] = f"{step}: {told}" if told else step
        return found

    def _stopped(self) -> Iterator[Event]:
        """Stop workers whose stage has taken too long, or whose processes hold too much, and notice those that ended
        before Pebble had noted their task: it does not tell."""
        for future, running in list(self._running.items()):
            if running.begun is None and future.running():
                running.begun = time.monotonic()
                if (worker := begun(self._settings[running.slot])) is not None:
                    self._workers[running.slot] = worker
            outcome = self._overdue(running) or self._too_large(running) or self._ended(running)
            if outcome is not None and not future.done():
                del self._running[future]
                self._discard(running.slot)
                yield Ended(running.slot, outcome)

    def _overdue(self, running: _Running) -> Outcome | None:
        now, limit = time.monotonic(), self.deadlines.trial
        if limit is None and not self.deadlines.by_stage:
            return None
        step, since, _ = noted(self._settings[running.slot].stage_file)
        # what an earlier trial left may still stand there
        told = self.deadlines.passed(step, now - max(since, running.sent))
        if told is None and limit is not None and running.begun is not None and now - running.begun >= limit:
            told = f"stopped after {limit:g} s in the stage '{step}'"
        return None if told is None else {"status": "timeout", "error": told}

    def _too_large(self, running: _Running) -> Outcome | None:
        limit, settings = self._memory.get(running.slot), self._settings[running.slot]
        worker = None if limit is None else begun(settings)
        if limit is None or worker is None or (size := held(worker, *below(worker))) <= limit:
            return None
        stage = noted(settings.stage_file).step
        text = f"{size >> 20:,} MiB where {limit >> 20:,} MiB are allowed, in the stage '{stage}'"
        return {"status": "crashed", "error": f"stopped at its memory limit: the worker held {text}"}

    def _ended(self, running: _Running) -> Outcome | None:
        pool = self._pools[running.slot]
        return None if pool is None or pool.active else self._broken(running.slot)

    def _broken(self, slot: str) -> Outcome:
        stage = noted(self._settings[slot].stage_file).step
        return {"status": "crashed", "error": f"the worker ended in the stage '{stage}'; see its messages above"}

    def _pool(self, slot: str) -> ProcessPool:
        pool = self._pools[slot]
        if pool is None:
            settings = self._settings[slot]
            Path(settings.scratch).mkdir(parents=True, exist_ok=True)
            Path(settings.stage_file).unlink(missing_ok=True)
            pool = self._pools[slot] = ProcessPool(
                max_workers=1,
                context=Spawning(),
                initializer=start,
                initargs=(settings,),
            )
        return pool

    def _discard(self, slot: str) -> None:
        self._stop(slot)
        shutil.rmtree(self._settings[slot].scratch, ignore_errors=True)

    def _stop(self, *slots: str) -> None:
        """Kill the workers of slots and all that they started, at once, and wait until they are gone."""
        for slot in slots:  # before a pool waits for what its worker was sending: a child may hold the pipe open
            known = [self._workers.pop(slot, None), begun(self._settings[slot])]
            # two, where Pebble has put another in the place of one that ended
            for worker in {process for process in known if process is not None}:
                end_group(worker)
        running = [pool for slot in slots if (pool := self._pools[slot]) is not None]
        for pool in running:
            pool.stop()  # type: ignore[no-untyped-call]
        for pool in running:
            pool.join()
        self._pools |= dict.fromkeys(slots)

    def _outcome(self, future: Future[Any], slot: str) -> Outcome:
        stage = noted(self._settings[slot].stage_file).step
        try:
            outcome: Outcome = future.result()
        except ProcessExpired as error:
            self._discard(slot)
            return {"status": "crashed", "error": f"{_death(error.exitcode)} in the stage '{stage}'"}
        except BrokenProcessPool:
            broken = self._broken(slot)
            self._discard(slot)
            return broken
        except Exception as error:  # noqa: BLE001 - what Pebble itself raises (a result that does not pickle)
            return {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        if outcome.pop("unusable", False):
            self._discard(slot)
        return outcome


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A worker inherits the blocked signals: Ctrl-C must not reach one that is still importing."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets Python's signals
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _death(code: int | None) -> str:
    if code == LEFT:
        code = 0
    if code is None or code >= 0:
        return f"the worker ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"the worker was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
