"""Layer by layer, in forward order, each seen through the layers that are quantized already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nqbench.api import Batch, Group, QuantizedModel, Task, Training
from nqbench.api.toolkit.curvature import evaluating, first_samples
from nqbench.api.toolkit.persample import owner
from nqbench.api.toolkit.progress import tell
from nqbench_training.correction import corrected
from nqbench_training.grams import Products
from nqbench_training.optimised import finished, install
from nqbench_training.paired_forward import paired_forward
from nqbench_training.second_moments import SecondMoments, inputs_of
from nqbench_training.shared_grid import merged


class Sequential(Training, name="sequential", paper="arXiv:2208.11580, section 5; the order of OBQ and GPTQ"):
    """Quantizes one tensor, puts it into the network, senses again, and goes on with the next.

    It goes layer by layer whatever the granularity: one result for all tensors together cannot be had one tensor at a
    time. In granularity ``global`` results on one and the same grid are put together afterwards. What an earlier
    training returned is quantized anew.
    """

    passes: Literal["one", "each"] = "one"
    """``one``: with second moments, one forward pass of all samples stops at each layer, quantizes it, and goes on
    (their activations are held at once). ``each``: a pass a layer; so too where a layer is used more than once."""
    correction: float = Field(1.0, ge=0, le=1)
    """How far a layer's weights move, before they are quantized, towards those that give the trained network's outputs
    from the inputs that the quantized network gives it: 0 not at all, 1 all the way. Only in one pass, with second
    moments; elsewhere there is none."""
    ridge: float = Field(0.1, gt=0)
    """What keeps the correction from fitting the samples' noise: a share of the second moments' mean diagonal."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        uses = layer_uses(task)
        once = all(count <= 1 for count in uses.values())
        done: dict[str, Group] = {}
        if self.passes == "one" and once and isinstance(task.sensitivity, SecondMoments):
            OnePass(task, self.correction, self.ridge).run(task.sensitivity.calibration(task), done)
        for name in forward_order(task, uses):
            if name not in done:
                tell(f"tensor {len(done) + 1} of {len(task.names)}")
                done[name] = _quantized(task, name, task.sense([name]))
        groups = tuple(done[name] for name in task.names)
        return finished(task, merged(groups) if task.granularity == "global" else groups)


class OnePass:
    """Quantizes each tensor, in place, when the calibration samples reach its layer; with a correction they go through
    the network as it was, too."""

    def __init__(self, task: Task, correction: float, ridge: float) -> None:
        self.task, self.correction, self.ridge = task, correction, ridge
        self.names = {owner(task.module, name): name for name in task.names}

    def run(self, samples: Batch, done: dict[str, Group]) -> None:
        if self.correction > 0:
            paired_forward(self.task, self.names, samples, lambda layer, was, now: self._reached(layer, now, was, done))
            return
        with (
            evaluating(self.task.module),
            torch.no_grad(),
            inputs_of(self.names, lambda layer, now: self._reached(layer, now, None, done)),
        ):
            self.task.predict(samples)

    def _reached(self, layer: nn.Module, now: Tensor, was: Tensor | None, done: dict[str, Group]) -> None:
        name = self.names[layer]
        tell(f"tensor {len(done) + 1} of {len(self.names)}")
        moments = Products(layer)
        moments.add(now)
        weights = None if was is None else {name: self._corrected(layer, was - now, now, moments.mean())}
        done[name] = _quantized(self.task, name, {name: moments.mean()}, weights)

    def _corrected(self, layer: nn.Module, apart: Tensor, seen: Tensor, moments: Tensor) -> Tensor:
        name = self.names[layer]
        shift = Products(layer)
        shift.add(apart, seen)
        weight = self.task.parameter(name).detach()
        nearest = corrected(weight, moments, shift.mean(), self.ridge, self.task.masks.get(name))
        return torch.lerp(weight, nearest, self.correction)


def _quantized(
    task: Task, name: str, sensed: Mapping[str, Tensor] | None, weights: Mapping[str, Tensor] | None = None
) -> Group:
    """The tensor, or what stands in for it, quantized under this sensitivity and put into the network."""
    (group,) = task.quantize(weights, names=[name], sensed=sensed)
    task.assign(task.reconstruct([group]))
    return group


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
