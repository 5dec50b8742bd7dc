"""The stage that quantizes, inside the trial's trainings, and what the result cost in distortion."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nqbench.api import (
    BadInput,
    Coder,
    Diagonal,
    Group,
    QuantizedModel,
    Quantizer,
    Sensitivity,
    Source,
    Task,
    Training,
    begin,
)
from nqbench.pipeline.artifacts import load_quantized, names_of, save_quantized
from nqbench.pipeline.cache import Entry
from nqbench.pipeline.context import Context, Measure, Recent
from nqbench.pipeline.distortion import distortions
from nqbench.pipeline.network import values_of
from nqbench.pipeline.preparation import Preparation

_SAMPLE = 4096

Result = tuple[QuantizedModel, dict[str, Any]]
"""The quantized network and its figures: ``kept``, ``mse``, ``weighted_mse``, ``statistics``, ``knob``."""


class Quantization:
    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation
        self._views = Recent(1)
        self._untouched = Recent(1)
        self._results = Recent(1)
        self._values = Recent(1)

    def result(self, context: Context) -> Result:
        if context.around.measure is not None:
            return self._measure(context, context.around.measure)
        found: Result = self._results.find(
            context.keys.quantize, lambda: self._quantize(context), lambda: context.watch.hit("quantize")
        )
        return found

    def values(self, context: Context, model: QuantizedModel) -> list[Tensor]:
        """``values_of`` the trial's result, computed once: for its distortion, and for what is deployed."""
        quantizer = context.plugin(context.trial.quantizer, Quantizer)
        # what is measured is another result each time; what is deployed is never computed on a GPU
        if context.around.measure is not None or context.around.device.type != "cpu":
            return values_of(quantizer, model)
        return self._values.find(context.keys.quantize, lambda: values_of(quantizer, model))

    def _quantize(self, context: Context) -> Result:
        def make(workdir: Path | None) -> Result:
            task = self._task(context, workdir)
            with context.watch.stage("quantize"):
                model = self._train(context, task)
            return model, self._figures(context, model)

        def load(entry: Entry) -> Result:
            figures = {k: v for k, v in entry.meta.items() if k != "seconds"}
            return load_quantized(entry.path, context.around.device), figures

        result, hit = context.around.cache.once(
            "quantize",
            context.keys.quantize,
            load=load,
            make=make,
            save=lambda result, path: save_quantized(result[0], path),
            meta=lambda result: {"seconds": context.watch.seconds["quantize"], **result[1]},
            checkpoints=bool(context.trial.training),
            first=lambda: self.preparation.pruned(context),
        )
        if hit:
            context.watch.hit("quantize")
        return result

    def _measure(self, context: Context, measure: Measure) -> Result:
        """Every repeat starts from nothing: no cached result, no shared view of the source."""
        samples = []
        for index in range(measure.runs):
            task = self._task(context)
            # sensed before the clock starts
            task.sensed = None if task.sensed is None else dict(task.sensed)
            task.shared = {}
            context.around.synchronize()
            start = time.perf_counter()
            with context.watch.stage("quantize"):
                model = self._train(context, task)
                context.around.synchronize()
            if index >= measure.warmup:
                samples.append(time.perf_counter() - start)
        context.watch.samples["quantize"] = samples
        context.watch.seconds["quantize"] = statistics.median(samples)
        return model, self._figures(context, model)

    def _task(self, context: Context, workdir: Path | None = None) -> Task:
        prepare, trial = self.preparation, context.trial
        pruned, sensed = prepare.pruned(context), prepare.sensed(context)
        return prepare.task(
            context,
            module=self._module(context),
            masks=pruned.masks,
            quantizer=context.plugin(trial.quantizer, Quantizer),
            granularity=trial.granularity,
            sensitivity=None if trial.sensitivity is None else context.plugin(trial.sensitivity, Sensitivity),
            sensed=sensed,
            moments=pruned.moments,
            rate=context.plugin(trial.coder, Coder).rate,
            workdir=workdir,
            shared=self._views.find(context.keys.sense, dict),
        )

    def _module(self, context: Context) -> nn.Module:
        """The pruned network: a copy for each chain of trainings, which may change it, else one for all."""
        network = self.preparation.network(context)

        def make() -> nn.Module:
            return network.variant(self.preparation.pruned(context).state)

        if context.trial.training:
            return make()
        # only the quantizer will see it, and that sees copies of its weights
        return network.module if context.trial.pruner is None else self._untouched.find(context.keys.prune, make)

    def _train(self, context: Context, task: Task) -> QuantizedModel:
        model, network = train(context, task), self.preparation.network(context)
        chain = context.trial.config()["training"]
        for name in network.raw:
            if name not in model.raw_state or model.raw_state[name].shape != network.state[name].shape:
                raise BadInput(f"training '{chain}' dropped the tensor '{name}', or changed its shape")
        return model

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
        figures = {"kept": weights.numel(), "knob": _knob(quantizer, weights, h)}
        return figures | distortions(model, self.values(context, model), weights, h)


def _knob(quantizer: Quantizer, weights: Tensor, h: Tensor | None) -> str | None:
    """The knob's name, which is all that a record needs: a small source will do."""
    if not weights.numel():
        return None
    sensitivity = None if h is None else Diagonal(h[:_SAMPLE])
    knob = quantizer.knob(Source(weights[:_SAMPLE], sensitivity=sensitivity))
    return knob.field if knob else None


def train(context: Context, task: Task) -> QuantizedModel:
    """The trial's chain of trainings. Raises BadInput where what came out does not cover the network."""
    model = None
    for choice in context.trial.training:
        model = context.plugin(choice, Training).train(task, model)
    model = begin(task, model)
    names = names_of(model.groups)
    if sorted(names) != sorted(task.names):
        odd = _listed(set(names) ^ set(task.names)) or "some of them twice"
        chain = context.trial.config()["training"]
        raise BadInput(f"training '{chain}' did not give every compressible tensor once: {odd}")
    for group in model.groups:
        _check(task, group)
    return model


def _check(task: Task, group: Group) -> None:
    """Symbols for every kept weight of the group, each inside the alphabet, or BadInput."""
    quantized, names = group.quantized, ", ".join(group.names)
    wanted = sum(task.kept(n, task.parameter(n)).numel() for n in group.names)
    if quantized.n != wanted:
        raise BadInput(f"{quantized.n} quantized weights for the {wanted} of {names}")
    if quantized.symbols.numel():
        low, high = (int(edge) for edge in quantized.symbols.aminmax())
        if low < 0 or high >= quantized.alphabet:
            raise BadInput(f"symbols of {names} lie in [{low}, {high}], outside the alphabet [0, {quantized.alphabet})")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
