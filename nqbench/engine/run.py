"""Runs a suite: takes trials from its schedule, reuses finished ones, gives the others to workers, writes records."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nqbench.api.engine import Engine, Resources, Slots, SlotsLost, Work
from nqbench.api.errors import BadInput
from nqbench.api.toolkit.paths import reason, suite_folder
from nqbench.engine.choose import chosen as chosen_engine
from nqbench.engine.deadlines import Deadlines
from nqbench.engine.devices import resolve_device, slot_device
from nqbench.engine.dispatcher import Dispatcher
from nqbench.engine.greeting import machine
from nqbench.engine.host import TrialHost
from nqbench.engine.inline import Inline
from nqbench.engine.known import known_networks, note_networks
from nqbench.engine.passes import merged
from nqbench.engine.preparing import prepare, report_settings
from nqbench.engine.progress import Progress, Silent
from nqbench.engine.protocol import Done, TrialJob
from nqbench.engine.recording import RunRecords
from nqbench.engine.signals import terminated_as_interrupted
from nqbench.engine.worker import BUSY, WorkerSettings
from nqbench.pipeline.cache import Cache, limit_from_environment
from nqbench.pipeline.chain import KNOB
from nqbench.pipeline.context import Measure
from nqbench.pipeline.files import file_of, put_file
from nqbench.pipeline.keys import KeyMaker
from nqbench.pipeline.stage import TRIAL
from nqbench.registry import Registry, registry
from nqbench.report import ReportData, rebuild
from nqbench.report.files import write_text
from nqbench.results.database import FILES
from nqbench.results.environment import environment, threads, threads_each
from nqbench.results.goal import Goal
from nqbench.results.labels import Labels
from nqbench.results.portable import Portable
from nqbench.results.record import Record
from nqbench.results.store import Store, StoreError
from nqbench.shared import tier, told
from nqbench.suite import Schedule, Suite, Trial, load

_SCRATCH = ".scratch"
"""Folder for temporary files of the workers during a run."""


@dataclass(frozen=True)
class RunResult:
    """outcome: 'ok', 'failed' (some trials did) or 'interrupted'. paths: the reports' files by name."""

    records: Sequence[Record] = field(repr=False)
    outcome: str
    folder: Path
    report: ReportData = field(repr=False)
    paths: Mapping[str, Path] = field(repr=False)
    chosen: Sequence[Record] = field(default=(), repr=False)
    """Of a search: the records of its answers, one method after another."""

    def untested(self, answer: Record) -> str:
        """A line about an answer of which the evaluation on the test split failed; empty for any other."""
        if answer.metric is not None:
            return ""
        failed = next((r for r in self.records if r.trial == answer.trial and not r.ok), None)
        if failed is None:
            return ""
        why = (failed.error or failed.status).partition("\n")[0]
        where = f"holds on the {answer.selected_on} split, where it was chosen"
        return f"the file {where}, but its evaluation on the test split failed: {why}"


def run_suite(
    suite: str | Path | Suite,
    output: str | Path | None = None,
    *,
    jobs: int | None = None,
    engine: str | Engine | None = None,
    device: str = "auto",
    timeout: float | Mapping[str, float] | None = None,
    only: Sequence[str] = (),
    sets: Sequence[str] = (),
    profile: str | None = None,
    cached: bool = True,
    progress: Progress | None = None,
    budget: float | None = None,
    store: str | None = None,
) -> RunResult:
    """Run a suite into ``output`` (default: ``reports/<suite>``), resuming and reusing what is there.

    jobs: worker processes (default: 1; on a cluster, all that there are); 0: none, all is done in this process, without
    deadlines. engine: where they are, ``local`` or as ``dask:tcp://HOST:PORT``. device: auto, cpu, cuda or cuda:N.
    timeout: seconds a trial may take, or seconds by stage (default: the suite's).
    store: URL of a server's store for the records, instead of one in ``output``.
    budget: seconds after which a search ends with the best file so far, and no further trial is started.
    Raises SuiteError, DataMissing (before the first trial), RunInProgress, StoreError, BadInput, NotRegistered. Ctrl-C,
    SIGTERM, or the loss of the engine ends the run with the outcome 'interrupted'; nothing that was finished is lost.
    """
    loaded = suite if isinstance(suite, Suite) else load(suite, profile=profile, sets=sets)
    loaded.use_its_folder()
    where = chosen_engine(engine)
    chosen = slot_device(device, loaded) if where.away else resolve_device(device)
    if jobs is not None and jobs < 0:
        raise BadInput(f"jobs is {jobs}: give the number of workers, or 0 to run in this process")
    trials = loaded.trials(only)
    schedule = loaded.schedule(only)
    folder = Path(output) if output is not None else Path("reports") / loaded.name
    run = _Run(loaded, folder, chosen, jobs, where, timeout, cached, progress or Silent(), budget, store)
    return run.run(schedule, trials)


class _Run:
    def __init__(
        self,
        suite: Suite,
        folder: Path,
        device: str,
        jobs: int | None,
        engine: Engine,
        timeout: float | Mapping[str, float] | None,
        cached: bool,
        progress: Progress,
        budget: float | None = None,
        server: str | None = None,
    ) -> None:
        self.suite, self.folder, self.device, self.progress = suite, folder, device, progress
        self.server = server
        self.registry: Registry = registry()
        self.engine = engine
        self.measure, self.rounds = None, 1
        if suite.measure is not None:
            self.measure, self.rounds = Measure(suite.measure.per_round, suite.measure.warmup), suite.measure.rounds
            jobs = 1 if suite.measure.exclusive else jobs
        self.jobs = jobs
        given = timeout if isinstance(timeout, Mapping) else {} if timeout is None else {TRIAL: timeout}
        self.deadlines = Deadlines({**suite.timeout, **given})
        self.cache = Cache.default() if cached else Cache(None)
        if self.cache.shared is not None:
            self.cache.shared.check()
        self.limit = limit_from_environment()
        self.maker = KeyMaker(self.registry, device.partition(":")[0], self.cache)
        self.threads = suite.resources.cpus or threads_each(jobs or 1) if jobs != 0 else threads()
        self.environment = {**environment(device), "threads": self.threads, "jobs": 1 if jobs is None else jobs}
        self.until = None if budget is None else time.monotonic() + budget
        self.labels = Labels(())
        self._passes: dict[str, list[Mapping[str, Any]]] = {}
        self._refused: dict[str, dict[str, Any]] = {}  # what came of networks that cannot be used, by what waits
        self._retried: set[str] = set()  # networks whose worker was killed once, by what waits
        self._said: set[str | None] = set()
        self._shown = 0.0
        self._heard: set[str] = set()
        self._alone = False
        self._distributions: tuple[str, ...] = ()
        self.portable = Portable(suite_folder() or Path.cwd())

    def run(self, schedule: Schedule, trials: Sequence[Trial]) -> RunResult:
        with Store.write(self.folder, self.server) as store:
            self._distributions = self._distributions_of(trials)
            prepare(models := list(dict.fromkeys(trial.model for trial in trials)), self.suite, self.maker)
            self._alone = len(models) == 1
            if self.engine.away:
                self.maker.contents.update(known_networks(self.folder))
            first = self._pull(schedule)
            settings = report_settings(self.suite, self.folder)
            run = store.start_run(
                self.suite.name,
                self.suite.text,
                argv=[self.portable.text(argument) for argument in sys.argv[1:]],
                environment=self.environment,
                keys=[job.keys.trial for job in first if job.question is None],
                settings=settings,
            )
            store.note_run(run)
            self.records = self._records(store, run)
            told.listen()
            try:
                with terminated_as_interrupted():
                    write_text(self.folder / "suite.yaml", self.suite.text)
                    outcome = self._loop(schedule, first, Goal.of(settings))
            except KeyboardInterrupt:
                outcome = "interrupted"
            except SlotsLost as error:
                self.progress.warning(str(error))
                outcome = "interrupted"
            except BadInput:  # the only network cannot be used
                store.end_run(run, "failed")
                raise
            except OSError as error:
                raise StoreError(
                    f"{self.folder}: cannot be written ({reason(error)}); "
                    "once it can be, the same command resumes the run"
                ) from error
            finally:
                told.listen(False)
                self.progress.finished()
            store.end_run(run, outcome)
        report, paths = rebuild(self.server or self.folder, self.folder, run=run)
        self._notify("nqbench_run_ended", records=[r.to_dict() for r in report.records])
        chosen = {trial.trial: trial for trial in schedule.chosen()}
        answers = [r for r in report.records if r.trial in chosen and r.ok]
        tested = {r.trial for r in answers if r.metric is not None}
        answers = [r for r in answers if r.metric is not None or r.trial not in tested]
        return RunResult(report.records, outcome, self.folder, report, paths, answers)

    def _distributions_of(self, trials: Iterable[Trial]) -> tuple[str, ...]:
        """Whose plugins the trials use."""
        choices = dict.fromkeys(choice for trial in trials for choice in trial.choices())
        return tuple(sorted({self.registry.registered(c.kind, c.name).distribution for c in choices}))

    def _records(self, store: Store, run: str) -> RunRecords:
        return RunRecords(
            store, run, self.suite.name, self.folder, self.cache, self.portable, self.environment, self.device,
            self.threads, self.jobs, self.measure is not None,
        )  # fmt: skip

    # -- the loop ----------------------------------------------------------------------------------------------------
    def _pull(self, schedule: Schedule) -> list[TrialJob]:
        """All jobs that can start now: first the questions of a search, then trials."""
        jobs = [TrialJob(q.trial, self.maker.keys(q.trial), q) for q in schedule.questions()]
        jobs += [TrialJob(trial, self.maker.keys(trial)) for trial in schedule.ready()]
        self.labels.add(Record.planned(job.trial.config()) for job in jobs)
        for complaint in schedule.complaints():
            self.progress.warning(complaint)
        return jobs

    def _label(self, trial: Trial) -> str:
        return self.labels.trial(Record.planned(trial.config()))

    def _loop(self, schedule: Schedule, jobs: list[TrialJob], goal: Goal) -> str:
        done = self.records.already(jobs)
        bound = schedule.upper_bound()
        self.progress.started(bound, len(done), search=schedule.search, goal=goal)
        self._notify("nqbench_run_started", trials=bound)
        failed = self._drive(schedule, jobs, done)
        if self._late:
            schedule.stop()
            self.until = None
            self.progress.warning("the time is up: the result is the best file so far")
            jobs = self._pull(schedule)
            failed = self._drive(schedule, jobs, self._take_over(jobs)) or failed
        assert schedule.finished()
        return "failed" if failed else "ok"

    @property
    def _late(self) -> bool:
        return self.until is not None and time.monotonic() >= self.until

    def _drive(self, schedule: Schedule, jobs: list[TrialJob], done: dict[str, Record]) -> bool:
        """Run all jobs of the schedule, until the time is up. Returns whether any failed."""
        failed = False
        with self._engine() as engine:
            while (jobs or engine.busy) and not self._late:
                for job in jobs:
                    if (refused := self._refused.get(job.keys.waits or "")) is None:
                        self._begin(engine, schedule, job, done)
                    else:
                        failed = not self._end(schedule, job, Done(refused)) or failed
                # reused results may have led to more jobs
                ended = [] if jobs else engine.step()
                jobs = []
                self._hear(told.heard())
                for job, how in ended:
                    outcome = self._received(how.outcome)
                    self._hear(outcome.pop("heard", ()))
                    if outcome["status"] == BUSY:
                        engine.later(job)
                    elif job.keys.waits is not None and outcome["status"] == "ok":
                        jobs += self._settled(engine, job, outcome)
                    elif self._again(job, outcome) or self._once_more(job, outcome):
                        engine.add(job)
                    elif job.keys.waits is not None:
                        jobs += self._unusable(engine, job, outcome)
                    else:
                        failed = not self._end(schedule, job, replace(how, outcome=outcome)) or failed
                self._show(engine)
                jobs += self._pull(schedule)
                done = self._take_over(jobs)
        if engine.started:
            try:
                self.cache.prune(self.limit)
            except OSError as error:  # all trials are in the store
                self.progress.warning(f"the cache {self.cache.root} cannot be looked through ({reason(error)})")
        return failed

    def _hear(self, found: Iterable[tuple[str, str]]) -> None:
        """Each thing is told once a run, whichever process found it."""
        for about, text in found:
            if about not in self._heard:
                self._heard.add(about)
                self.progress.warning(text)

    def _show(self, engine: Dispatcher[TrialJob]) -> None:
        """Tell what runs now; seldom enough that it takes little of the time where many slots are at work."""
        began = time.monotonic()
        if began >= self._shown:
            self.progress.running([(self._label(job.trial), doing) for job, doing in engine.current])
            self._shown = time.monotonic() + 10 * (time.monotonic() - began)

    def _received(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """The outcome, with the file that a slot elsewhere sent along put in place; failed where that is damaged."""
        data = outcome.pop("data", None)
        if data is None:
            return outcome
        if hashlib.sha256(data).hexdigest() != outcome["file_sha256"]:
            return {"status": "failed", "error": "the file that came from the slot is not what was written there"}
        put_file(data, file_of(outcome["key"], self.folder / FILES))
        return outcome

    def _settled(self, engine: Dispatcher[TrialJob], job: TrialJob, outcome: Mapping[str, Any]) -> list[TrialJob]:
        """The network of some jobs is known now, so that their final keys can be made. Returns these jobs with new
        keys."""
        self.maker.contents.update(outcome["contents"])
        if self.engine.away:
            note_networks(self.folder, outcome["contents"])
        waiting = [job, *engine.withdraw(job.waits_as)]
        settled = [one._replace(keys=self.maker.keys(one.trial)) for one in waiting]
        self.records.settled(waiting, settled, outcome["seconds"])
        return settled

    def _unusable(self, engine: Dispatcher[TrialJob], job: TrialJob, outcome: dict[str, Any]) -> list[TrialJob]:
        """The network of some jobs cannot be loaded or judged: they fail with it, untried, and it is said once. Raises
        BadInput where the run has no other network and the reason is one for the user."""
        if self._alone and "told" in outcome:
            raise BadInput(str(outcome["told"]))
        assert job.keys.waits is not None
        self._refused[job.keys.waits] = outcome
        return [job, *engine.withdraw(job.waits_as)]

    def _take_over(self, jobs: Sequence[TrialJob]) -> dict[str, Record]:
        """The records that the trials of these jobs have already."""
        done = self.records.taken_over(jobs)
        if done:
            self.progress.found(len(done))
        return done

    def _begin(
        self, engine: Dispatcher[TrialJob], schedule: Schedule, job: TrialJob, done: Mapping[str, Record]
    ) -> None:
        """Use a record or cached result if there is one; else give the job to a worker."""
        if job.goal == KNOB.name and job.question is not None:
            knob = self.maker.knob(job.trial)
            if knob != "unknown":
                schedule.answered(job.question, knob)
                return
        elif job.goal == TRIAL:
            record = done.get(job.keys.trial)
            if record is None and (restored := self.records.restored(job)) is not None:
                record = self._told(job, restored)
            if record is not None:
                schedule.ended(job.trial, record.to_dict())
                return
        engine.add(job._replace(recipe=self.maker.recipe(job.trial)))

    def _again(self, job: TrialJob, outcome: Mapping[str, Any]) -> bool:
        """Whether the trial must be measured in another pass."""
        if job.goal != TRIAL or outcome["status"] != "ok" or self.rounds == 1:
            return False
        passes = self._passes.setdefault(job.keys.trial, [])
        passes.append(outcome)
        return len(passes) < self.rounds

    def _once_more(self, job: TrialJob, outcome: Mapping[str, Any]) -> bool:
        """Whether a network is to be tried again because its worker was killed: all of its trials hang on it, and who
        killed the worker (the system, short of memory) may have meant another."""
        waits = job.keys.waits
        if waits is None or outcome["status"] != "crashed" or waits in self._retried:
            return False
        self._retried.add(waits)
        why = str(outcome["error"]).partition("\n")[0]
        self.progress.warning(f"{self._label(job.trial)}: {why}; its network is tried once more")
        return True

    def _end(self, schedule: Schedule, job: TrialJob, how: Done) -> bool:
        """Tell the schedule how a worker's job ended. Whether it ended well; a question never fails a run: what keeps
        its answer from being found will fail the trial."""
        outcome = how.outcome
        if job.question is None:
            passes = self._passes.pop(job.keys.trial, [])
            whole = merged(passes) if outcome["status"] == "ok" and passes else outcome
            record = self._told(job, self.records.made(job, replace(how, outcome=whole)))
            schedule.ended(job.trial, record.to_dict())
            return record.ok
        if outcome["status"] != "ok" and job.keys.waits is None:
            method = job.trial.codec or job.trial.quantizer
            why = str(outcome["error"]).partition("\n")[0]
            self.progress.warning(
                f"the knob of {method.name if method else ''} could not be determined, so only one trial is run: {why}"
            )
        schedule.answered(job.question, outcome.get("knob"))
        return True

    def _engine(self) -> Dispatcher[TrialJob]:
        settings = WorkerSettings(
            device=self.device,
            cache=None if self.cache.root is None else str(self.cache.root),
            files=str(self.folder / FILES),
            suite_folder=None if suite_folder() is None else str(suite_folder()),
            measure=None if self.measure is None else (self.measure.repeats, self.measure.warmup),
            shared=os.environ.get(tier.VARIABLE) or None,
        )
        host = TrialHost(settings, self.deadlines, self._distributions)
        needs = self.suite.resources
        if self.device.startswith("cuda") and self.engine.away:
            needs = replace(needs, gpu=max(1, needs.gpu))

        def slots() -> Slots:
            if self.jobs == 0:
                return Inline(settings, self.cache)
            has = Resources() if self.engine.away else machine(self.device)
            return self.engine.open(Work(host, needs, has, self.jobs, self.folder / _SCRATCH))

        limit = None if self.jobs == 0 else self.jobs
        return Dispatcher(slots, host.greet, self.progress.warning, needs=needs, limit=limit)

    def _told(self, job: TrialJob, record: Record) -> Record:
        """The record, shown to the user and to plugins."""
        again = job.keys.waits in self._refused and job.keys.waits in self._said
        self._said.add(job.keys.waits)
        self.progress.ended(record, self.labels.trial(record), again=again)
        self._notify("nqbench_trial_ended", record=record.to_dict())
        return record

    def _notify(self, hook: str, **arguments: Any) -> None:
        if hook != "nqbench_trial_ended":
            arguments = {"suite": self.suite.name, "output": str(self.folder), **arguments}
        for complaint in self.registry.notify(hook, **arguments):
            self.progress.warning(complaint)
