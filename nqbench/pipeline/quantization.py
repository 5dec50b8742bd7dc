"""The stage that quantizes, inside the trial's trainings, and what the result cost in distortion."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nqbench.api import BadInput, Coder, Diagonal, QuantizedModel, Quantizer, Sensitivity, Source, Task, Training, begin
from nqbench.pipeline.artifacts import load_quantized, names_of, save_quantized
from nqbench.pipeline.context import Context, Measure, Recent
from nqbench.pipeline.distortion import distortions
from nqbench.pipeline.preparation import Preparation

_SAMPLE = 4096

Result = tuple[QuantizedModel, dict[str, Any]]
"""The quantized network and its figures: ``kept``, ``mse``, ``weighted_mse``, ``statistics``, ``knob``."""


class Quantization:
    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation
        self._views = Recent(1)
        self._untouched = Recent(1)
        self._results = Recent(2)

    def result(self, context: Context) -> Result:
        if context.around.measure is not None:
            return self._measure(context, context.around.measure)
        found: Result = self._results.find(context.keys.quantize, lambda: self._quantize(context))
        return found

    def _quantize(self, context: Context) -> Result:
        key, cache = context.keys.quantize, context.around.cache
        with cache.lock("quantize", key):
            entry = cache.get("quantize", key)
            if entry is not None:
                context.watch.hit("quantize")
                figures = {k: v for k, v in entry.meta.items() if k != "seconds"}
                return load_quantized(entry.file("quantized.safetensors"), context.around.device), figures
            task = self._task(context, cache.workdir("quantize", key))
            with context.watch.stage("quantize"):
                model = train(context, task)
            figures = self._figures(context, model)
            meta = {"seconds": context.watch.seconds["quantize"], **figures}
            with cache.put("quantize", key, meta) as folder:
                save_quantized(folder / "quantized.safetensors", model)
        cache.done_with("quantize", key)
        return model, figures

    def _measure(self, context: Context, measure: Measure) -> Result:
        """Every repeat starts from nothing: no cached result, no shared view of the source."""
        samples = []
        for index in range(measure.warmup + measure.repeats):
            task = self._task(context)
            task.shared = {}
            context.around.synchronize()
            start = time.perf_counter()
            model = train(context, task)
            context.around.synchronize()
            if index >= measure.warmup:
                samples.append(time.perf_counter() - start)
        context.watch.samples["quantize"] = samples
        context.watch.seconds["quantize"] = sorted(samples)[len(samples) // 2]
        return model, self._figures(context, model)

    def _task(self, context: Context, workdir: Path | None = None) -> Task:
        prepare, trial = self.preparation, context.trial
        pruned, sensed = prepare.pruned(context), prepare.sensed(context)
        return prepare.task(
            context,
            module=self._module(context),
            masks=pruned.masks,
            quantizer=context.plugin(trial.quantizer, Quantizer),
            scope=trial.scope,
            sensitivity=None if trial.sensitivity is None else context.plugin(trial.sensitivity, Sensitivity),
            sensed=sensed,
            moments=pruned.moments,
            rate=context.plugin(trial.coder, Coder).rate,
            workdir=workdir,
            shared=self._views.find(context.keys.sense, dict),
        )

    def _module(self, context: Context) -> nn.Module:
        """The pruned network: a copy for each chain of trainings, which may change it, else one for all."""

        def make() -> nn.Module:
            return self.preparation.network(context).variant(self.preparation.pruned(context).state)

        return make() if context.trial.training else self._untouched.find(context.keys.prune, make)

    def _figures(self, context: Context, model: QuantizedModel) -> dict[str, Any]:
        prepare = self.preparation
        pruned, sensed = prepare.pruned(context), prepare.sensed(context)
        quantizer = context.plugin(context.trial.quantizer, Quantizer)
        task = prepare.task(context, module=prepare.network(context).module, masks=pruned.masks)
        names = names_of(model.groups)
        h = None
        if sensed is not None and context.plugin(context.trial.sensitivity, Sensitivity).form == "diagonal":
            h = Diagonal(torch.cat([task.kept(n, sensed[n]) for n in names])).values
        weights = torch.cat([task.kept(n, pruned.state[n].detach()) for n in names])
        # the knob's name is all that a record needs: a small source will do
        knob = quantizer.knob(Source(weights[:_SAMPLE])) if weights.numel() else None
        figures = {"kept": weights.numel(), "knob": knob.field if knob else None}
        return figures | distortions(quantizer, model, weights, h)


def train(context: Context, task: Task) -> QuantizedModel:
    """The trial's chain of trainings. Raises BadInput where what came out does not cover the network."""
    model = None
    for choice in context.trial.training:
        model = context.plugin(choice, Training).train(task, model)
    model = begin(task, model)
    names = names_of(model.groups)
    if sorted(names) != sorted(task.names):
        raise BadInput(f"training '{context.trial.config()['training']}' gave the tensors {', '.join(names) or 'none'}")
    for group in model.groups:
        wanted = sum(task.kept(n, task.parameter(n)).numel() for n in group.names)
        if group.quantized.n != wanted:
            raise BadInput(f"{group.quantized.n} quantized weights for the {wanted} of {', '.join(group.names)}")
    return model
