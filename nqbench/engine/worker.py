"""What runs in a worker process: one workbench, kept between trials, and trials that never raise.

Only this process computes; the parent alone writes records. A trial's outcome is plain data.
"""

from __future__ import annotations

import os
import signal
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nqbench.api.errors import NqbenchError
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.context import Measure
from nqbench.pipeline.decoder import die_with_parent
from nqbench.pipeline.workbench import Workbench
from nqbench.registry import registry
from nqbench.suite.trial import Trial


@dataclass(frozen=True)
class WorkerSettings:
    """parent: its process id. cache: the cache's folder, or None. files: where compressed files go. stage_file: where
    the worker notes the stage it is in, for the parent to name when it has to stop it."""

    parent: int
    device: str
    threads: int
    cache: str | None
    files: str
    stage_file: str
    measure: Measure | None = None


_bench: Workbench | None = None
_settings: WorkerSettings | None = None


def start(settings: WorkerSettings) -> None:
    """Once a process, before its first trial."""
    global _bench, _settings
    die_with_parent(settings.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    os.environ["NUMBA_NUM_THREADS"] = str(settings.threads)
    torch.set_num_threads(settings.threads)
    stage = os.open(settings.stage_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def note(name: str) -> None:
        os.pwrite(stage, name.ljust(32).encode(), 0)

    cache = Cache(Path(settings.cache) if settings.cache else None)
    _settings = settings
    _bench = Workbench(registry(), cache, torch.device(settings.device), measure=settings.measure, on_stage=note)
    _bench.decoder.start()  # its imports overlap with the first trial's work


def run_trial(trial: Trial) -> dict[str, Any]:
    """``{"status": "ok", **figures}`` or ``{"status": "failed", "error": traceback}``."""
    assert _bench is not None
    assert _settings is not None
    try:
        return {"status": "ok", **_bench.run(trial, Path(_settings.files))}
    except KeyboardInterrupt:
        raise
    except NqbenchError as error:
        # the line for the user first, the place for the plugin's author below it
        return {"status": "failed", "error": f"{error}\n\n{traceback.format_exc()}"}
    except Exception:  # noqa: BLE001 - a plugin may raise anything; the rest of the run goes on
        return {"status": "failed", "error": traceback.format_exc()}
