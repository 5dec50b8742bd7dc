"""The driver's side: the workers of a Dask cluster as slots.

A thread asks every second which workers the cluster has. A new worker is greeted by a task of its own, and is then a
slot. Tasks are pinned to their worker. Dask's threads report events through a queue to the thread of the run.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from distributed import Client, KilledWorker, LocalCluster

from nqbench.api import BadInput
from nqbench.api.engine import Ended, Event, Joined, Lost, Refused, Resources, Slots, SlotsLost, Task, Work
from nqbench_cluster import slot as there

_CONNECT = 15.0
"""Seconds within which a scheduler must answer."""
_LOOK = 1.0
"""Seconds between two queries for the cluster's workers."""
_PARTING = 20.0
"""Seconds within which slots must stop their tasks."""
_NOT_DONE = {there.GONE: "its process was restarted", there.STOPPED: "it was stopped"}
_ENDED = "gone from the cluster: its process or its node has ended; see its log there for why"


@dataclass
class _Slot:
    """address: that of its worker. future: its current greeting or task. greeting: the future of the greeting, kept as
    long as the slot is in use, since its existence tells the slot's process that the driver is alive."""

    name: str
    address: str
    label: str
    future: Any = None
    greeting: Any = None
    greeted: bool = False
    doing: str = ""


class DaskSlots(Slots):
    """place: the scheduler's address or file; empty: a cluster on this machine that lasts as long as these slots are
    open."""

    def __init__(self, place: str, work: Work) -> None:
        self._place, self._work = place, work
        self._run = f"nqbench-{uuid.uuid4().hex[:12]}"
        self._numbers = itertools.count()
        self._events: queue.SimpleQueue[Callable[[], list[Event]]] = queue.SimpleQueue()
        self._slots: dict[str, _Slot] = {}
        self._by_address: dict[str, _Slot] = {}
        self._refused: set[str] = set()
        self._closed = threading.Event()
        self._cluster: LocalCluster | None = None
        self._quiet = contextlib.ExitStack()

    def __enter__(self) -> DaskSlots:
        self._quiet.enter_context(_quiet())  # a cluster's failures that matter are reported as events
        try:
            self._client = self._connected()
        except (OSError, TimeoutError, ValueError) as error:
            self._stop_cluster()
            self._quiet.close()
            raise BadInput(
                f"--engine dask:{self._place}: no scheduler answers there ({_line(error)}); start one with `dask "
                "scheduler`, or write what starts a whole cluster with `nqbench cluster`"
            ) from None
        self.notice = f"the cluster's dashboard: {self._client.dashboard_link}"
        self._client.subscribe_topic(self._run, self._heard)
        self._watch = threading.Thread(target=self._look, daemon=True, name="nqbench-watch")
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        addresses = [slot.address for slot in self._slots.values() if slot.greeted]
        with contextlib.suppress(Exception):  # Dask may raise anything when part of the cluster is gone
            for slot in self._slots.values():
                if slot.future is not None:
                    slot.future.cancel()
        # a hanging slot must not keep the run from ending: without a connection it stops when its task is cancelled
        parting = threading.Thread(target=self._part, args=(addresses,), daemon=True)
        parting.start()
        parting.join(_PARTING)
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)
        self._stop_cluster()
        self._quiet.close()

    def send(self, slot: str, task: Task) -> None:
        found = self._slots.get(slot)
        if found is not None:  # otherwise the slot is lost, and an event reports it
            self._submit(found, there.do, self._run, task, ending=partial(self._ended, found))

    def wait(self, seconds: float) -> Sequence[Event]:
        events: list[Event] = []
        try:
            happened = self._events.get(timeout=seconds)
            while True:
                events += happened()
                happened = self._events.get_nowait()
        except queue.Empty:
            return events

    def doing(self) -> dict[str, str]:
        return {slot.name: slot.doing or "sent" for slot in self._slots.values() if slot.future is not None}

    def expecting(self) -> bool:
        return any(not slot.greeted for slot in self._slots.values())

    # -- the cluster -------------------------------------------------------------------------------------------------
    def _connected(self) -> Client:
        options: dict[str, Any] = {"timeout": _CONNECT, "set_as_default": False, "name": "nqbench"}
        if self._place:
            at = {"address": self._place} if "://" in self._place else {"scheduler_file": self._place}
            return Client(**at, **options)
        self._cluster = LocalCluster(
            n_workers=self._work.jobs or max(1, len(os.sched_getaffinity(0)) // (self._work.needs.cpus or 1)),
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
        )
        return Client(self._cluster, **options)

    def _stop_cluster(self) -> None:
        if self._cluster is not None:
            with contextlib.suppress(Exception):
                self._cluster.close(timeout=10)
            self._cluster = None

    def _part(self, addresses: list[str]) -> None:
        with contextlib.suppress(Exception):
            self._client.run(there.close, self._run, workers=addresses, on_error="ignore")

    def _look(self) -> None:
        """Query the workers repeatedly, until the run or the scheduler ends."""
        while not self._closed.is_set():
            try:
                workers = self._workers()
            except SlotsLost as error:
                if not self._closed.is_set():
                    self._events.put(partial(_raised, error))
                return
            self._events.put(partial(self._seen, workers))
            self._closed.wait(_LOOK)

    def _workers(self) -> set[str]:
        """The addresses of the workers. Raises SlotsLost if no scheduler answers."""
        try:
            return set(self._client.nthreads())
        except Exception as error:  # noqa: BLE001 - Dask raises various errors if the scheduler is gone
            where = self._place or "of this machine"
            what = f"the scheduler {where} is gone ({_line(error)}); finished trials are kept; the same command resumes"
            raise SlotsLost(what) from None

    # -- events, in the run's thread ---------------------------------------------------------------------------------
    def _seen(self, workers: set[str]) -> list[Event]:
        events: list[Event] = []
        for address in self._by_address.keys() - workers:
            events += self._lose(self._by_address[address], _ENDED)
        for address in sorted(workers - self._by_address.keys() - self._refused):
            self._greet(address, sum(_node(address) == _node(other) for other in workers))
        return events

    def _greet(self, address: str, share: int) -> None:
        slot = _Slot(f"{address}#{next(self._numbers)}", address, address)
        self._slots[slot.name] = self._by_address[address] = slot
        needs = {"memory": self._work.needs.memory, "cpus": self._work.needs.cpus}
        arguments = (self._run, self._work.host, needs, share)
        ending = partial(self._greeted, slot, share == 1)
        self._submit(slot, there.greet, *arguments, ending=ending)
        slot.greeting = slot.future

    def _greeted(self, slot: _Slot, alone: bool, said: dict[str, Any]) -> list[Event]:
        slot.greeted = True
        host = said["greeting"]["environment"].get("host", "?")
        slot.label = f"{host} ({slot.address})"
        return [Joined(slot.name, said["greeting"], Resources(**said["offers"]), slot.label, alone)]

    def _ended(self, slot: _Slot, outcome: dict[str, Any]) -> list[Event]:
        slot.doing = ""
        if outcome["status"] in _NOT_DONE:
            return self._lose(slot, _NOT_DONE[outcome["status"]])
        return [Ended(slot.name, outcome)]

    def _lose(self, slot: _Slot, why: str) -> list[Event]:
        """Remove a lost slot; if its worker still exists, it is greeted again."""
        if self._slots.pop(slot.name, None) is None:
            return []
        if self._by_address.get(slot.address) is slot:
            del self._by_address[slot.address]
        at = f" while it was at '{slot.doing}'" if slot.doing else ""
        for future in (slot.future, slot.greeting):
            if future is not None:
                future.cancel()
        return [Lost(slot.name, why + at)] if slot.greeted else []

    def _heard(self, event: tuple[float, dict[str, str]]) -> None:
        slot = self._by_address.get(event[1]["slot"])
        if slot is not None:
            slot.doing = event[1]["doing"]

    # -- tasks -------------------------------------------------------------------------------------------------------
    def _submit(
        self,
        slot: _Slot,
        function: Callable[..., Any],
        *arguments: Any,
        ending: Callable[[dict[str, Any]], list[Event]],
    ) -> None:
        """Run a function in a slot's process, with the key of its task as the last argument. ending: called with the
        result in the run's thread; returns events."""
        name = f"{self._run}-{function.__name__}-{next(self._numbers)}"
        future = self._client.submit(
            function, *arguments, name,
            key=name, workers=[slot.address], allow_other_workers=False, pure=False, retries=0,
        )  # fmt: skip
        slot.future = future
        future.add_done_callback(lambda done: self._events.put(partial(self._result, slot, done, ending)))

    def _result(self, slot: _Slot, future: Any, ending: Callable[[dict[str, Any]], list[Event]]) -> list[Event]:
        if slot.future is not future or slot.name not in self._slots:
            return []
        if future.status == "finished":
            try:
                result = future.result(timeout=_PARTING)
            except Exception as error:  # noqa: BLE001 - the worker that held the result is gone
                return self._lose(slot, f"its result could not be fetched ({_line(error)})")
            slot.future = None
            return ending(result)
        if future.status == "error":
            raised = future.exception(timeout=_PARTING)
            if isinstance(raised, KilledWorker):
                return self._lose(slot, _ENDED)
            return self._failed(slot, f"{slot.label} {_line(raised)}")
        self._workers()  # if the scheduler is gone, all tasks are cancelled, and this is no fault of the slot
        return self._lose(slot, f"its task is {future.status}")

    def _failed(self, slot: _Slot, why: str) -> list[Event]:
        """A slot's process raised an error that cannot come from a trial: the slot gets no more tasks."""
        self._refused.add(slot.address)
        lost = self._lose(slot, why)
        return lost or [Refused(f"{why} (is this nqbench with its plugins installed there?)")]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's loggers, some of which have a level and a handler of their own."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]
    levels = {logger: logger.level for logger in map(logging.getLogger, ["distributed", *names])}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _raised(error: SlotsLost) -> list[Event]:
    raise error


def _node(address: str) -> str:
    """The host in a worker's address."""
    return address.rpartition(":")[0]


def _line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
