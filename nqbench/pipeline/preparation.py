"""The stages before quantization: load, prune and sense; and their results in the form that plugins are given."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nqbench.api import BadInput, Coder, Note, Pruned, Pruner, Quantizer, Sensitivity, Task
from nqbench.api.plain import all_plain
from nqbench.api.toolkit.content import content_hash
from nqbench.pipeline.artifacts import load_tensors, save_tensors
from nqbench.pipeline.checks import check_numbers, note_tiny
from nqbench.pipeline.network import Network

if TYPE_CHECKING:
    from nqbench.pipeline.context import Context


def load(context: Context) -> Network:
    """The trained network, on the device. Raises BadInput for what cannot be compressed."""
    with context.watch.stage("load"):
        network = Network.load(context.model, context.bench.device)
    check_numbers(context.model.name, network.odd, context.trial.nonfinite)
    note_tiny(network.state, network.names)
    return network


def content_of_network(network: Network) -> str:
    """A hash of the state, of the names of compressible, tied and trained tensors, and of the moments."""
    parts = (network.sha256, network.names, sorted(network.aliases.items()), sorted(network.parameters))
    text = f"{parts} {content_hash(network.moments or {})}"
    return hashlib.sha256(text.encode()).hexdigest()


def prune(context: Context) -> Pruned:
    network, pruner = network_of(context), context.plugin(context.trial.pruner, Pruner)
    task = task_of(context, network.variant(network.state), network.unpruned, workdir=context.workdir)
    task.sensitivity = context.bench.registry.sensitivity_of(pruner)
    with context.watch.stage("prune"):
        return _checked(pruner.prune(task), network, pruner.name)


def sense(context: Context) -> dict[str, Tensor]:
    """The sensitivity of the pruned network. Raises BadInput where it says nothing of a tensor."""
    network, pruned = network_of(context), pruned_of(context)
    sensitivity = context.plugin(context.trial.sensitivity, Sensitivity)
    task = task_of(context, network.variant(pruned.state), pruned)
    with context.watch.stage("sense"):
        sensed = dict(all_plain(sensitivity.sense(task, network.names)))
    missing = set(network.names) - set(sensed)
    if missing:
        raise BadInput(f"sensitivity '{sensitivity.name}' gave no values for {', '.join(sorted(missing))}")
    return sensed


# -- what the stages after them are given ----------------------------------------------------------------------------
def network_of(context: Context) -> Network:
    found = context.result("load")
    assert isinstance(found, Network)
    return found


def pruned_of(context: Context) -> Pruned:
    """The pruned network; where nothing is pruned, the trained one."""
    found = context.result("prune")
    if isinstance(found, Network):
        return found.unpruned
    assert isinstance(found, Pruned)
    return found


def sensed_of(context: Context) -> Mapping[str, Tensor] | None:
    """The sensitivity of the pruned network, sensed when it is used; None where the trial has none."""
    if context.trial.sensitivity is None:
        return None
    return _Sensed(network_of(context).names, lambda: context.result("sense"))


class _Sensed(Mapping[str, Tensor]):
    """A sensitivity that is computed when the first value is read."""

    def __init__(self, names: tuple[str, ...], sense: Callable[[], Mapping[str, Tensor]]) -> None:
        self.names = names
        self.sense = sense

    def __getitem__(self, name: str) -> Tensor:
        return self.sense()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def task_of(context: Context, module: torch.nn.Module, pruned: Pruned, **fields: Any) -> Task:
    """A task over a module with the pruned network's state; ``fields`` are the rest of a task's."""
    network = network_of(context)
    given = {"masks": pruned.masks, "moments": pruned.moments, "stored": network.stored, "seed": context.seed}
    return Task(context.model, module, network.names, **(given | fields))


def quantizing_task(context: Context, module: torch.nn.Module, **fields: Any) -> Task:
    """A task with the trial's quantizer, and all that it may use: the views of a source are shared between trials."""
    trial = context.trial
    given = {
        "quantizer": context.plugin(trial.quantizer, Quantizer),
        "granularity": trial.granularity,
        "sensitivity": None if trial.sensitivity is None else context.plugin(trial.sensitivity, Sensitivity),
        "sensed": sensed_of(context),
        "rate": context.plugin(trial.coder, Coder).rate,
        "shared": context.kept("views", "sense", dict),
    }
    return task_of(context, module, pruned_of(context), **(given | fields))


def untouched(context: Context) -> torch.nn.Module:
    """The pruned network, shared by all trials, which only read it."""
    network = network_of(context)
    if context.trial.pruner is None:
        return network.module
    return context.kept("untouched", "prune", lambda: network.variant(pruned_of(context).state))


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
    _tell_of_nothing_left(masks, pruner)
    return Pruned({n: t.detach() for n, t in state.items() if n not in network.aliases}, masks, pruned.moments)


def _tell_of_nothing_left(masks: Mapping[str, Tensor], pruner: str) -> None:
    """One limit for all layers may leave none of a small one: where nothing goes around it the network is a constant,
    which else shows as an accuracy of chance, after all trainings."""
    gone = [name for name, mask in masks.items() if mask.dim() > 1 and not bool(mask.any())]
    if gone:
        warnings.warn(
            f"pruner '{pruner}' left no weight of {', '.join(gone)}: unless something goes around them, outputs no "
            "longer depend on the inputs",
            Note,
            stacklevel=2,
        )


# -- as files ----------------------------------------------------------------------------------------------------------
_PARTS = ("state", "masks", "moments")


def content_of_pruned(pruned: Pruned) -> str:
    return content_hash(dict(sorted(_flat(pruned).items())))


def save_pruned(pruned: Pruned, path: Path) -> None:
    save_tensors(_flat(pruned), path)


def load_pruned(path: Path, device: torch.device) -> Pruned:
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, tensor in load_tensors(path, device)[0].items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return Pruned(parts["state"], parts["masks"], parts["moments"] or None)


def _flat(pruned: Pruned) -> dict[str, Tensor]:
    parts = [getattr(pruned, part) or {} for part in _PARTS]
    return {f"{part}.{n}": t for part, tensors in zip(_PARTS, parts, strict=True) for n, t in tensors.items()}


def load_sensed(path: Path, device: torch.device) -> dict[str, Tensor]:
    return load_tensors(path, device)[0]
