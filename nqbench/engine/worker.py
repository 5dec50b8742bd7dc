"""Runs trials in a worker process, on a workbench that is kept between trials. Trials never raise.

Workers compute; only the parent writes records. The outcome of a trial is plain data. This module imports nothing
heavy: the worker first starts its decoder, so that both processes import at the same time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from nqbench.engine.memory import sacrificed

if TYPE_CHECKING:
    import torch

    from nqbench.api.engine import Outcome
    from nqbench.pipeline.decoder import Decoder
    from nqbench.pipeline.trial import Trial
    from nqbench.pipeline.workbench import Workbench

STARTING = "start"
"""The stage of a trial before its first stage begins."""
BUSY = "busy"
PATIENCE = 2.0
"""Seconds that a job waits for the work of another process before the slot does something else."""
_NOTE = 160
"""Bytes of the note of a worker's step, and of what is told of it."""
_PROCESS = "process"
"""The file in a worker's scratch folder that has its process id."""
_THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class WorkerSettings:
    """parent: its process id. cache: the cache's folder, or None. files: where compressed files go. scratch: the
    worker's folder for temporary files, which the parent removes. stage_file: where the worker notes the stage it is
    in, for the parent to name when it has to stop it."""

    device: str
    cache: str | None
    files: str
    parent: int = 0
    threads: int = 1
    scratch: str = ""
    stage_file: str = ""
    suite_folder: str | None = None
    """Where files that the suite names are, if not in the working folder."""
    measure: tuple[int, int] | None = None
    """repeats and warm-up runs"""
    gpus: tuple[int, ...] | None = None
    """Of the GPUs that the parent sees, those that the worker sees; None: all."""
    carried: bool = False
    """Whether a trial's file is part of its outcome, instead of staying in ``files``."""
    shared: str | None = None
    """URL of the tier of the cache that machines share; credentials are this machine's own"""


@dataclass
class Worker:
    """What does tasks: a workbench, kept between them. step: what it is at. kept: what tasks of other kinds keep."""

    bench: Workbench
    settings: WorkerSettings
    step: str = STARTING
    kept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        before = self.bench.on_stage

        def noted(name: str, since: float) -> None:
            self.step = name
            before(name, since)

        self.bench.on_stage = noted


class Task(Protocol):
    """One task for a worker."""

    def done_by(self, worker: Worker) -> Outcome:
        """How it ended; whatever happens is an outcome, and nothing is raised."""
        ...


_worker: Worker | None = None
_note: _Note | None = None


def start(settings: WorkerSettings) -> None:
    """Once a process, before its first trial and its deadline: when this returns, the decoder has started, too."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the parent held it back until now
    # Pebble's own handler has to wait until a long call into compiled code returns
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sacrificed()
    os.setpgid(0, 0)  # what is started below this process can be ended with it
    # this process is killed, never asked to clean up after itself
    tempfile.tempdir = settings.scratch
    Path(settings.scratch, _PROCESS).write_text(str(os.getpid()))
    os.environ |= dict.fromkeys(_THREADS, str(settings.threads))
    if settings.gpus is not None:
        seen = os.environ.get(_GPUS)
        os.environ[_GPUS] = ",".join(str(gpu) if not seen else seen.split(",")[gpu] for gpu in settings.gpus)
    from nqbench.pipeline.decoder import Decoder

    decoder = Decoder()
    decoder.start()
    made = _made(settings, decoder)
    from nqbench.api.errors import NqbenchError

    with contextlib.suppress(NqbenchError):  # there is no such file: an answer means that all is imported
        decoder.decode(Path(settings.scratch) / "none.nqz")
    _worker = made


def _made(settings: WorkerSettings, decoder: Decoder) -> Worker:
    global _note
    import torch

    from nqbench.api.toolkit.paths import set_suite_folder
    from nqbench.pipeline.cache import Cache
    from nqbench.pipeline.context import Measure
    from nqbench.pipeline.decoder import die_with_parent
    from nqbench.pipeline.workbench import Workbench
    from nqbench.registry import registry
    from nqbench.shared import tier, told

    die_with_parent(settings.parent)
    set_suite_folder(None if settings.suite_folder is None else Path(settings.suite_folder))
    os.environ[tier.VARIABLE] = settings.shared or ""
    told.listen()
    told.listen_to_notes()
    torch.set_num_threads(settings.threads)
    _note = note = _Note(settings.stage_file)
    note.stage(STARTING, time.monotonic())
    cache = Cache(Path(settings.cache) if settings.cache else None, tier.attached())
    device = torch.device(settings.device)
    measure = None if settings.measure is None else Measure(*settings.measure)
    bench = Workbench(registry(), cache, device, measure=measure, on_stage=note.stage, decoder=decoder)
    return Worker(bench, settings)


class _Note:
    """The step that this process is in, since when, and how far it has come, in a file that the parent reads."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._begun = f"{STARTING} 0"

    def stage(self, name: str, since: float) -> None:
        self._begun = f"{name} {since:.3f}"
        self.tell("")

    def tell(self, text: str) -> None:
        """text: what ``nqbench.api.toolkit.progress.tell`` was given."""
        line = f"{self._begun} {' '.join(text.split())}".encode()[:_NOTE]
        os.pwrite(self._file, line.ljust(_NOTE), 0)


class Noted(NamedTuple):
    """step: what a worker is at. since: when that began on ``time.monotonic``, which all processes share. told: how far
    it has come, in the words of who does it."""

    step: str
    since: float
    told: str = ""


def noted(stage_file: str | Path) -> Noted:
    """What a worker has noted last."""
    try:
        step, since, *told = Path(stage_file).read_bytes().decode(errors="replace").split(maxsplit=2)
        return Noted(step, float(since), told[0].strip() if told else "")
    except (OSError, ValueError):
        return Noted(STARTING, time.monotonic())


def begun(settings: WorkerSettings) -> int | None:
    """The process id of the worker with these settings, once it has one."""
    try:
        return int(Path(settings.scratch, _PROCESS).read_text())
    except (OSError, ValueError):
        return None


def perform(task: Task) -> Outcome:
    """Do a task in this worker process."""
    from nqbench.api.toolkit.progress import telling
    from nqbench.shared.told import heard

    assert _worker is not None
    assert _note is not None
    with telling(_note.tell):
        try:
            outcome = task.done_by(_worker)
        except KeyboardInterrupt as error:  # a method raised it: Ctrl-C does not come here
            outcome = _failed(_worker, error)
    told = heard()
    return outcome | ({"heard": told} if told else {})


@dataclass(frozen=True)
class TrialTask:
    """A trial, or one stage of it. recipe: the trial's, as the run has it: where the code was edited since, a worker
    runs other code than the record would say."""

    trial: Trial
    goal: str
    recipe: str

    def done_by(self, worker: Worker) -> Outcome:
        """``{"status": "ok", ...}`` or ``{"status": "failed", "error": traceback}``, with ``unusable`` set where this
        process cannot be relied on any more, and ``told``, the error's own line, where it is one for the user. ok: for
        the goal ``trial`` its figures and ``key``; for ``knob`` the knob or None; for a stage what ``Workbench.stage``
        says. ``{"status": "busy"}`` where another process is making what the trial needs: it is to be done again, and
        anything else first. ``heard``: what is to be told once a run."""
        bench = worker.bench
        bench.on_stage(STARTING, time.monotonic())
        if bench.maker.recipe(self.trial) != self.recipe:
            return {"status": "failed", "error": "the code was edited while the run was under way: run it again"}
        return attempted(worker, lambda: self._found(worker))

    def _found(self, worker: Worker) -> Outcome:
        from nqbench.pipeline.chain import KNOB
        from nqbench.pipeline.files import file_of
        from nqbench.pipeline.stage import TRIAL

        bench = worker.bench
        if self.goal == KNOB.name:
            return {"knob": bench.knob(self.trial)}
        if self.goal != TRIAL:
            return bench.stage(self.trial, self.goal)
        files = Path(worker.settings.files)
        found = bench.run(self.trial, files) | {"key": bench.maker.keys(self.trial).trial}
        if worker.settings.carried:
            path = file_of(found["key"], files)
            found["data"] = path.read_bytes()
            path.unlink()
        return found


def attempted(worker: Worker, do: Callable[[], Outcome]) -> Outcome:
    """``do``'s outcome, or that of what it raised: anything but KeyboardInterrupt, which is the user's."""
    from nqbench.api.toolkit.waiting import Busy, patience

    try:
        with patience(PATIENCE):
            return {"status": "ok", **do()}
    except Busy as error:
        return {"status": BUSY, "error": str(error)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything (a panic in Rust is no Exception)
        return _failed(worker, error)


def _failed(worker: Worker, error: BaseException) -> Outcome:
    """The outcome of what is being handled."""
    from nqbench.api.errors import NqbenchError

    text = " ".join(str(error).split()) if isinstance(error, NqbenchError) else _line(error)
    # the line for the user first, the place for the plugin's author below it
    line = f"{text} (in the stage '{worker.step}')"
    outcome = {"status": "failed", "error": f"{line}\n\n{traceback.format_exc()}"}
    if isinstance(error, NqbenchError):
        outcome["told"] = text
    return outcome | ({} if _sound(worker.bench.device) else {"unusable": True})


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _sound(device: torch.device) -> bool:
    """Whether the device still works: after an illegal access on a GPU, nothing in the process does."""
    if device.type != "cuda":
        return True
    import torch

    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True
