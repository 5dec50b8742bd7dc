"""The stages before quantization: load, prune, sense. Kept by the worker while trials share them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nqbench.api import BadInput, Pruned, Pruner, Sensitivity, Task
from nqbench.api.plain import all_plain
from nqbench.pipeline.artifacts import load_tensors, save_tensors
from nqbench.pipeline.context import Context, Recent
from nqbench.pipeline.network import Network


class Sensed(Mapping[str, Tensor]):
    """A sensitivity, sensed when a value is first asked for: a training that senses by itself never asks."""

    def __init__(self, names: tuple[str, ...], sense: Callable[[], Mapping[str, Tensor]]) -> None:
        self.names = names
        self.sense = sense

    def __getitem__(self, name: str) -> Tensor:
        return self.sense()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Preparation:
    def __init__(self) -> None:
        self._networks = Recent(1)
        self._pruned = Recent(1)
        self._sensed = Recent(1)

    def network(self, context: Context) -> Network:
        """The trained network, on the device."""

        def make() -> Network:
            with context.watch.stage("load"):
                return Network.of(context.model, context.model.load(context.around.device).eval())

        return self._networks.find(context.keys.load, make, lambda: context.watch.hit("load"))

    def task(self, context: Context, **fields: Any) -> Task:
        """A task over the trial's network; ``fields`` are the rest of a task's."""
        return Task(context.model, names=self.network(context).names, seed=context.seed, **fields)

    def pruned(self, context: Context) -> Pruned:
        """The pruned network; where nothing is pruned, the trained one."""
        if context.trial.pruner is None:
            network = self.network(context)
            return Pruned(network.state, {}, context.model.moments(context.around.device))
        return self._pruned.find(context.keys.prune, lambda: self._prune(context), lambda: context.watch.hit("prune"))

    def _prune(self, context: Context) -> Pruned:
        pruner, network = context.plugin(context.trial.pruner, Pruner), self.network(context)

        def make(workdir: Path | None) -> Pruned:
            moments = context.model.moments(context.around.device)
            task = self.task(context, module=copy.deepcopy(network.module), moments=moments, workdir=workdir)
            with context.watch.stage("prune"):
                return _checked(pruner.prune(task), network, pruner.name)

        pruned, hit = context.around.cache.once(
            "prune",
            context.keys.prune,
            load=lambda entry: _load_pruned(entry.path, context.around.device),
            make=make,
            save=_save_pruned,
            meta=lambda _: {"seconds": context.watch.seconds["prune"]},
            checkpoints=True,
        )
        if hit:
            context.watch.hit("prune")
        return pruned

    def sensed(self, context: Context) -> Mapping[str, Tensor] | None:
        """The sensitivity of the pruned network, sensed when it is used; None where the trial has none."""
        if context.trial.sensitivity is None:
            return None

        def sense() -> Mapping[str, Tensor]:
            found: Mapping[str, Tensor] = self._sensed.find(
                context.keys.sense, lambda: self._sense(context), lambda: context.watch.hit("sense")
            )
            return found

        return Sensed(self.network(context).names, sense)

    def _sense(self, context: Context) -> dict[str, Tensor]:
        pruned, network = self.pruned(context), self.network(context)
        sensitivity = context.plugin(context.trial.sensitivity, Sensitivity)

        def make(_: Path | None) -> dict[str, Tensor]:
            module = network.variant(pruned.state)
            task = self.task(context, module=module, masks=pruned.masks, moments=pruned.moments)
            with context.watch.stage("sense"):
                sensed = dict(all_plain(sensitivity.sense(task, network.names)))
            missing = set(network.names) - set(sensed)
            if missing:
                raise BadInput(f"sensitivity '{sensitivity.name}' says nothing of {', '.join(sorted(missing))}")
            return sensed

        sensed, hit = context.around.cache.once(
            "sense",
            context.keys.sense,
            load=lambda entry: load_tensors(entry.path, context.around.device)[0],
            make=make,
            save=save_tensors,
            meta=lambda _: {"seconds": context.watch.seconds["sense"]},
        )
        if hit:
            context.watch.hit("sense")
        return sensed


def _checked(pruned: Pruned, network: Network, pruner: str) -> Pruned:
    """Masks of the right shapes, pruned weights exactly 0, no tensor missing."""
    state = dict(pruned.state)
    for name, tensor in network.state.items():
        if name not in state or state[name].shape != tensor.shape:
            raise BadInput(f"pruner '{pruner}' dropped the tensor '{name}', or changed its shape")
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


def _save_pruned(pruned: Pruned, path: Path) -> None:
    parts = {"state": pruned.state, "masks": pruned.masks, "moments": pruned.moments or {}}
    save_tensors({f"{part}.{n}": t for part, tensors in parts.items() for n, t in tensors.items()}, path)


def _load_pruned(path: Path, device: torch.device) -> Pruned:
    parts: dict[str, dict[str, Tensor]] = {"state": {}, "masks": {}, "moments": {}}
    for name, tensor in load_tensors(path, device)[0].items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return Pruned(parts["state"], parts["masks"], parts["moments"] or None)
