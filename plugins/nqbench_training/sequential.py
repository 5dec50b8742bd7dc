"""Layer by layer, in forward order, each seen through the layers that are quantized already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from nqbench.api import Group, Quantized, QuantizedModel, Task, Training
from nqbench.api.toolkit.curvature import evaluating, first_samples
from nqbench.api.toolkit.persample import owner
from nqbench_training.optimised import finished, install
from nqbench_training.second_moments import Moments, SecondMoments, inputs_of


class Sequential(Training, name="sequential", paper="arXiv:2208.11580, section 5; the order of OBQ and GPTQ"):
    """Quantizes one tensor, puts it into the network, senses again, and goes on with the next.

    It goes layer by layer whatever the scope: one result for all tensors together cannot be had one tensor at a time.
    In scope ``global`` results on one and the same grid are put together afterwards. What an earlier training returned
    is quantized anew.
    """

    passes: Literal["one", "each"] = "one"
    """``one``: with second moments, one forward pass of all samples stops at each layer, quantizes it, and goes on
    (their activations are held at once). ``each``: a pass a layer; so too where a layer is used more than once."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        uses = layer_uses(task)
        once = all(count <= 1 for count in uses.values())
        done: dict[str, Group] = {}
        if self.passes == "one" and once and isinstance(task.sensitivity, SecondMoments):
            self._one_pass(task, task.sensitivity, done)
        for name in forward_order(task, uses):
            if name not in done:
                done[name] = _quantized(task, name, None)
        groups = tuple(done[name] for name in task.names)
        return finished(task, merged(groups) if task.scope == "global" else groups)

    def _one_pass(self, task: Task, sensitivity: SecondMoments, done: dict[str, Group]) -> None:
        """Quantize each tensor when the calibration samples reach its layer, in place."""
        names = {owner(task.module, name): name for name in task.names}

        def reached(layer: nn.Module, x: Tensor) -> None:
            moments = Moments(layer)
            moments.add(x)
            done[names[layer]] = _quantized(task, names[layer], moments.mean())

        with evaluating(task.module), torch.no_grad(), inputs_of(names, reached):
            task.predict(sensitivity.calibration(task))


def _quantized(task: Task, name: str, moments: Tensor | None) -> Group:
    """The tensor quantized with these second moments, or with what is sensed now, and put into the network."""
    sensed = task.sense([name]) if moments is None else {name: moments}
    (group,) = task.quantize(names=[name], sensed=sensed)
    task.assign(task.reconstruct([group]))
    return group


def merged(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """One group for all tensors where every result is on one and the same grid: one step and one alphabet in the file.

    Groups without a weight left, of any form, join in.
    """
    filled = [group.quantized for group in groups if group.quantized.n]
    if not filled or len({_grid(q) for q in filled}) > 1 or _grid(filled[0]) is None:
        return groups
    offsets = [float(q.side["offset"]) for q in filled]
    low, high = min(offsets), max(at + q.alphabet for at, q in zip(offsets, filled, strict=True))
    shifted = [q.symbols + round(at - low) for at, q in zip(offsets, filled, strict=True)]
    weights = sum(q.n for q in filled)
    figures = {
        key: sum(q.statistics[key] * q.n for q in filled) / weights
        for key in filled[0].statistics
        if all(key in q.statistics for q in filled)
    }
    whole = replace(
        filled[0],
        symbols=torch.cat(shifted),
        alphabet=round(high - low),
        sizes=tuple(size for group in groups for size in group.quantized.sizes),
        side={"offset": low if low % 1 else round(low)},
        statistics=figures,
    )
    return (Group(tuple(name for group in groups for name in group.names), whole),)


def _grid(q: Quantized) -> tuple[float, float] | None:
    """(step, place of zero in the cell) of a grid with one step and nothing else to it; None for any other result."""
    step = q.parameters.get("step")
    if q.form != "grid" or step is None or step.numel() != 1 or len(q.parameters) > 1 or len(q.side) > 1 or q.held:
        return None
    return float(step), float(q.side["offset"]) % 1


def forward_order(task: Task, uses: Mapping[str, int] | None = None) -> list[str]:
    """The tensors in the order in which a forward pass first uses their layers; unused ones last."""
    used = list(layer_uses(task) if uses is None else uses)
    return sorted(task.names, key=lambda name: used.index(name) if name in used else len(used))


def layer_uses(task: Task) -> dict[str, int]:
    """How often a forward pass calls each tensor's layer, in the order of their first calls."""
    calls: Counter[nn.Module] = Counter()
    owners = {name: task.layer(name) for name in task.names}
    with evaluating(task.module), torch.no_grad(), inputs_of(owners.values(), lambda layer, _: calls.update([layer])):
        for batch, _ in first_samples(task, 2):
            task.predict(batch)
    return {name: calls[layer] for layer in calls for name in task.names if owners[name] is layer}
