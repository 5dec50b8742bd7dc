"""A run: a suite's schedule, what is already there, the workers for the rest, and a record for every trial."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nqbench.api.errors import BadInput
from nqbench.api.model import Model
from nqbench.engine.local import LocalEngine
from nqbench.engine.progress import Progress, Silent
from nqbench.engine.queue import Job
from nqbench.engine.worker import WorkerSettings
from nqbench.pipeline.cache import Cache, limit_from_environment
from nqbench.pipeline.context import Measure
from nqbench.pipeline.keys import KeyMaker
from nqbench.pipeline.workbench import file_name, restore
from nqbench.registry import Registry, registry
from nqbench.report import ReportData, rebuild
from nqbench.results.environment import cores, environment
from nqbench.results.record import Record
from nqbench.results.store import Store, StoreError
from nqbench.suite import GridSchedule, Suite, load

FILES = "files"
"""Folder of the compressed files, beside the store."""
_SCRATCH = ".scratch"
"""Folder of the workers' temporary files while a run is under way."""


@dataclass(frozen=True)
class RunResult:
    """outcome: 'ok', 'failed' (some trials did) or 'interrupted'. paths: the reports' files by name."""

    records: Sequence[Record] = field(repr=False)
    outcome: str
    folder: Path
    report: ReportData = field(repr=False)
    paths: Mapping[str, Path] = field(repr=False)


def run_suite(
    suite: str | Path | Suite,
    output: str | Path | None = None,
    *,
    jobs: int = 1,
    device: str = "auto",
    timeout: float | None = None,
    only: Sequence[str] = (),
    sets: Sequence[str] = (),
    profile: str | None = None,
    cached: bool = True,
    progress: Progress | None = None,
) -> RunResult:
    """Run a suite into ``output`` (default: ``reports/<suite>``), resuming and reusing what is there.

    jobs: worker processes. device: auto, cpu, cuda or cuda:N. timeout: seconds a trial may take (default: the suite's).
    Raises SuiteError, DataMissing (before the first trial), RunInProgress, StoreError, BadInput. Ctrl-C ends the run
    with the outcome 'interrupted'; nothing that was finished is lost.
    """
    loaded = suite if isinstance(suite, Suite) else load(suite, profile=profile, sets=sets)
    chosen = resolve_device(device)
    if jobs < 1:
        raise BadInput(f"jobs is {jobs}: at least one worker is needed")
    trials = loaded.trials(only)
    folder = Path(output) if output is not None else Path("reports") / loaded.name
    return _Run(loaded, folder, chosen, jobs, timeout, cached, progress or Silent()).run(GridSchedule(trials))


class _Run:
    def __init__(
        self,
        suite: Suite,
        folder: Path,
        device: str,
        jobs: int,
        timeout: float | None,
        cached: bool,
        progress: Progress,
    ) -> None:
        self.suite, self.folder, self.device, self.progress = suite, folder, device, progress
        self.registry: Registry = registry()
        self.measure = None
        if suite.measure is not None:
            self.measure = Measure(suite.measure.repeats, suite.measure.warmup)
            jobs = 1 if suite.measure.exclusive else jobs
        self.jobs = jobs
        self.timeout = timeout if timeout is not None else suite.timeout
        self.cache = Cache.default() if cached else Cache(None)
        self.limit = limit_from_environment()
        self.maker = KeyMaker(self.registry, device.partition(":")[0])
        self.threads = max(1, cores() // self.jobs)
        self.environment = {**environment(device), "threads": self.threads, "jobs": self.jobs}
        self.id = ""

    def run(self, schedule: GridSchedule) -> RunResult:
        with Store.write(self.folder) as store:
            first = schedule.ready()
            self._prepare(first)
            jobs = [(trial, self.maker.keys(trial)) for trial in first]
            self.id = store.start_run(
                self.suite.name,
                self.suite.text,
                argv=sys.argv[1:],
                environment=self.environment,
                keys=[keys.trial for _, keys in jobs],
                settings={"published": [asdict(row) for row in self.suite.published]},
            )
            try:
                (self.folder / "suite.yaml").write_text(self.suite.text, encoding="utf-8")
                outcome = self._loop(store, schedule, jobs)
            except KeyboardInterrupt:
                outcome = "interrupted"
            except OSError as error:
                raise StoreError(
                    f"{self.folder}: cannot be written ({error.strerror or error}); the same command resumes"
                ) from error
            finally:
                self.progress.finished()
            store.end_run(self.id, outcome)
        report, paths = rebuild(self.folder)
        self._notify("nqbench_run_ended", records=[r.to_dict() for r in report.records])
        return RunResult(report.records, outcome, self.folder, report, paths)

    def _prepare(self, trials: Iterable[Any]) -> None:
        """Data and weights are found before the first trial."""
        for choice in dict.fromkeys(trial.model for trial in trials):
            model = self.maker.plugin(choice)
            assert isinstance(model, Model)
            model.prepare()

    # -- the loop ----------------------------------------------------------------------------------------------------
    def _loop(self, store: Store, schedule: GridSchedule, jobs: list[Job]) -> str:
        done = self._already(store, jobs)
        self.progress.started(schedule.upper_bound(), len(done))
        self._notify("nqbench_run_started", trials=schedule.upper_bound())
        failed = False
        with self._engine() as engine:
            while True:
                for job in jobs:
                    record = done.get(job[1].trial) or self._restored(store, job)
                    if record is None:
                        engine.queue.add([job])
                    else:
                        schedule.ended(job[0], record.to_dict())
                jobs = []
                while engine.busy and not jobs:
                    for job, outcome in engine.step():
                        record = self._record(store, job, outcome)
                        failed = failed or not record.ok
                        schedule.ended(job[0], record.to_dict())
                    self.progress.running(engine.current)
                    jobs = [(trial, self.maker.keys(trial)) for trial in schedule.ready()]
                if schedule.finished():
                    break
        if engine.started:
            self.cache.prune(self.limit)
        return "failed" if failed else "ok"

    def _engine(self) -> LocalEngine:
        settings = WorkerSettings(
            parent=os.getpid(),
            device=self.device,
            threads=self.threads,
            cache=None if self.cache.root is None else str(self.cache.root),
            files=str(self.folder / FILES),
            measure=None if self.measure is None else (self.measure.repeats, self.measure.warmup),
        )
        return LocalEngine(self.jobs, settings, self.folder / _SCRATCH, self.timeout)

    def _already(self, store: Store, jobs: Sequence[Job]) -> dict[str, Record]:
        """Records of earlier runs into this folder that stand: same key, ended well, file in place.

        A suite that measures takes over only what a run of it that was cut short had measured.
        """
        if self.measure is not None:
            earlier = [r for r in store.runs() if r.run != self.id and r.suite == self.suite.name]
            if not earlier or earlier[-1].outcome in ("ok", "failed"):
                return {}
        found = store.done(keys.trial for _, keys in jobs)
        return {key: record for key, record in found.items() if self._in_place(key, record)}

    def _in_place(self, key: str, record: Record) -> bool:
        try:
            return (self.folder / FILES / file_name(key)).stat().st_size == record.file_bytes
        except OSError:
            return False

    def _restored(self, store: Store, job: Job) -> Record | None:
        """The trial from the cache, if all of it is there."""
        if self.measure is not None:
            return None
        keys = job[1]
        figures = restore(self.cache, keys.trial, keys.file, self.folder / FILES)
        return None if figures is None else self._record(store, job, {"status": "ok", **figures})

    def _record(self, store: Store, job: Job, outcome: Mapping[str, Any]) -> Record:
        trial, keys = job
        fields = {"device": self.device, **outcome}
        if fields["status"] == "ok":
            fields["file"] = f"{FILES}/{file_name(keys.trial)}"
            # beside other workers no time is a measurement
            fields["measured"] = bool(fields.get("measured")) and self.jobs == 1
        fixed = {
            "run": self.id,
            "suite": self.suite.name,
            "key": keys.trial,
            "trial": trial.trial,
            "environment": self.environment,
        }
        try:
            record = Record.for_trial(trial.config(), **fields, **fixed)
        except BadInput as error:  # a figure that a plugin gave
            failed = {"device": self.device, "status": "failed", "error": str(error)}
            record = Record.for_trial(trial.config(), **failed, **fixed)
        store.add(record)
        self.progress.ended(record)
        self._notify("nqbench_trial_ended", record=record.to_dict())
        return record

    def _notify(self, hook: str, **arguments: Any) -> None:
        if hook != "nqbench_trial_ended":
            arguments = {"suite": self.suite.name, "output": str(self.folder), **arguments}
        for complaint in self.registry.notify(hook, **arguments):
            self.progress.warning(complaint)


def resolve_device(device: str) -> str:
    """'auto' -> 'cuda' if there is one, else 'cpu'. Raises BadInput for a device that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise BadInput(f"unknown device '{device}'; known: auto, cpu, cuda, cuda:N")
    if kind == "cuda" and (not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count()):
        raise BadInput(f"device '{device}' is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return device
