"""Layer by layer, in forward order, each seen through the layers that are quantized already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor

from nqbench.api import Batch, Group, Network, QuantizedModel, Task, Training
from nqbench.api.toolkit.curvature import evaluating, first_samples
from nqbench.api.toolkit.progress import tell
from nqbench.api.toolkit.uses import Use, watching
from nqbench_training.correction import moved_towards
from nqbench_training.grams import Products
from nqbench_training.optimised import finished, install
from nqbench_training.paired_forward import paired_forward, splits
from nqbench_training.second_moments import SecondMoments
from nqbench_training.shared_grid import merged


class Sequential(Training, name="sequential", paper="arXiv:2208.11580, section 5; the order of OBQ and GPTQ"):
    """Quantizes one tensor, puts it into the network, senses again, and goes on with the next.

    It goes layer by layer whatever the granularity: one result for all tensors together cannot be had one tensor at a
    time. In granularity ``global`` results on one and the same grid are put together afterwards. What an earlier
    training returned is quantized anew.
    """

    passes: Literal["one", "each"] = "one"
    """``one``: with second moments, one forward pass of all samples stops at each layer, quantizes it, and goes on
    (their activations are held at once); a weight that is used more than once takes a pass of its own. ``each``: a pass
    a layer."""
    correction: float = Field(1.0, ge=0, le=1)
    """How far a layer's weights move, before they are quantized, towards those that give the trained network's outputs
    from the inputs that the quantized network gives it: 0 not at all, 1 all the way. Only in one pass, with second
    moments, and where samples come first in every layer's input; elsewhere there is none."""
    ridge: float = Field(0.1, gt=0)
    """What keeps the correction from fitting the samples' noise: a share of the second moments' mean diagonal."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        uses = layer_uses(task)
        done: dict[str, Group] = {}
        if self.passes == "one" and isinstance(task.sensitivity, SecondMoments):
            OnePass(task, uses, self.correction, self.ridge).run(task.sensitivity.calibration(task), done)
        for name in forward_order(task, uses):
            if name not in done:
                tell(f"tensor {len(done) + 1} of {len(task.names)}")
                done[name] = _quantized(task, name, task.sense([name]))
        groups = tuple(done[name] for name in task.names)
        return finished(task, merged(groups) if task.granularity == "global" else groups)


class OnePass:
    """Quantizes each tensor, in place, when the calibration samples reach it; with a correction they go through the
    network as it was, too."""

    def __init__(self, task: Task, uses: Mapping[str, int], correction: float, ridge: float) -> None:
        self.task, self.uses, self.correction, self.ridge = task, uses, correction, ridge

    def run(self, samples: Batch, done: dict[str, Group]) -> None:
        if self.correction > 0 and splits(self.task, samples):
            paired_forward(self.task, samples, lambda use, was, now: self._reached(use, now, was, done))
            return
        with (
            evaluating(self.task.module),
            watching(self.task.module, self.task.names, lambda use: self._reached(use, use.x, None, done)),
        ):
            self.task.predict(samples)

    def _reached(self, use: Use, now: Tensor, was: Tensor | None, done: dict[str, Group]) -> None:
        name, task = use.name, self.task
        if name in done:
            return
        tell(f"tensor {len(done) + 1} of {len(task.names)}")
        if self.uses.get(name) != 1:
            # this is not all that it is multiplied with
            done[name] = _quantized(task, name, task.sense([name]))
            return
        products = Products(use.geometry, task.parameter(name).shape)
        products.add(now)
        moments = products.moments()
        weights = None
        if was is not None and not moments.diagonal:
            shift = Products(use.geometry, products.shape)
            shift.add(was - now, now)
            weight = task.parameter(name).detach()
            mask = task.masks.get(name)
            weights = {name: moved_towards(weight, moments, shift.mean(), self.ridge, self.correction, mask)}
        done[name] = _quantized(task, name, {name: moments.packed()}, weights)


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


def layer_uses(task: Network) -> dict[str, int]:
    """How often a forward pass uses each tensor, in the order of their first uses; those that it does not are left
    out."""
    calls: Counter[str] = Counter()
    with evaluating(task.module), watching(task.module, task.names, lambda use: calls.update([use.name])):
        for batch, _ in first_samples(task, 2):
            task.predict(batch)
    return dict(calls)
