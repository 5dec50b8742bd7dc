"""Slots of this process: worker processes below it, one Pebble pool of one process each, always spawned.

Each slot has a pool of its own, so that a task can be sent to the worker that already has its weights in memory. When a
worker dies, or is stopped at its deadline or memory limit, only its current task is lost; a new worker takes its place.
On a cluster, each slot's process has such a worker below it, too: a method that crashes never costs the slot.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from nqbench.api.engine import Ended, Event, Joined, Outcome, Slots, Task
from nqbench.engine.deadlines import Deadlines
from nqbench.engine.memory import below, held
from nqbench.engine.spawning import LEFT, Spawning
from nqbench.engine.worker import WorkerSettings, begun, noted, perform, start

_LOOK = 0.1
"""Seconds between two looks at what a worker's processes hold, where that is limited."""


@dataclass
class _Running:
    slot: str
    begun: float


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
        self._running: dict[Future[Any], _Running] = {}
        self._joining: list[Event] = [Joined(slot) for slot in settings]

    def __enter__(self) -> Processes:
        shutil.rmtree(self._scratch, ignore_errors=True)  # of a run that was killed
        return self

    def __exit__(self, *_: object) -> None:
        _stop(*self._pools.values())
        shutil.rmtree(self._scratch, ignore_errors=True)

    def send(self, slot: str, task: Task) -> None:
        pool = self._pools[slot]
        if pool is not None and not pool.active:  # its process died while it had nothing to do
            self._discard(slot)
        future: Future[Any]
        try:
            with _interrupts_held_back():
                future = self._pool(slot).schedule(perform, args=(task,), timeout=self.deadlines.trial)
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
            outcome = self._overdue(running) or self._too_large(running) or self._ended(running)
            if outcome is not None and not future.done():
                del self._running[future]
                self._discard(running.slot)
                yield Ended(running.slot, outcome)

    def _overdue(self, running: _Running) -> Outcome | None:
        if not self.deadlines.by_stage:
            return None
        step, since, _ = noted(self._settings[running.slot].stage_file)
        # what an earlier trial left may still stand there
        told = self.deadlines.passed(step, time.monotonic() - max(since, running.begun))
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
        _stop(self._pools[slot])
        self._pools[slot] = None
        shutil.rmtree(self._settings[slot].scratch, ignore_errors=True)

    def _outcome(self, future: Future[Any], slot: str) -> Outcome:
        stage = noted(self._settings[slot].stage_file).step
        try:
            outcome: Outcome = future.result()
        except TimeoutError:
            return {"status": "timeout", "error": f"stopped after {self.deadlines.trial:g} s in the stage '{stage}'"}
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


def _stop(*pools: ProcessPool | None) -> None:
    """Kill the processes of pools, all at once, and wait until they are gone."""
    running = [pool for pool in pools if pool is not None]
    for pool in running:
        pool.stop()  # type: ignore[no-untyped-call]
    for pool in running:
        pool.join()


def _death(code: int | None) -> str:
    if code == LEFT:
        code = 0
    if code is None or code >= 0:
        return f"the worker ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"the worker was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
