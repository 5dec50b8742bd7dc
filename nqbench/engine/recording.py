"""The records of one run: those of earlier runs that hold for its trials still, and those that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.download import digest_of
from nqbench.engine.protocol import Done, TrialJob
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.files import file_of, restore
from nqbench.results.database import FILES
from nqbench.results.portable import Portable
from nqbench.results.record import Record
from nqbench.results.store import Store

_INNER = ("key", "threads", "told", "environment")
"""Of a trial's outcome, what is not a field of its record."""


@dataclass
class RunRecords:
    """Makes the records of the run ``run`` into the store, and finds those that are there already.

    measures: whether the run measures times, for which no earlier result is of use. jobs: as the run was given it.
    environment, threads: of this process, where a trial's slot tells nothing else.
    """

    store: Store
    run: str
    suite: str
    folder: Path
    cache: Cache
    portable: Portable
    environment: Mapping[str, Any]
    device: str
    threads: int
    jobs: int | None
    measures: bool
    _spent: dict[str, Mapping[str, Any]] = field(default_factory=dict, init=False)

    # -- what is there already -------------------------------------------------------------------------------------
    def already(self, jobs: Sequence[TrialJob]) -> dict[str, Record]:
        """Records of earlier runs in this folder that can be reused: same key, status ok, file present.

        A suite that measures times reuses only what an interrupted run measured that this one goes on with.
        """
        jobs = [job for job in jobs if job.question is None]
        if not jobs:
            return {}
        unfinished = self._unfinished() if self.measures else None
        wanted = {job.keys.trial: job.trial.selected_on for job in jobs}
        found = self.store.done(wanted)
        return {
            key: record
            for key, record in found.items()
            if record.selected_on == wanted[key]
            and (unfinished is None or record.run in unfinished)
            and self._in_place(key, record)
        }

    def _unfinished(self) -> set[str]:
        """This run, and those of its suite before it that were interrupted, back to the last one that ended."""
        found = {self.run}
        for run in reversed([r for r in self.store.runs() if r.run != self.run and r.suite == self.suite]):
            if run.outcome in ("ok", "failed"):
                break
            found.add(run.run)
        return found

    def taken_over(self, jobs: Sequence[TrialJob]) -> dict[str, Record]:
        """Note that this run covers the trials of these jobs. Returns the records of those that have one already."""
        keys = [job.keys.trial for job in jobs if job.question is None]
        if not keys:
            return {}
        self.store.reuse(self.run, keys)
        return self.already(jobs)

    def restored(self, job: TrialJob) -> Record | None:
        """A new record from the cache, if all results of the trial are there."""
        if self.measures:
            return None
        keys = job.keys
        figures = restore(self.cache, keys.trial, keys.stages["file"], self.folder / FILES)
        if figures is None:
            return None
        return self.made(job, Done({"status": "ok", **figures}, slots=self.jobs or 1))

    def _in_place(self, key: str, record: Record) -> bool:
        path = file_of(key, self.folder / FILES)
        try:
            if path.stat().st_size != record.file_bytes:
                return False
            # a record of before they said it is taken at its word
            return record.file_sha256 in (None, digest_of(path, "sha256"))
        except OSError:
            return False

    # -- what this run makes ---------------------------------------------------------------------------------------
    def settled(self, before: Sequence[TrialJob], after: Sequence[TrialJob], seconds: Mapping[str, Any]) -> None:
        """Trials have their final keys, for their network is known; ``seconds`` is what it took by stage, which the
        first of these trials bears."""
        old = [job.keys.trial for job in before if job.question is None]
        new = [job.keys.trial for job in after if job.question is None]
        self.store.rename(self.run, dict(zip(old, new, strict=True)))
        for key in new[:1]:
            self._spent[key] = seconds

    def made(self, job: TrialJob, how: Done) -> Record:
        """The record of a trial that ended so, in the store."""
        outcome = how.outcome
        trial, key = job.trial, str(outcome.get("key", job.keys.trial))
        if key != job.keys.trial:  # the network differs from the one known when the key was made
            self.store.rename(self.run, {job.keys.trial: key})
        fields = {"device": self.device, **{name: value for name, value in outcome.items() if name not in _INNER}}
        if fields.get("error"):
            fields["error"] = self.portable.text(str(fields["error"]))
        config = {
            name: self.portable.parameters(value) if name.endswith("_params") else value
            for name, value in trial.config().items()
        }
        if fields["status"] == "ok":
            prepared = {step: spent for step, spent in self._spent.pop(job.keys.trial, {}).items() if spent}
            fields["seconds"] = {**prepared, **fields["seconds"], **prepared}
            fields["cached"] = [step for step in fields["cached"] if step not in prepared]
            fields["file"] = f"{FILES}/{file_of(key, self.folder).name}"
            # with other workers running, times are not measurements
            fields["measured"] = bool(fields.get("measured")) and how.alone and self.jobs != 0
        fixed = {
            "run": self.run,
            "suite": self.suite,
            "key": key,
            "trial": trial.trial,
            "environment": {
                # of who computed it, where it comes from the cache
                **(outcome.get("environment") or how.environment or self.environment),
                "threads": outcome.get("threads", self.threads),
                "jobs": 0 if self.jobs == 0 else how.slots,
            },
        }
        try:
            record = Record.for_trial(config, **fields, **fixed)
        except BadInput as error:  # a figure from a plugin is not valid
            failed = {"device": self.device, "status": "failed", "error": self.portable.text(str(error))}
            record = Record.for_trial(config, **failed, **fixed)
        self.store.add(record)
        return record
