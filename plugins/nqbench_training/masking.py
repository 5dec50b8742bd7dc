"""Keeping pruned weights at zero while the others are trained; and how pruned networks are kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nqbench.api import Pruned, Pruner, Task
from nqbench.api.toolkit.masters import is_half
from nqbench.api.toolkit.store import Trained, trained

MASK = "mask:"


def hold(task: Task, masks: Mapping[str, Tensor]) -> None:
    """Set pruned weights to exactly 0."""
    if masks:
        with torch.no_grad():
            torch._foreach_mul_([task.parameter(name) for name in masks], list(masks.values()))


def mask_gradients(task: Task, masks: Mapping[str, Tensor]) -> None:
    """Set the gradients of pruned weights to 0, so that momentum does not move them."""
    known = [(task.parameter(name).grad, mask) for name, mask in masks.items()]
    held = [(gradient, mask) for gradient, mask in known if gradient is not None]
    if held:
        torch._foreach_mul_([gradient for gradient, _ in held], [mask for _, mask in held])


def packed(task: Task, masks: Mapping[str, Tensor], moments: Mapping[str, Tensor] | None = None) -> Trained:
    """The task's network with the masks added to its state, as it is kept in the store."""
    state = {n: t.detach().clone() for n, t in task.module.state_dict().items()}
    return Trained(state | {MASK + n: m for n, m in masks.items()}, moments or {})


def unpacked(task: Task, found: Trained) -> Pruned:
    """The pruned network that was ``packed``, on the task's device; its state is loaded into the task's network."""
    state = {n: t.to(task.device) for n, t in found.state.items() if not n.startswith(MASK)}
    masks = {n.removeprefix(MASK): t.to(task.device) for n, t in found.state.items() if n.startswith(MASK)}
    task.module.load_state_dict(state)
    return Pruned(state, masks, {n: t.to(task.device) for n, t in found.moments.items()} or None)


def kept_in_store(
    pruner: Pruner,
    version: int,
    task: Task,
    make: Callable[[Path], Trained],
    *,
    kind: str = "",
    without: frozenset[str] = frozenset(),
) -> Trained:
    """The result of ``make(workdir)``, computed once for these parameters, this network and seed and then taken from
    the store.

    kind: what it is, if not the pruned network. without: names of parameters on which it does not depend.
    """
    name = f"{pruner.name}-{kind}" if kind else pruner.name
    settings = pruner.model_dump(mode="json", exclude=set(without))
    recipe = {name: settings, **recipe_of(task), "version": version}
    return trained(f"{name}-{task.model.name}", recipe, make)


def recipe_of(task: Task) -> dict[str, Any]:
    """What a network that is made of the task's depends on, besides the pruner. Networks in half precision were once
    trained in it; those of then are not found any more."""
    half = any(is_half(p) for p in task.module.parameters())
    return {**task.recipe(), "seed": task.seed, **({"steps": "float32"} if half else {})}


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All entries as one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
