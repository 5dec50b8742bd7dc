"""Verification: every stored file decoded again in a fresh process, and evaluated again."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nqbench.api.engine import Engine, Outcome, Resources, Work
from nqbench.api.errors import BadInput, Note
from nqbench.api.model import Model
from nqbench.api.toolkit.parsing import read_file
from nqbench.api.toolkit.paths import set_suite_folder, suite_folder
from nqbench.engine.checking import Checker, model_of
from nqbench.engine.choose import chosen
from nqbench.engine.deadlines import Deadlines
from nqbench.engine.devices import resolve_device
from nqbench.engine.dispatcher import Dispatcher
from nqbench.engine.host import TrialHost
from nqbench.engine.worker import Worker, WorkerSettings, attempted
from nqbench.registry import registry
from nqbench.results.record import KINDS, Record
from nqbench.results.store import Store, run_in
from nqbench.shared.tier import attached


@dataclass(frozen=True)
class Verdict:
    """The verdict on one record. fault: None if everything is as recorded."""

    record: Record
    fault: str | None


def verify(
    folder: str | Path,
    *,
    run: str = "latest",
    device: str = "auto",
    limit: int | None = None,
    allow_code: bool = False,
    store: str | None = None,
    engine: str | Engine | None = None,
) -> Iterator[Verdict]:
    """Check every ok record of a run: file present, its size and parts, decoded bytes, network, metrics.

    store: URL of a server's store that has the folder's records; 'latest' is then the last run into the folder.
    run: its id, 'latest', or 'all': the last record of every key. limit: bytes of tensors that a file may stand for;
    None: what fits into the memory of this machine. allow_code: run code that the records name: functions to import,
    TorchScript files. engine: whose slots check, as ``dask:tcp://HOST:PORT``; None or ``local``: this process. Yields a
    verdict a record, in their order. Raises StoreError where there are no records, BadInput for code that was not
    allowed.
    """
    folder = Path(folder)
    if store is not None and run == "latest":
        run = run_in(folder) or run
    with Store.read(store or folder) as opened:
        records = [record for record in opened.records(run) if record.ok]
        last = opened.latest() if run in ("latest", "all") else opened.run(run)
    if not allow_code:
        _refuse_code(folder, records)
    where = last.settings.get("suite_folder", last.settings.get("beside")) if last else None
    attached()
    set_suite_folder(None if where is None else folder / where)
    slots = chosen(engine)
    if slots.away:
        yield from _elsewhere(slots, folder, records, device, limit)
        return
    checker = Checker(resolve_device(device), limit)
    try:
        for record in records:
            yield Verdict(record, checker.fault(record, folder / (record.file or "")))
    finally:
        checker.close()


def _refuse_code(folder: Path, records: Sequence[Record]) -> None:
    for choice in dict.fromkeys(model_of(record) for record in records):
        model = choice.make(registry())
        assert isinstance(model, Model)
        if code := model.foreign_code():
            raise BadInput(
                f"{folder}: its model '{model.name}' runs code that the records name ({', '.join(code)}); "
                "if you trust who made them: --allow-code"
            )


# -- in the slots of an engine ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class CheckTask:
    """A record with its file's bytes; None: there is no file. shown: its path, for what is said of it."""

    record: Mapping[str, Any]
    data: bytes | None
    shown: str
    limit: int | None

    def done_by(self, worker: Worker) -> Outcome:
        """``{"status": "ok", "fault": ...}``, or what it raised."""
        return attempted(worker, lambda: {"fault": self._fault(worker)})

    def _fault(self, worker: Worker) -> str | None:
        if "checker" not in worker.kept:
            worker.kept["checker"] = Checker(worker.settings.device, self.limit)
        checker: Checker = worker.kept["checker"]
        with tempfile.TemporaryDirectory(prefix="nqbench-verify-") as folder:
            path = Path(folder, "it.nqz")
            if self.data is not None:
                path.write_bytes(self.data)
            fault = checker.fault(Record.from_dict(self.record), path)
        return None if fault is None else fault.replace(str(path), self.shown)


@dataclass(frozen=True)
class _Check:
    """The job of one record; its file is read when it is sent."""

    number: int
    record: Record
    path: Path
    limit: int | None

    @property
    def affinity(self) -> tuple[str, ...]:
        choice = model_of(self.record)
        return (f"{choice.name} {choice.json}",)

    @property
    def task(self) -> CheckTask:
        try:
            data = read_file(self.path)
        except OSError:  # the slot says that it is missing
            data = None
        return CheckTask(self.record.to_dict(), data, str(self.path), self.limit)


def _elsewhere(
    engine: Engine, folder: Path, records: Sequence[Record], device: str, limit: int | None
) -> Iterator[Verdict]:
    on_gpu = any(record.device.startswith("cuda") for record in records) if device == "auto" else device != "cpu"
    where, needs = ("cuda" if on_gpu else "cpu") if device == "auto" else device, Resources(gpu=int(on_gpu))
    beside = suite_folder()
    settings = WorkerSettings(where, None, "", suite_folder=None if beside is None else str(beside))
    host = TrialHost(settings, Deadlines(), _distributions(records))
    found: dict[int, str | None] = {}
    with tempfile.TemporaryDirectory(prefix="nqbench-verify-") as scratch:
        work = Work(host, needs, Resources(), None, Path(scratch) / "work")
        jobs: Dispatcher[_Check] = Dispatcher(lambda: engine.open(work), host.greet, _tell, needs=needs)
        with jobs:
            for number, record in enumerate(records):
                jobs.add(_Check(number, record, folder / (record.file or ""), limit))
            for number, record in enumerate(records):
                while number not in found:
                    for job, done in jobs.step():
                        found[job.number] = _verdict(job, done.outcome)
                yield Verdict(record, found.pop(number))


def _tell(text: str) -> None:
    warnings.warn(text, Note, stacklevel=2)


def _verdict(job: _Check, outcome: Outcome) -> str | None:
    if outcome["status"] == "ok":
        fault: str | None = outcome["fault"]
        return fault
    return f"{job.path}: was not checked: {str(outcome['error']).partition(chr(10))[0]}"


def _distributions(records: Sequence[Record]) -> tuple[str, ...]:
    """Whose plugins the records name."""
    known = registry().found
    named = {(kind, name) for record in records for kind in KINDS for name in str(getattr(record, kind)).split("+")}
    return tuple(sorted({known[plugin].distribution for plugin in named if plugin in known}))
