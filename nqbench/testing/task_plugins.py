"""Checks of pruners, sensitivities and trainings, and of quantizers inside a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from nqbench.api import (
    Diagonal,
    Granularity,
    Network,
    Pruned,
    Pruner,
    QuantizedModel,
    Quantizer,
    Sensitivity,
    SensitivityForm,
    Task,
    Training,
    begin,
)
from nqbench.registry import registry
from nqbench.testing.check import check, configurations, require
from nqbench.testing.sources import first_form
from nqbench.testing.tiny import TinyQuantizer, changed, state_of, tiny_task

GRANULARITIES: tuple[Granularity, ...] = ("global", "layer")


# -- quantizers ------------------------------------------------------------------------------------------------------
class _Made(Sensitivity, name="made-for-checks"):
    """Seeded sensitivities of either form."""

    asked: SensitivityForm = "diagonal"
    """The form to give."""

    def sense(self, task: Network, names: tuple[str, ...]) -> Mapping[str, Tensor]:  # type: ignore[override]
        generator = torch.Generator().manual_seed(0)
        sensed = {}
        for name in names:
            shape = task.parameter(name).shape
            if self.asked == "diagonal":
                sensed[name] = torch.exp(torch.randn(shape, generator=generator))
            else:
                x = torch.randn(shape[1:].numel(), 400, generator=generator)
                sensed[name] = (x @ x.T / 400)[None]
        return sensed


class _MadeMoments(_Made, name="made-moments-for-checks"):
    """The same, in the other form."""

    form = "second-moments"


@check("quantizer")
def granularities(quantizer: Quantizer) -> None:
    """In a task, for all layers together and for each alone: deployed shapes, and pruned places exactly 0."""
    form = first_form(quantizer)
    made = {"none": None, "diagonal": _Made(), "second-moments": _MadeMoments(asked="second-moments")}[form]
    for granularity in GRANULARITIES:
        task = tiny_task(quantizer=quantizer, sensitivity=made, granularity=granularity, pruned=True)
        before = state_of(task.module)
        _is_sound(task, QuantizedModel(task.quantize(), task.raw_state()), f"granularity {granularity}")
        require(not changed(task.module, before), f"granularity {granularity}: quantizing changes the network in place")


def _is_sound(task: Task, result: QuantizedModel, of: str) -> None:
    """Groups cover the tensors once and in order, the rest of the state is complete, everything is finite."""
    require(isinstance(result, QuantizedModel), f"{of}: returns {type(result).__name__}, not QuantizedModel")
    names = tuple(name for group in result.groups for name in group.names)
    require(names == tuple(task.names), f"{of}: the groups hold {names}, not {tuple(task.names)}")
    for name, value in task.reconstruct(result.groups).items():
        require(value.shape == task.parameter(name).shape, f"{of}: '{name}' is deployed as {tuple(value.shape)}")
        require(torch.isfinite(value).all(), f"{of}: '{name}' is deployed with values that are not finite")
        mask = task.masks.get(name)
        require(mask is None or bool((value[~mask] == 0).all()), f"{of}: pruned places of '{name}' are not 0")
    expected = {name: value for name, value in task.module.state_dict().items() if name not in task.names}
    missing = sorted(set(expected) ^ set(result.raw_state))
    require(not missing, f"{of}: raw_state lacks, or has too much: {', '.join(missing)}")
    for name, value in result.raw_state.items():
        good = value.shape == expected[name].shape and value.dtype == expected[name].dtype
        require(good, f"{of}: raw_state has '{name}' in another shape or dtype")
        require(torch.isfinite(value.float()).all(), f"{of}: raw_state '{name}' has values that are not finite")


# -- trainings -------------------------------------------------------------------------------------------------------
def quantizer_for(training: Training) -> Quantizer:
    """One that it works with."""
    if not training.quantizers:
        return TinyQuantizer()
    known = [entry.cls for entry in registry().all("quantizer") if entry.cls.name in training.quantizers]
    require(known, f"none of the quantizers that it works with is installed: {', '.join(sorted(training.quantizers))}")
    return cast(Quantizer, configurations(known[0])[0])


@check("training")
def training_granularities(training: Training) -> None:
    """Both granularities, with pruned weights: groups cover every tensor, the raw state is complete, all is finite."""
    for granularity in GRANULARITIES:
        task = tiny_task(quantizer=quantizer_for(training), granularity=granularity, pruned=True)
        _is_sound(task, training.train(task, None), f"granularity {granularity}")


@check("training")
def training_continues(training: Training) -> None:
    """Goes on from what an earlier training returned, and leaves that as it was."""
    task = tiny_task(quantizer=quantizer_for(training))
    start = begin(task, None)
    values = [value.clone() for value in task.reconstruct(start.groups).values()]
    raw = {name: value.clone() for name, value in start.raw_state.items()}
    _is_sound(task, training.train(task, start), "second of a chain")
    same = all(map(torch.equal, values, task.reconstruct(start.groups).values()))
    same = same and all(torch.equal(raw[name], value) for name, value in start.raw_state.items())
    require(same, "changes what it was given to start from, in place")


@check("training")
def training_is_deterministic(training: Training) -> None:
    """The same task and seed give the same bits, whatever the global generator stands at."""
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        task = tiny_task(quantizer=quantizer_for(training), seed=4)
        result = training.train(task, None)
        results.append({**task.reconstruct(result.groups), **result.raw_state})
    differing = [name for name, value in results[0].items() if not torch.equal(value, results[1][name])]
    require(not differing, f"a second training gives another '{differing[0] if differing else ''}'")


# -- pruners ---------------------------------------------------------------------------------------------------------
def _task_of(pruner: Pruner, seed: int = 0, device: str = "cpu") -> Task:
    """A task as a pruner gets it: with a sensitivity of a form that it takes, if it names one."""
    if pruner.sensed_by() is None:
        return tiny_task(seed=seed, device=device)
    form = "diagonal" if "diagonal" in pruner.takes else "second-moments"
    made = _MadeMoments(asked=form) if form == "second-moments" else _Made(asked=form)
    return tiny_task(seed=seed, sensitivity=made, device=device)


@check("pruner")
def what_it_takes_is_declared(pruner: Pruner) -> None:
    """``takes`` has a form of sensitivity if, and only if, a parameter names the sensitivity to ask."""
    forms = sorted(pruner.takes - {"none"})
    require(bool(forms) == (pruner.sensed_by() is not None), f"takes {forms}, yet asks '{pruner.sensed_by()}'")


@check("pruner")
def prunes(pruner: Pruner) -> None:
    """The whole state comes back, masks are bool and of the tensors' shapes, pruned weights are exactly 0."""
    task = _task_of(pruner)
    expected = state_of(task.module)
    result = pruner.prune(task)
    require(isinstance(result, Pruned), f"prune returns {type(result).__name__}, not Pruned")
    require(set(result.state) == set(expected), f"the state differs by {sorted(set(result.state) ^ set(expected))}")
    for name, value in result.state.items():
        require(value.shape == expected[name].shape, f"'{name}' comes back with the shape {tuple(value.shape)}")
        require(torch.isfinite(value.float()).all(), f"'{name}' comes back with values that are not finite")
    stray = sorted(set(result.masks) - set(task.names))
    require(not stray, f"masks '{stray[0] if stray else ''}', which is not compressible")
    for name, mask in result.masks.items():
        good = mask.dtype == torch.bool and mask.shape == expected[name].shape
        require(good, f"the mask of '{name}' is not a bool tensor of its shape")
        require((result.state[name][~mask] == 0).all(), f"pruned weights of '{name}' are not exactly 0")
    kept = sum(int(mask.sum()) for mask in result.masks.values())
    require(kept > 0 or len(result.masks) < len(task.names), "keeps no weight at all")
    if not pruner.prunes:
        require(not result.masks, "prunes = False, yet there are masks")


@check("pruner")
def pruning_is_deterministic(pruner: Pruner) -> None:
    """The same task and seed give the same masks and weights, whatever the global generator stands at."""
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        results.append(pruner.prune(_task_of(pruner, seed=4)))
    first, second = results
    differing = [name for name in first.state if not torch.equal(first.state[name], second.state[name])]
    require(not differing, f"a second pruning gives another '{differing[0] if differing else ''}'")
    same = set(first.masks) == set(second.masks)
    same = same and all(torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())
    require(same, "a second pruning gives other masks")


# -- sensitivities ---------------------------------------------------------------------------------------------------
@check("sensitivity")
def senses(sensitivity: Sensitivity) -> None:
    """One figure per weight, or one positive semi-definite matrix per group: float32, finite, of the right shapes."""
    task = tiny_task(pruned=True)
    for names in (tuple(task.names), tuple(task.names[1:2])):
        sensed = sensitivity.sense(task, names)
        if sensitivity.form == "none":
            require(not sensed, "its form is 'none', yet it gives something")
            continue
        require(tuple(sensed) == names, f"asked for {names}, it gives {tuple(sensed)}")
        for name, value in sensed.items():
            require(value.dtype == torch.float32, f"'{name}' is {value.dtype}, not torch.float32")
            require(torch.isfinite(value).all(), f"'{name}' has values that are not finite")
            require(not value.requires_grad, f"'{name}' requires a gradient: detach it")
            _in_form(sensitivity, task.parameter(name), name, value)


def _in_form(sensitivity: Sensitivity, weight: Tensor, name: str, value: Tensor) -> None:
    if sensitivity.form == "diagonal":
        require(value.shape == weight.shape, f"'{name}' has the shape {tuple(value.shape)}, not {tuple(weight.shape)}")
        require(bool((value > 0).any()), f"'{name}' has no positive entry")
        Diagonal(value.reshape(-1))
        return
    m = weight.shape[1:].numel()
    require(value.shape == (1, m, m), f"'{name}' has the shape {tuple(value.shape)}, not (1, {m}, {m})")
    size = float(value.abs().max())
    require(size > 0, f"'{name}' is all 0")
    require(float((value - value.mT).abs().max()) <= 1e-4 * size, f"'{name}' is not symmetric")
    least = float(torch.linalg.eigvalsh(value.double()).min())
    require(least >= -1e-3 * size, f"'{name}' has the negative eigenvalue {least:g}")


@check("sensitivity")
def sensing_leaves_the_network(sensitivity: Sensitivity) -> None:
    """Weights, statistics, mode and gradients of the network are as before; nothing keeps a hook on it."""
    task = tiny_task()
    before = state_of(task.module)
    sensitivity.sense(task, tuple(task.names))
    changes = changed(task.module, before)
    require(not changes, f"changes the network in place: {', '.join(changes)}")
    require(not task.module.training, "leaves the network in training mode")
    require(all(p.grad is None for p in task.module.parameters()), "leaves gradients on the network")
    require(all(p.requires_grad for p in task.module.parameters()), "leaves parameters without requires_grad")
    hooked = [m for m in task.module.modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
    require(not hooked, "leaves hooks on the network")


@check("sensitivity")
def sensing_is_deterministic(sensitivity: Sensitivity) -> None:
    """The same task and seed give the same values, whatever the global generator stands at."""
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        task = tiny_task(seed=4)
        results.append(sensitivity.sense(task, tuple(task.names)))
    differing = [name for name, value in results[0].items() if not torch.equal(value, results[1][name])]
    require(not differing, f"a second run gives another '{differing[0] if differing else ''}'")
