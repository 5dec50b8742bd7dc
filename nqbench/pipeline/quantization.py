"""The stage that quantizes, by the trial's trainings, and computes the distortion of the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nqbench.api import (
    BadInput,
    Diagonal,
    Group,
    Moments,
    QuantizedModel,
    Quantizer,
    Sensitivity,
    Source,
    Task,
    begin,
)
from nqbench.pipeline.artifacts import names_of
from nqbench.pipeline.distortion import against_bound, distortions, spectra_of
from nqbench.pipeline.network import values_of
from nqbench.pipeline.preparation import network_of, pruned_of, quantizing_task, sensed_of, task_of, untouched
from nqbench.pipeline.trainings import in_turn

if TYPE_CHECKING:
    from nqbench.pipeline.context import Context

_SAMPLE = 4096

Result = tuple[QuantizedModel, dict[str, Any]]
"""The quantized network and its figures: ``kept``, ``mse``, ``weighted_mse``, ``statistics``, ``knob``."""


def quantize(context: Context) -> Result:
    """Quantize the network by the trial's quantizer and trainings."""
    fresh: dict[str, Any] = {}
    if context.bench.measure is not None:
        # every repeat starts without shared views of the source; only the sensitivity is computed before
        sensed = sensed_of(context)
        fresh = {"sensed": None if sensed is None else dict(sensed)}

    def task() -> Task:
        return quantizing_task(
            context, _module(context), workdir=context.workdir, **fresh, **({"shared": {}} if fresh else {})
        )

    model = context.repeated("quantize", lambda task: _train(context, task), task)
    return model, _figures(context, model)


def values(context: Context, model: QuantizedModel) -> list[Tensor]:
    """``values_of`` the trial's result, computed once: for its distortion, and for what is deployed."""
    quantizer = context.plugin(context.trial.quantizer, Quantizer)
    # the deployed weights are always computed on the CPU
    if context.bench.device.type != "cpu":
        return values_of(quantizer, model)
    return context.kept("values", "quantize", lambda: values_of(quantizer, model))


def _module(context: Context) -> nn.Module:
    """The pruned network: a copy for each chain of trainings, which may change it, else one for all."""
    return network_of(context).variant(pruned_of(context).state) if context.trial.training else untouched(context)


def _train(context: Context, task: Task) -> QuantizedModel:
    model, network = train(context, task), network_of(context)
    chain = context.trial.config()["training"]
    for name in network.raw:
        if name not in model.raw_state or model.raw_state[name].shape != network.state[name].shape:
            raise BadInput(f"training '{chain}' dropped the tensor '{name}', or changed its shape")
    return model


def _figures(context: Context, model: QuantizedModel) -> dict[str, Any]:
    pruned, sensed = pruned_of(context), sensed_of(context)
    task = task_of(context, network_of(context).module, pruned)
    form = "" if sensed is None else context.plugin(context.trial.sensitivity, Sensitivity).form
    names = names_of(model.groups)
    diagonal = _diagonal(task, names, sensed) if sensed is not None and form == "diagonal" else {}
    parts = [(name, task.kept(name, pruned.state[name].detach()), diagonal.get(name)) for name in names]
    deployed = dict(_by_tensor(context, model))
    costs = distortions(model, ((weights, deployed[name], h) for name, weights, h in parts))
    costs["statistics"] |= _from_bound(context, deployed, sensed if form == "second-moments" else None)
    knob = _knob(context.plugin(context.trial.quantizer, Quantizer), parts)
    kept = sum(weights.numel() for _, weights, _ in parts)
    return {"kept": kept, "knob": knob, "notes": dict(model.notes)} | costs


def _diagonal(task: Task, names: Sequence[str], sensed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """name -> h of its kept weights, with the floor of all together."""
    parts = [task.kept(name, sensed[name]) for name in names]
    whole = torch.split(Diagonal(torch.cat(parts)).values, [part.numel() for part in parts])
    return dict(zip(names, whole, strict=True))


def _by_tensor(context: Context, model: QuantizedModel) -> Iterator[tuple[str, Tensor]]:
    """The reconstructed kept weights of each tensor: views, not copies."""
    for group, flat in zip(model.groups, values(context, model), strict=True):
        yield from zip(group.names, torch.split(flat, list(group.quantized.sizes)), strict=True)


def _from_bound(
    context: Context, deployed: Mapping[str, Tensor], sensed: Mapping[str, Tensor] | None
) -> dict[str, float]:
    """How far whole networks are from the rate-distortion bound, where the layers' second moments are known."""
    pruned = pruned_of(context)
    if sensed is None or any(name in pruned.masks for name in deployed):
        return {}
    weights = {name: pruned.state[name].detach().cpu() for name in deployed if pruned.state[name].numel()}
    moments = {name: sensed[name].cpu() for name in weights}
    if not all(Moments.of(moments[name]).fits(weights[name].shape) for name in weights):
        return {}
    spectra = context.kept("spectra", "sense", lambda: spectra_of(weights, moments))
    shaped = {name: deployed[name].cpu().reshape(weight.shape) for name, weight in weights.items()}
    return against_bound(weights, shaped, moments, spectra)


def _knob(quantizer: Quantizer, parts: Iterable[tuple[str, Tensor, Tensor | None]]) -> str | None:
    """The knob's name, which is all that a record needs: a small source will do."""
    for _, weights, h in parts:
        if weights.numel():
            sensitivity = None if h is None else Diagonal(h[:_SAMPLE])
            knob = quantizer.knob(Source(weights[:_SAMPLE], sensitivity=sensitivity))
            return knob.field if knob else None
    return None


def train(context: Context, task: Task) -> QuantizedModel:
    """Run the trial's trainings. Raises BadInput if the result does not cover the network."""
    model = begin(task, in_turn(context, task))
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
