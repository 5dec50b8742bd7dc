"""One trial as a chain of stages; what a worker keeps between trials so that shared prefixes are shared work.

``load -> prune -> sense -> quantize (inside training) -> encode, write -> decode from the file alone -> check bit for
bit -> evaluate the decoded network``. Each stage's result is looked up in the worker, then in the cache, then made.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nqbench.api import Knob
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.context import Context, Measure, Surroundings, Watch
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.evaluating import Evaluating
from nqbench.pipeline.filing import Filing
from nqbench.pipeline.keys import KeyMaker
from nqbench.pipeline.knobs import Knobs
from nqbench.pipeline.memory import Peak
from nqbench.pipeline.preparation import Preparation
from nqbench.pipeline.quantization import Quantization
from nqbench.registry import Registry
from nqbench.suite.trial import Trial


class Workbench:
    """Runs trials on one device, one after another."""

    def __init__(
        self,
        registry: Registry,
        cache: Cache,
        device: torch.device,
        *,
        measure: Measure | None = None,
        on_stage: Callable[[str], None] | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        """decoder: one that was started already; it is closed with the bench."""
        results = cache if measure is None else Cache(None)
        self.around = Surroundings(registry, cache, results, device, KeyMaker(registry, device.type), measure)
        self.on_stage = on_stage or (lambda stage: None)
        self.decoder = decoder or Decoder()
        preparation = Preparation()
        self.knobs = Knobs(preparation)
        self.filing = Filing(Quantization(preparation), self.decoder)
        self.evaluating = Evaluating(preparation, self.decoder)

    def run(self, trial: Trial, folder: Path) -> dict[str, Any]:
        """The trial's figures under the names of a record's fields; its file is ``folder / <key>.nqz``.

        Raises whatever a plugin raised, or BadInput where what it returned cannot be used.
        """
        context = self._context(trial)
        keys, watch = context.keys, context.watch
        peak = Peak(self.around.device)
        filed = self.filing.file(context)
        figures = {**filed.figures, **self.evaluating.metrics(context, filed)}
        if trial.loss_increase:
            figures["loss_increase"] = self.evaluating.loss_increase(context, filed)
        place(filed.path.read_bytes(), folder / file_name(keys.trial))
        figures["device"] = str(self.around.device)
        if self.around.measure is None:
            self.around.results.put("trial", keys.trial, figures)
        return figures | {
            "seconds": watch.seconds,
            "samples": watch.samples,
            "cached": watch.cached,
            "measured": self.around.measure is not None,
            "peak_bytes": peak.bytes(),
        }

    def knob(self, trial: Trial) -> Knob | None:
        """The knob of the trial's method, with its range on the trial's own weights; None if it has none."""
        return self.knobs.find(self._context(trial))

    def _context(self, trial: Trial) -> Context:
        return Context(trial, self.around.maker.keys(trial), Watch(on_stage=self.on_stage), self.around)

    def close(self) -> None:
        self.filing.close()
        self.decoder.close()


def restore(cache: Cache, trial_key: str, file_key: str, folder: Path) -> dict[str, Any] | None:
    """A whole trial from the cache: its figures, its file put in place; None unless all of it is there."""
    entry, file = cache.get("trial", trial_key), cache.get("file", file_key)
    if entry is None or file is None:
        return None
    try:
        place(file.data, folder / file_name(trial_key))
    except FileNotFoundError:  # dropped by another process meanwhile
        return None
    return {**entry.meta, "cached": ["trial"], "seconds": {}, "measured": False}


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
