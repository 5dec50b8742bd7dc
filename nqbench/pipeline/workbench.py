"""What runs trials, whole or a stage at a time, on one device; what a worker keeps between them is shared work."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from nqbench.api import Knob
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.context import Measure, Surroundings, Watch
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.evaluating import judge_float, metrics
from nqbench.pipeline.keys import KeyMaker
from nqbench.pipeline.memory import Peak
from nqbench.pipeline.work import Moved, Work
from nqbench.registry import Registry
from nqbench.suite.chain import NETWORK, TRIAL
from nqbench.suite.trial import Trial

T = TypeVar("T")
_TRIES = 3
"""How often a trial starts again because its network turned out to be another."""


class Workbench:
    """Runs trials on one device, one after another."""

    def __init__(
        self,
        registry: Registry,
        cache: Cache,
        device: torch.device,
        *,
        measure: Measure | None = None,
        on_stage: Callable[[str, float], None] | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        """decoder: one that was started already, and is closed by who started it. on_stage: see ``Watch``."""
        self._folder = tempfile.TemporaryDirectory(prefix="nqbench-file-")
        self.on_stage = on_stage or (lambda stage, since: None)
        self._decoder = Decoder() if decoder is None else None
        decodes = decoder or self._decoder
        assert decodes is not None
        self.maker = KeyMaker(registry, device.type, cache)
        self.around = Surroundings(registry, cache, device, decodes, Path(self._folder.name), measure)

    def run(self, trial: Trial, folder: Path) -> dict[str, Any]:
        """The trial's figures under the names of a record's fields; its file is ``folder / <key>.nqz``.

        Raises whatever a plugin raised, or BadInput where what it returned cannot be used.
        """
        peak, watch = Peak(self.around.device), Watch(on_stage=self.on_stage)
        measured = self.around.measure is not None

        def whole(work: Work) -> dict[str, Any]:
            judge_float(work)
            evaluations: list[str] = []
            if work.model.metric() is not None:
                evaluations += ["evaluate_float", "evaluate"] if trial.tested else []
                evaluations += ["evaluate_float_selected", "evaluate_selected"] if trial.looked_at else []
            work.forward(["file", *evaluations, *(["loss"] if trial.loss_increase else [])])
            filed = work.result("file")
            figures = {**filed.figures, **metrics(work), "device": str(self.around.device)}
            figures["threads"] = torch.get_num_threads()
            if trial.loss_increase:
                figures["loss_increase"] = work.result("loss")
            key = self.maker.keys(trial).trial
            place(filed.path.read_bytes(), folder / file_name(key))
            if not measured:
                self.around.cache.put(TRIAL, key, figures)
            return figures

        figures = self._on(trial, watch, whole)
        return figures | {
            "seconds": watch.seconds,
            "samples": watch.samples,
            "cached": watch.cached,
            "measured": measured,
            "peak_bytes": peak.bytes(),
        }

    def stage(self, trial: Trial, name: str) -> dict[str, Any]:
        """One stage of a trial, and those before it as far as they are needed.

        ``key``: under which the cache has its result. ``contents``: of what the trial's keys hold the content of, by
        the keys that gave it (``KeyMaker.contents``). ``seconds`` and ``cached`` as a record has them.
        """
        watch = Watch(on_stage=self.on_stage)

        def one(work: Work) -> dict[str, Any]:
            work.forward([name])
            work.stands(name)
            if name == NETWORK:
                judge_float(work)
            return {"key": work.key(name), "contents": work.contents()}

        return self._on(trial, watch, one) | {"seconds": watch.seconds, "cached": watch.cached}

    def knob(self, trial: Trial) -> Knob | None:
        """The knob of the trial's method, with its range on the trial's own weights; None if it has none."""

        def ask(work: Work) -> Knob | None:
            work.forward(["knob"])
            found: Knob | None = work.result("knob")
            return found

        return self._on(trial, Watch(on_stage=self.on_stage), ask)

    def _on(self, trial: Trial, watch: Watch, do: Callable[[Work], T]) -> T:
        for _ in range(_TRIES):
            with contextlib.suppress(Moved):
                return do(Work(trial, self.around, watch, self.maker))
        return do(Work(trial, self.around, watch, self.maker))

    def close(self) -> None:
        self._folder.cleanup()
        if self._decoder is not None:
            self._decoder.close()


def restore(cache: Cache, trial_key: str, file_key: str, folder: Path) -> dict[str, Any] | None:
    """A whole trial from the cache: its figures, its file put in place; None unless all of it is there."""
    entry, file = cache.get(TRIAL, trial_key), cache.get("file", file_key)
    if entry is None or file is None:
        return None
    try:
        place(file.data, folder / file_name(trial_key))
    except FileNotFoundError:  # dropped by another process meanwhile
        return None
    return {**entry.meta, "cached": [TRIAL], "seconds": {}, "measured": False}


def file_name(trial_key: str) -> str:
    """The name of a trial's compressed file in the output folder's ``files/``."""
    return f"{trial_key[:32]}.nqz"


def place(data: bytes, target: Path) -> None:
    """Write whole or not at all."""
    temporary = f"{target.parent}/.{target.name}.{os.getpid()}"
    if not os.path.isdir(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
