# ruff: noqa: T201 - it prints
"""What engines cost the driver, and where it saturates.

    python benchmarks/cluster.py [carry] [many] [saturate] [pair] [--small]

``carry``: a null task, one that does nothing in a slot, through the local engine's worker processes and through Dask,
in turns: the driver's CPU and wall milliseconds a task with 1 to 32 in flight. Goal: at most 25 ms through Dask.

``many``: 1,000 and 10,000 trials of null methods in one run whose slots answer at once: peak memory of the driver, and
the time of a report. Goal: at most 1.5 times the memory.

``saturate``: 512 slots of a null engine. The model: a driver spends d seconds on each trial, whatever happens in the
slot (keys, sending, the file that comes back, the record and its commit), one after another; S slots that take T
seconds a trial ask for S / T trials a second. So throughput is min(S / T, 1 / d), and the driver saturates where
T = S d: trials shorter than that leave slots idle. d is measured with T = 0 on 100,000 trials; then throughput is
measured at T = S d / 2, S d and 2 S d, where the model says 1 / d, 1 / d and 1 / (2 d).

``pair``: two slots against one on trials that each keep one core busy for a second, local and dask. Goal: 1.8 times as
fast on two cores that have nothing else to do.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import overhead  # beside this file: the null methods

from nqbench.api.engine import Ended, Engine, Event, Greeting, Joined, Resources, Slots, SlotShape, Work
from nqbench.engine.choose import chosen
from nqbench.engine.dispatcher import Dispatcher
from nqbench.engine.greeting import greeting

FLIGHTS = (1, 4, 16, 32)


# -- carry -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Nothing:
    """A null task, for the slots of ``NullHost`` and for a worker process: an answer as small as a failed trial's."""

    number: int

    @property
    def affinity(self) -> tuple[str, ...]:
        return (str(self.number % 64),)

    @property
    def task(self) -> Nothing:
        return self

    def done_by(self, worker: object) -> dict[str, Any]:
        return {"status": "ok"}


@dataclass(frozen=True)
class NullHost:
    """Slots that answer at once, from a thread."""

    def greet(self) -> Greeting:
        return greeting((), "cpu")

    def open(self, shapes: Sequence[SlotShape], scratch: Path, *, away: bool) -> Slots:
        return Timed([shape.name for shape in shapes], lambda task: {"status": "ok"})


class Timed(Slots):
    """Slots that end a task ``seconds`` after it was sent."""

    def __init__(self, names: Sequence[str], answer: Callable[[Any], dict[str, Any]], seconds: float = 0.0) -> None:
        self._answer, self._seconds = answer, seconds
        self._joining: list[Event] = [Joined(name) for name in names]
        self._due: list[tuple[float, int, str, Any]] = []
        self._number = 0

    def __exit__(self, *_: object) -> None: ...

    def send(self, slot: str, task: Any) -> None:
        self._number += 1
        heapq.heappush(self._due, (time.monotonic() + self._seconds, self._number, slot, task))

    def wait(self, seconds: float) -> list[Event]:
        events, self._joining = self._joining, []
        if not events and self._due and self._due[0][0] > time.monotonic():
            time.sleep(min(seconds, max(0.0, self._due[0][0] - time.monotonic())))
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, _, slot, task = heapq.heappop(self._due)
            events.append(Ended(slot, self._answer(task)))
        return events

    def doing(self) -> dict[str, str]:
        return {}


def carry(folder: Path, small: bool) -> None:
    tasks = 20 if small else 300
    flights = FLIGHTS[:1] if small else FLIGHTS
    with dask_workers(max(flights), folder) as address:
        print(f"{'in flight':>9}  {'local: CPU':>10} {'wall':>7}   {'dask: CPU':>10} {'wall':>7}   ms a task")
        for flight in flights:
            best: dict[str, tuple[float, float]] = {}
            for _ in range(1 if small else 3):
                for name, engine in (("local", None), ("dask", f"dask:{address}")):
                    found = _carried(chosen(engine), flight if name == "dask" else min(flight, 2), tasks, folder)
                    best[name] = min(found, best.get(name, found))
            cells = "   ".join(f"{1e3 * best[n][0]:10.2f} {1e3 * best[n][1]:7.2f}" for n in ("local", "dask"))
            print(f"{flight:>9}  {cells}   dask / local {best['dask'][0] / best['local'][0]:.2f}")


def _carried(engine: Engine, slots: int, tasks: int, folder: Path) -> tuple[float, float]:
    """Driver CPU and wall seconds a task, once every slot has had one."""
    host: Any = NullHost()
    if not engine.away:
        from nqbench.engine.deadlines import Deadlines
        from nqbench.engine.host import TrialHost
        from nqbench.engine.worker import WorkerSettings

        host = TrialHost(WorkerSettings("cpu", None, str(folder)), Deadlines())
    work = Work(host, Resources(), Resources(), slots, folder / "scratch")
    with Dispatcher(lambda: engine.open(work), host.greet, print, limit=slots) as jobs:
        _drain(jobs, range(-4 * slots, 0))
        wall, cpu = time.perf_counter(), time.process_time()
        _drain(jobs, range(tasks))
        return (time.process_time() - cpu) / tasks, (time.perf_counter() - wall) / tasks


def _drain(jobs: Dispatcher[Nothing], numbers: range) -> None:
    for number in numbers:
        jobs.add(Nothing(number))
    left = len(numbers)
    while left:
        left -= len(jobs.step())


@contextmanager
def dask_workers(count: int, folder: Path) -> Iterator[str]:
    """A scheduler and workers with a thread each, all in one other process: what counts here is the driver's."""
    file = folder / "address"
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(count), str(file)])
    try:
        while not file.exists():
            assert process.poll() is None
            time.sleep(0.1)
        yield file.read_text()
    finally:
        process.terminate()
        process.wait()


def serve(count: int, file: Path) -> None:
    import asyncio

    from distributed import Scheduler, Worker

    async def forever() -> None:
        async with Scheduler(port=0, dashboard=False, host="127.0.0.1") as scheduler:
            workers = [Worker(scheduler.address, nthreads=1, host="127.0.0.1") for _ in range(count)]
            for worker in workers:
                await worker
            Path(f"{file}.new").write_text(scheduler.address)
            os.replace(f"{file}.new", file)
            await scheduler.finished()

    asyncio.run(forever())


# -- many, saturate --------------------------------------------------------------------------------------------------
class Instant(Engine, name="instant"):
    """Slots that answer a trial with the figures and the file of one that was run."""

    slots: int = 512
    seconds: float = 0.0

    def open(self, work: Work) -> Slots:
        answers = _Answers(work)
        return Timed([f"slot-{number}" for number in range(self.slots)], answers.of, self.seconds)


class _Answers:
    """The first job on a network is done, and one trial; all others are told what that came to."""

    def __init__(self, work: Work) -> None:
        import torch

        from nqbench.engine.host import TrialHost
        from nqbench.engine.worker import Worker
        from nqbench.pipeline.cache import Cache
        from nqbench.pipeline.workbench import Workbench
        from nqbench.registry import registry

        assert isinstance(work.host, TrialHost)
        self._folder = tempfile.TemporaryDirectory(prefix="nqbench-answers-")
        bench = Workbench(registry(), Cache(Path(self._folder.name, "cache")), torch.device("cpu"))
        self._worker = Worker(bench, work.host.settings)
        self._known: dict[str, Any] | None = None

    def of(self, task: Any) -> dict[str, Any]:
        from nqbench.pipeline.chain import TRIAL
        from nqbench.pipeline.files import file_of

        if task.goal != TRIAL:
            return dict(task.done_by(self._worker))
        bench = self._worker.bench
        if self._known is None:
            folder = Path(self._folder.name)
            figures = bench.run(task.trial, folder)
            self._known = figures | {
                "status": "ok",
                "data": file_of(bench.maker.keys(task.trial).trial, folder).read_bytes(),
            }
        return self._known | {"key": bench.maker.keys(task.trial).trial}


def child(count: int, slots: int, seconds: float) -> dict[str, float]:
    """One run of so many trials: its figures."""
    from nqbench.engine import Silent, run_suite

    class Clock(Silent):
        def __init__(self) -> None:
            self.first = self.last = self.over = 0.0

        def ended(self, record: object, label: str, *, again: bool = False) -> None:
            self.last = time.perf_counter()
            self.first = self.first or self.last

        def finished(self) -> None:
            self.over = time.perf_counter()
            self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with tempfile.TemporaryDirectory(prefix="nqbench-many-") as name:
        folder = Path(name)
        os.environ["NQBENCH_CACHE"] = str(folder / "stages")
        overhead.install(folder)
        suite = folder / "many.yaml"
        suite.write_text(overhead.SUITE.format(quantizers=", ".join(str(n) for n in range(count // 2))))
        clock = Clock()
        cpu = time.process_time()
        result = run_suite(suite, folder / "out", engine=Instant(slots=slots, seconds=seconds), progress=clock)
        assert result.outcome == "ok"
        return {
            "each": (clock.last - clock.first) / max(1, len(result.records) - 1),
            "cpu": (time.process_time() - cpu) / len(result.records),
            "report": time.perf_counter() - clock.over,
            "driver_mib": clock.peak / 1024,
            "with_report_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def in_a_child(count: int, slots: int, seconds: float) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(count), str(slots), str(seconds)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def many(folder: Path, small: bool) -> None:
    few, lots = (20, 40) if small else (1_000, 10_000)
    found = {count: in_a_child(count, 32, 0.0) for count in (few, lots)}
    for count, one in found.items():
        print(f"{count:>7,} trials: driver {one['driver_mib']:.0f} MiB ({one['with_report_mib']:.0f} with the report), "
              f"{1e3 * one['each']:.1f} ms a trial, report {one['report']:.2f} s "
              f"({1e3 * one['report'] / count:.2f} ms a record)")  # fmt: skip
    for what in ("driver_mib", "with_report_mib"):
        print(f"memory of {lots:,} / {few:,} trials: {found[lots][what] / found[few][what]:.2f} ({what})")


def saturate(folder: Path, small: bool) -> None:
    count, slots = (40, 8) if small else (100_000, 512)
    d = in_a_child(count, slots, 0.0)["each"]
    print(f"{slots} slots, {count:,} trials of no time: {1e3 * d:.2f} ms of the driver a trial, {1 / d:.0f} a second; "
          f"on paper it saturates where trials are shorter than {slots * d:.2f} s")  # fmt: skip
    for factor in (0.5, 1.0, 2.0):
        seconds = factor * slots * d
        trials = count if small else int(min(count, 20 * slots))
        measured = 1 / in_a_child(trials, slots, seconds)["each"]
        model = min(slots / seconds, 1 / d)
        print(f"  trials of {seconds:6.2f} s: {measured:6.0f} a second, on paper {model:6.0f}: {measured / model:.2f}")


# -- pair ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Busy(Nothing):
    seconds: float = 1.0

    def done_by(self, worker: object) -> dict[str, Any]:
        until = time.thread_time() + self.seconds
        while time.thread_time() < until:
            sum(range(1000))
        return {"status": "ok"}


def pair(folder: Path, small: bool) -> None:
    from nqbench.engine.deadlines import Deadlines
    from nqbench.engine.host import TrialHost
    from nqbench.engine.worker import WorkerSettings

    tasks, seconds = (2, 0.1) if small else (20, 1.0)
    host = TrialHost(WorkerSettings("cpu", None, str(folder)), Deadlines())
    for name in ("local", "dask"):
        walls = {}
        for slots in (1, 2):
            work = Work(host, Resources(cpus=1), Resources(), slots, folder / "scratch")
            with Dispatcher(partial(chosen(name).open, work), host.greet, print) as jobs:
                _drain(jobs, range(-2 * slots, 0))  # slots start
                began = time.perf_counter()
                for number in range(tasks):
                    jobs.add(Busy(number, seconds))
                left = tasks
                while left:
                    left -= len(jobs.step())
                walls[slots] = time.perf_counter() - began
        print(f"{name}: {tasks} trials of {seconds:g} s: one slot {walls[1]:.1f} s, two {walls[2]:.1f} s, "
              f"{walls[1] / walls[2]:.2f} times as fast (load {os.getloadavg()[0]:.1f})")  # fmt: skip


PARTS = {"carry": carry, "many": many, "saturate": saturate, "pair": pair}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="all of them, unless some are named")
    parser.add_argument("--small", action="store_true", help="a trial of the benchmark itself")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.serve:
        serve(int(options.serve[0]), Path(options.serve[1]))
    elif options.child:
        count, slots, seconds = options.child
        print(json.dumps(child(int(count), int(slots), float(seconds))))
    else:
        for name in options.parts or PARTS:
            with tempfile.TemporaryDirectory(prefix="nqbench-cluster-") as folder:
                print(f"{name}:", flush=True)
                PARTS[name](Path(folder), options.small)


if __name__ == "__main__":
    import cluster  # itself: worker processes know its tasks by the module's name, and not this script

    cluster.main()
