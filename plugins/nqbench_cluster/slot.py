"""The code that runs in a Dask worker process that serves as a slot: it manages the slot's own worker process.

The driver calls the functions of this module as Dask tasks. A slot stops its task when the driver no longer waits for
it: when the task was cancelled (which the scheduler also does when the driver disappears), or when it is told to. A
slot without work ends its worker process after a while, and starts another when there is work again. It ends it at once
if the driver is gone, which it sees from its greeting: the driver keeps the greeting's future as long as it lives.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed import Status, Worker, get_worker

from nqbench.api.engine import Ended, Host, Outcome, Slots, SlotShape, Task

GONE = "gone"
"""The status of a task that arrived in a process that does not know the run, because the slot's process was
restarted."""
STOPPED = "stopped"
_SHAPE = "slot"
_ALIVE = (Status.running, Status.paused, Status.closing_gracefully)
_IDLE = 120.0
"""Seconds after which a slot without work ends its worker process."""
_LOOK = 0.2
"""Seconds between two checks of whether a task is still waited for."""
_REST = 1.0
"""Seconds between two checks of whether the driver is alive, while there is no work."""
_TELL = 1.0
"""Smallest number of seconds between two progress messages of a slot."""


class Slot:
    """A run's slot in this process. share: number of slots on this machine. greeting: the key of the greeting's
    task."""

    def __init__(
        self, host: Host, needs_memory: int | None, needs_cpus: int | None, share: int, topic: str, greeting: str
    ) -> None:
        worker = get_worker()
        self._key = greeting
        self.greeting = host.greet()
        self.offers = _offers(worker, self.greeting, share)
        self._host, self._topic = host, topic
        self._shape = SlotShape(
            _SHAPE, threads=needs_cpus or int(self.offers["cpus"] or 1), memory=needs_memory or self.offers["memory"]
        )
        self._slots: Slots | None = None
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._working: threading.Event | None = None  # ends the current rest
        self._told = (0.0, "")

    def do(self, task: Task, key: str) -> Outcome:
        """The task's outcome; ``STOPPED`` if nobody waits for it any more."""
        worker = get_worker()
        with self._lock:
            self._end_rest()
            slots = self._opened(worker)
            slots.send(_SHAPE, task)
            while not self._closed.is_set() and _wanted(worker, key):
                for event in slots.wait(_LOOK):
                    if isinstance(event, Ended):
                        self._rest(worker)
                        return event.outcome
                self._tell(worker, slots.doing().get(_SHAPE, ""))
            self._release()
            return {"status": STOPPED}

    def close(self) -> None:
        """Stop the running task at once."""
        self._closed.set()
        with self._lock:
            self._end_rest()
            self._release()

    def _opened(self, worker: Worker) -> Slots:
        if self._slots is None:
            process = multiprocessing.current_process()
            if process.daemon:  # a process started by a Dask nanny is daemonic; its child still ends with it
                process.daemon = False
            folder = Path(tempfile.mkdtemp(prefix="nqbench-", dir=worker.local_directory))
            slots = self._host.open([self._shape], folder / "work", away=True)
            slots.__enter__()
            slots.wait(0)  # the worker process joins
            self._slots = slots
        return self._slots

    def _release(self) -> None:
        if self._slots is not None:
            self._slots.__exit__(None, None, None)
            self._slots = None

    def _tell(self, worker: Worker, doing: str) -> None:
        now = time.monotonic()
        if doing != self._told[1] and now - self._told[0] >= _TELL:
            self._told = (now, doing)
            worker.log_event(self._topic, {"slot": worker.address, "doing": doing})

    def _rest(self, worker: Worker) -> None:
        self._working = threading.Event()
        threading.Thread(target=self._idle, args=(worker, self._working), daemon=True).start()

    def _end_rest(self) -> None:
        if self._working is not None:
            self._working.set()
            self._working = None

    def _idle(self, worker: Worker, working: threading.Event) -> None:
        until = time.monotonic() + _IDLE
        while time.monotonic() < until and self._key in worker.state.tasks:
            if working.wait(_REST):
                return
        with self._lock:
            if not working.is_set():  # no work arrived in the meantime
                self._release()


_slots: dict[tuple[str, str], Slot] = {}
"""Slots by run and worker's address: a process may have several workers."""


def greet(run: str, host: Host, needs: Mapping[str, int | None], share: int, key: str) -> dict[str, Any]:
    """Make this process a slot of a run. Returns a description of it, with ``greeting`` and ``offers``."""
    slot = Slot(host, needs["memory"], needs["cpus"], share, run, key)
    _slots[run, get_worker().address] = slot
    return {"greeting": dict(slot.greeting), "offers": slot.offers}


def do(run: str, task: Task, key: str) -> Outcome:
    slot = _slots.get((run, get_worker().address))
    return {"status": GONE} if slot is None else slot.do(task, key)


async def close(run: str) -> None:
    """Close this process's slots of the run."""
    for slot in [_slots.pop(key) for key in list(_slots) if key[0] == run]:  # removed first: others close, too
        await asyncio.to_thread(slot.close)


def _wanted(worker: Worker, key: str) -> bool:
    """Whether anybody waits for a task that runs here."""
    state = worker.state.tasks.get(key)
    return state is not None and state.state == "executing" and worker.status in _ALIVE


def _offers(worker: Worker, greeting: Mapping[str, Any], share: int) -> dict[str, int | None]:
    """The resources of a worker: those that it was started with (``--resources cpus=4``, ``--nthreads``,
    ``--memory-limit``), otherwise its share of the machine."""
    declared = {name.lower(): value for name, value in worker.state.total_resources.items()}
    threads = worker.state.nthreads
    limit = worker.memory_manager.memory_limit
    cpus = declared.get("cpus") or (threads if threads > 1 else max(1, (greeting["cpus"] or 1) // share))
    return {
        "cpus": int(cpus),
        "memory": int(declared["memory"]) if "memory" in declared else limit,
        "gpu": int(declared.get("gpu", greeting["gpu"])),
    }
