"""What runs in a worker process: one workbench, kept between trials, and trials that never raise.

Only this process computes; the parent alone writes records. A trial's outcome is plain data. Nothing heavy is imported
with this module: the worker starts its decoder first, so that both import side by side.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from nqbench.pipeline.decoder import Decoder
    from nqbench.pipeline.workbench import Workbench
    from nqbench.suite.trial import Trial

STARTING = "start"
"""The stage of a trial that has not reached its first."""


@dataclass(frozen=True)
class WorkerSettings:
    """parent: its process id. cache: the cache's folder, or None. files: where compressed files go. scratch: the
    worker's folder for temporary files, which the parent removes. stage_file: where the worker notes the stage it is
    in, for the parent to name when it has to stop it."""

    parent: int
    device: str
    threads: int
    cache: str | None
    files: str
    scratch: str = ""
    stage_file: str = ""
    beside: str | None = None
    """Where files that the suite names are, if not in the working folder."""
    measure: tuple[int, int] | None = None
    """repeats and warm-up runs"""


@dataclass
class _Worker:
    bench: Workbench
    settings: WorkerSettings
    stage: str


_worker: _Worker | None = None


def start(settings: WorkerSettings) -> None:
    """Once a process, before its first trial and its deadline: when this returns, the decoder has started, too."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the parent held it back until now
    # Pebble's own handler has to wait until a long call into compiled code returns
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # this process is killed, never asked to clean up after itself
    tempfile.tempdir = settings.scratch
    os.environ["NUMBA_NUM_THREADS"] = str(settings.threads)
    from nqbench.pipeline.decoder import Decoder

    decoder = Decoder()
    decoder.start()
    bench = _bench(settings, decoder)
    from nqbench.api.errors import NqbenchError

    with contextlib.suppress(NqbenchError):  # there is no such file: an answer means that all is imported
        bench.decoder.decode(Path(settings.scratch) / "none.nqz")
    _worker = _Worker(bench, settings, STARTING)


def _bench(settings: WorkerSettings, decoder: Decoder) -> Workbench:
    import torch

    from nqbench.api.toolkit.paths import set_beside
    from nqbench.pipeline.cache import Cache
    from nqbench.pipeline.context import Measure
    from nqbench.pipeline.decoder import die_with_parent
    from nqbench.pipeline.workbench import Workbench
    from nqbench.registry import registry

    die_with_parent(settings.parent)
    set_beside(None if settings.beside is None else Path(settings.beside))
    torch.set_num_threads(settings.threads)
    stage = os.open(settings.stage_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def note(name: str) -> None:
        if _worker is not None:
            _worker.stage = name
        os.pwrite(stage, name.ljust(32).encode(), 0)

    note(STARTING)
    cache = Cache(Path(settings.cache) if settings.cache else None)
    measure = None if settings.measure is None else Measure(*settings.measure)
    return Workbench(registry(), cache, torch.device(settings.device), measure=measure, on_stage=note, decoder=decoder)


def run_trial(trial: Trial, key: str) -> dict[str, Any]:
    """``{"status": "ok", **figures}`` or ``{"status": "failed", "error": traceback}``. key: the trial's, as the parent
    has it: where the code was edited since, this process runs other code than the record would say.

    ``unusable`` is set where this process cannot be relied on any more.
    """
    return _outcome(trial, key, lambda worker: worker.bench.run(trial, Path(worker.settings.files)))


def find_knob(trial: Trial, key: str) -> dict[str, Any]:
    """As ``run_trial``: ``{"status": "ok", "knob": the knob of the trial's method, or None}``."""
    return _outcome(trial, key, lambda worker: {"knob": worker.bench.knob(trial)})


def _outcome(trial: Trial, key: str, work: Callable[[_Worker], dict[str, Any]]) -> dict[str, Any]:
    from nqbench.api.errors import NqbenchError

    assert _worker is not None
    _worker.bench.on_stage(STARTING)
    if _worker.bench.around.maker.keys(trial).trial != key:
        return {"status": "failed", "error": "the code was edited while the run was under way: run it again"}
    try:
        return {"status": "ok", **work(_worker)}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; the rest of the run goes on
        text = " ".join(str(error).split()) if isinstance(error, NqbenchError) else _line(error)
        # the line for the user first, the place for the plugin's author below it
        line = f"{text} (in the stage '{_worker.stage}')"
        outcome = {"status": "failed", "error": f"{line}\n\n{traceback.format_exc()}"}
        return outcome | ({} if _sound(_worker.bench.around.device) else {"unusable": True})


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


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
