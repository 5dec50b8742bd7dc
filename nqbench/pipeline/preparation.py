"""The stages before quantization: load, prune, sense. Kept by the worker while trials share them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nqbench.api import BadInput, Pruned, Pruner, Sensitivity, Task
from nqbench.pipeline.artifacts import load_tensors, save_tensors
from nqbench.pipeline.context import Context, Recent
from nqbench.pipeline.network import Network


class Preparation:
    def __init__(self) -> None:
        self._networks = Recent(1)
        self._pruned = Recent(1)
        self._sensed = Recent(2)

    def network(self, context: Context) -> Network:
        """The trained network, on the device."""

        def make() -> Network:
            with context.watch.stage("load"):
                return Network.of(context.model, context.model.load(context.around.device).eval())

        return self._networks.find(context.keys.load, make)

    def task(self, context: Context, **fields: Any) -> Task:
        """A task over the trial's network; ``fields`` are the rest of a task's."""
        return Task(context.model, names=self.network(context).names, seed=context.seed, **fields)

    def pruned(self, context: Context) -> Pruned:
        """The pruned network; where nothing is pruned, the trained one."""
        if context.trial.pruner is None:
            network = self.network(context)
            return Pruned(network.state, {}, context.model.moments(context.around.device))
        return self._pruned.find(context.keys.prune, lambda: self._prune(context))

    def _prune(self, context: Context) -> Pruned:
        key, cache = context.keys.prune, context.around.cache
        with cache.lock("prune", key):
            entry = cache.get("prune", key)
            if entry is not None:
                context.watch.hit("prune")
                return _load_pruned(entry.file("pruned.safetensors"), context.around.device)
            pruner, network = context.plugin(context.trial.pruner, Pruner), self.network(context)
            moments = context.model.moments(context.around.device)
            module = copy.deepcopy(network.module)
            with context.watch.stage("prune"):
                task = self.task(context, module=module, moments=moments, workdir=cache.workdir("prune", key))
                pruned = _checked(pruner.prune(task), network, pruner.name)
            with cache.put("prune", key, {"seconds": context.watch.seconds["prune"]}) as folder:
                _save_pruned(folder / "pruned.safetensors", pruned)
        cache.done_with("prune", key)
        return pruned

    def sensed(self, context: Context) -> Mapping[str, Tensor] | None:
        """The sensitivity of the pruned network; None where the trial has none."""
        if context.trial.sensitivity is None:
            return None
        return self._sensed.find(context.keys.sense, lambda: self._sense(context))

    def _sense(self, context: Context) -> dict[str, Tensor]:
        key, cache = context.keys.sense, context.around.cache
        pruned, network = self.pruned(context), self.network(context)
        with cache.lock("sense", key):
            entry = cache.get("sense", key)
            if entry is not None:
                context.watch.hit("sense")
                return load_tensors(entry.file("sensed.safetensors"), context.around.device)[0]
            sensitivity = context.plugin(context.trial.sensitivity, Sensitivity)
            module = network.variant(pruned.state)
            with context.watch.stage("sense"):
                task = self.task(context, module=module, masks=pruned.masks, moments=pruned.moments)
                sensed = dict(sensitivity.sense(task, network.names))
            missing = set(network.names) - set(sensed)
            if missing:
                raise BadInput(f"sensitivity '{sensitivity.name}' says nothing of {', '.join(sorted(missing))}")
            with cache.put("sense", key, {"seconds": context.watch.seconds["sense"]}) as folder:
                save_tensors(folder / "sensed.safetensors", sensed)
        cache.done_with("sense", key)
        return sensed


def _checked(pruned: Pruned, network: Network, pruner: str) -> Pruned:
    """Masks of the right shapes, pruned weights exactly 0, no tensor missing."""
    state = dict(pruned.state)
    missing = set(network.state) - set(state)
    if missing:
        raise BadInput(f"pruner '{pruner}' gave no tensor {', '.join(sorted(missing))}")
    masks = {}
    for name, mask in pruned.masks.items():
        if name not in network.names or mask.shape != state[name].shape:
            raise BadInput(f"pruner '{pruner}' gave a mask for '{name}' that fits no compressible tensor")
        mask = mask.to(torch.bool)
        if bool((state[name][~mask] != 0).any()):
            raise BadInput(f"pruner '{pruner}' left pruned weights of '{name}' that are not 0")
        if not bool(mask.all()):
            masks[name] = mask
    return Pruned({n: t.detach() for n, t in state.items() if n not in network.aliases}, masks, pruned.moments)


def _save_pruned(path: Path, pruned: Pruned) -> None:
    parts = {"state": pruned.state, "masks": pruned.masks, "moments": pruned.moments or {}}
    save_tensors(path, {f"{part}.{n}": t for part, tensors in parts.items() for n, t in tensors.items()})


def _load_pruned(path: Path, device: torch.device) -> Pruned:
    parts: dict[str, dict[str, Tensor]] = {"state": {}, "masks": {}, "moments": {}}
    for name, tensor in load_tensors(path, device)[0].items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return Pruned(parts["state"], parts["masks"], parts["moments"] or None)
