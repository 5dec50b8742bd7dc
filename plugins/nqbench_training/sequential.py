"""Layer by layer, in forward order, each seen through the layers that are quantized already.

What a layer's weights move to, to make up for the errors before it, is in ``nqbench_training.correction``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal

from pydantic import Field
from torch import Tensor

from nqbench.api import BadInput, Batch, Group, Network, QuantizedModel, Source, Task, Training
from nqbench.api.toolkit.curvature import evaluating, first_samples
from nqbench.api.toolkit.fallback import plain_grid
from nqbench.api.toolkit.progress import tell
from nqbench.api.toolkit.uses import Use, watching
from nqbench_training.correction import moved_towards
from nqbench_training.grams import Products, spacing
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
    fallback: bool = False
    """Whether a tensor that the quantizer cannot handle is rounded to a uniform grid (the record says so) instead of
    making the trial fail."""
    ridge: float = Field(0.1, gt=0)
    """Regularization of the correction against noise of the samples, as a share of the mean diagonal of the second
    moments."""
    columns: int | None = Field(64, ge=1)
    """A convolution's second moments are means over at most so many input vectors for each row of their matrix, from
    samples spread evenly over all, 128 at least; None: over all. On large images a convolution sees thousands of times
    as many vectors as the matrix has rows, and their products are most of the time. Only in one pass."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        uses = layer_uses(task)
        each = Each(task, self.fallback)
        if self.passes == "one" and isinstance(task.sensitivity, SecondMoments):
            OnePass(each, uses, self).run(task.sensitivity.calibration(task))
        for name in forward_order(task, uses):
            each.sensed_anew(name)
        groups = tuple(each.done[name] for name in task.names)
        return finished(task, merged(groups) if task.granularity == "global" else groups, each.notes)


class Each:
    """Quantizes one tensor after another, each put into the network at once. done: the results. notes: tensors that
    went to a plain grid, and why."""

    def __init__(self, task: Task, fallback: bool) -> None:
        self.task, self.fallback = task, fallback
        self.done: dict[str, Group] = {}
        self.notes: dict[str, str] = {}

    def sensed_anew(self, name: str) -> None:
        """Quantize a tensor, if it is not done, under a sensitivity of the network as it stands."""
        if name in self.done:
            return
        tell(f"tensor {len(self.done) + 1} of {len(self.task.names)}")
        self.quantize(name, lambda: self.task.sense([name]))

    def quantize(
        self,
        name: str,
        sensed: Callable[[], Mapping[str, Tensor] | None],
        weights: Callable[[], Mapping[str, Tensor] | None] = lambda: None,
    ) -> None:
        """The tensor, or what stands in for it, under a sensitivity, both worked out inside, where they may fail."""
        try:
            (group,) = self.task.quantize(weights(), names=[name], sensed=sensed())
        except (BadInput, RuntimeError, MemoryError, ArithmeticError) as error:
            if not self.fallback:
                raise
            self.notes[name] = f"rounded to a plain grid: {' '.join(str(error).split())[:200]}"
            group = Group((name,), plain_grid(Source(self.task.kept(name, self.task.parameter(name)))))
        self.done[name] = group
        self.task.assign(self.task.reconstruct([group]))


class OnePass:
    """Quantizes each tensor when the calibration samples reach it; with a correction they go through the network as it
    was, too."""

    def __init__(self, each: Each, uses: Mapping[str, int], how: Sequential) -> None:
        self.each, self.task, self.uses, self.how = each, each.task, uses, how

    def run(self, samples: Batch) -> None:
        task = self.task
        with suppress(_AllDone):
            if self.how.correction > 0 and splits(task, samples):
                paired_forward(task, samples, lambda use, was, now: self._reached(use, now, was))
                return
            with (
                evaluating(task.module),
                watching(task.module, task.names, lambda use: self._reached(use, use.x, None)),
            ):
                task.predict(samples)

    def _reached(self, use: Use, now: Tensor, was: Tensor | None) -> None:
        name, task = use.name, self.task
        if len(self.each.done) == len(task.names):
            # what is left, a language model's logits of all samples, would be the largest of all
            raise _AllDone
        if name in self.each.done:
            return
        if self.uses.get(name) != 1:
            # this is not all that it is multiplied with
            self.each.sensed_anew(name)
            return
        tell(f"tensor {len(self.each.done) + 1} of {len(task.names)}")
        products = Products(use.geometry, task.parameter(name).shape)
        every = spacing(use.geometry, now, self.how.columns)
        now, was = now[::every], None if was is None else was[::every]
        products.add(now)
        moments = products.moments()

        def corrected() -> Mapping[str, Tensor] | None:
            if was is None or moments.diagonal:
                return None
            shift = Products(use.geometry, products.shape)
            shift.add(was - now, now)
            weight, mask = task.parameter(name).detach(), task.masks.get(name)
            return {name: moved_towards(weight, moments, shift.mean(), self.how.ridge, self.how.correction, mask)}

        self.each.quantize(name, lambda: {name: moments.packed()}, corrected)


class _AllDone(Exception):
    """Ends a forward pass of which nothing more is needed."""


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
