"""Quantization layer by layer, in forward order, each with inputs from the layers that are already quantized.

Before it is quantized, a layer's weight w is moved towards w' = w + w E[(x - x') x'^T] (E[x' x'^T] + ridge I)^-1, which
best reproduces the trained network's outputs w x from the inputs x' in the quantized network
(``nqbench_training.correction``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from nqbench.api import BadInput, Batch, Group, Moments, Network, QuantizedModel, Source, Task, Training
from nqbench.api.modules import evaluating
from nqbench.api.toolkit.fallback import plain_grid
from nqbench.api.toolkit.progress import tell
from nqbench.api.toolkit.samples import first_samples
from nqbench.api.toolkit.uses import Use, watching
from nqbench_training.correction import moved_towards
from nqbench_training.grams import Missing, Products, spacing
from nqbench_training.optimised import finished, install
from nqbench_training.paired_forward import paired_forward, splits
from nqbench_training.passes import Ending
from nqbench_training.second_moments import SecondMoments, mean_diagonal
from nqbench_training.shared_grid import merged


class Sequential(Training, name="sequential", paper="arXiv:2208.11580, section 5; the order of OBQ and GPTQ"):
    """Quantizes one tensor, puts it into the network, estimates the sensitivity again, and goes on to the next.

    Tensors are quantized one by one whatever the granularity, since a joint result for all tensors cannot be obtained
    one tensor at a time. With the granularity ``global``, results on the same grid are merged afterwards. The result of
    an earlier training in the list is quantized again.
    """

    passes: Literal["one", "each"] = "one"
    """``one``: with second moments, a single forward pass of all samples quantizes each layer as it reaches it (all
    their activations are in memory at once, see ``memory``); a weight that is used more than once takes an additional
    pass. ``each``: one pass per layer."""
    memory: float = Field(4096, gt=0)
    """MiB that the activations of one pass may take. If all samples would take more, the samples are passed in parts,
    once for each of ``blocks`` blocks of consecutive tensors, whose second moments are then in memory at once."""
    enough: int | None = Field(None, ge=1)
    """Smallest number of samples that suffices if all would exceed ``memory``: if at least this many fit, as many as
    fit are used in one pass, and the others are left out. None: all are used."""
    blocks: int = Field(32, ge=1)
    """Number of blocks of tensors if samples are passed in parts. With fewer blocks there are fewer passes, but the
    inputs of a tensor reflect fewer of the tensors quantized just before it."""
    correction: float = Field(1.0, ge=0, le=1)
    """How far a layer's weights are moved, before they are quantized, towards those that best reproduce the trained
    network's outputs from the layer's inputs in the quantized network: 0 not at all, 1 all the way. Applied only in one
    pass, with second moments, and if the first axis of every layer's input is that of the samples."""
    fallback: bool = False
    """Whether a tensor that the quantizer cannot handle is rounded to a uniform grid (with a note in the record)
    instead of making the trial fail."""
    ridge: float = Field(0.1, gt=0)
    """Regularization (ridge) of the correction against sampling noise, as a share of the mean diagonal of the second
    moments."""
    columns: int | None = Field(64, ge=1)
    """Second moments of a convolution are averaged over at most this many input vectors per row of their matrix, from
    evenly spaced samples, at least 128 of them (16 for large images); None: over all vectors. On large images a
    convolution has thousands of times as many input vectors as the matrix has rows, and their products take most of the
    time."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        if start is not None:
            install(task, start)
        uses, bytes_each = watched(task)
        each = Each(task, self.fallback)
        if self.passes == "one" and isinstance(task.sensitivity, SecondMoments):
            wanted = task.sensitivity.taken(task, task.names)
            fitting = max(1, int(self.memory * 2**20 / max(1, bytes_each)))
            samples = None
            if fitting >= min(wanted, self.enough or wanted):
                fewer = task.sensitivity.model_copy(update={"samples": min(wanted, fitting), "positions": None})
                samples = fewer.calibration(task)
            if samples is not None:
                OnePass(each, uses, self).run(samples)
            else:
                InParts(each, uses, self, fitting).run(wanted)
        for name in forward_order(task, uses):
            each.sensed_anew(name)
        groups = tuple(each.done[name] for name in task.names)
        return finished(task, merged(groups) if task.granularity == "global" else groups, each.notes)


_LIVING = 3
"""Number of activations that are in memory at once in a forward pass, approximately."""


class Each:
    """Quantizes one tensor after another and puts each into the network immediately. done: the results. notes: for
    tensors that were rounded to a plain grid, the reason."""

    def __init__(self, task: Task, fallback: bool) -> None:
        self.task, self.fallback = task, fallback
        self.done: dict[str, Group] = {}
        self.notes: dict[str, str] = {}
        scaled = isinstance(task.sensitivity, SecondMoments) and task.sensitivity.outputs > 0
        # a sensitivity is computed when it is read first: not inside a forward pass that is watched, without gradients
        sensed = dict(task.sensed) if scaled and task.sensed is not None else {}
        self.before = {name: Moments.of(packed) for name, packed in sensed.items()}

    def sensed_anew(self, name: str) -> None:
        """Quantize a tensor, unless it is done, with the sensitivity of the current network."""
        if name in self.done:
            return
        tell(f"tensor {len(self.done) + 1} of {len(self.task.names)}")
        plugin = self.task.sensitivity
        if name in self.before and not self.done:
            # nothing has changed: a language model's embedding, which is its output layer as well
            self.quantize(name, lambda: {name: self.before[name].packed()})
        elif isinstance(plugin, SecondMoments):
            inputs = plugin.of_inputs
            self.quantize(name, lambda: self.known(name, Moments.of(inputs(self.task, [name])[name])))
        else:
            # moments that training kept are those of the network that it ended with
            self.quantize(name, lambda: replace(self.task, moments=None).sense([name]))

    def known(self, name: str, moments: Moments) -> dict[str, Tensor]:
        """The sensitivity of one tensor, by its second moments in the network as it is now. Where the trial's moments
        are in the unit of the loss, these get the mean diagonal that the tensor had in the untouched network, and the
        weights of its outputs."""
        before = self.before.get(name)
        if before is None:
            return {name: moments.packed()}
        if before.diagonal and before.layout == 1:
            return {name: before.packed()}  # what is looked up does not depend on what was quantized before it
        if before.outputs is None:  # not in the unit of the loss
            return {name: moments.packed()}
        now, then = mean_diagonal(moments.gram), mean_diagonal(before.gram)
        scaled = moments.gram * (then / now if now > 0 else 1.0)
        return {name: replace(moments, gram=scaled, outputs=before.outputs).packed()}

    def quantize(
        self,
        name: str,
        sensed: Callable[[], Mapping[str, Tensor] | None],
        weights: Callable[[], Mapping[str, Tensor] | None] = lambda: None,
    ) -> None:
        """Quantize the tensor, or a replacement for it, under a sensitivity. Both are computed inside the handler of
        failures."""
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
    """Quantizes each tensor when the calibration samples reach it; with a correction, they are also passed through the
    original network."""

    def __init__(self, each: Each, uses: Mapping[str, int], how: Sequential) -> None:
        self.each, self.task, self.uses, self.how = each, each.task, uses, how
        self.mask: Tensor | None = None
        self.ending = Ending()
        self.last: _Inputs | None = None

    def run(self, samples: Batch) -> None:
        task = self.task
        self.mask = task.attention_mask(samples)
        with self.ending:
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
            # the rest is not needed; a language model's logits for all samples would be the largest activation
            self.ending.now()
        if name in self.each.done:
            return
        if self.uses.get(name) != 1:
            # the weight has further uses
            self.each.sensed_anew(name)
            return
        tell(f"tensor {len(self.each.done) + 1} of {len(task.names)}")
        if self.last is None or not self.last.are_those_of(use, now, was):
            every = spacing(use.geometry, now, self.how.columns)
            some = use.without_padding(now, self.mask)[::every]
            some_was = None if was is None else use.without_padding(was, self.mask)[::every]
            self.last = _Inputs(use, (now, was), (some, some_was), task.parameter(name).shape)
        inputs = self.last

        def moved() -> Mapping[str, Tensor] | None:
            if was is None or inputs.moments.diagonal:
                return None
            return corrected(task, name, inputs.moments, inputs.missing(task.parameter(name)), self.how)

        self.each.quantize(name, lambda: self.each.known(name, inputs.moments), moved)


class _Inputs:
    """The inputs of a use, now and in the original network, and their products; of several weights that multiply the
    same inputs (queries, keys and values of attention), these are computed once."""

    def __init__(
        self, use: Use, whole: tuple[Tensor, Tensor | None], taken: tuple[Tensor, Tensor | None], shape: torch.Size
    ) -> None:
        """whole: the inputs now and in the original network. taken: what of them is multiplied. shape: the weight's."""
        self.use, self.whole = use, whole  # held, so that no other tensor gets their memory
        self.versions = self._versions(*whole)
        self.now, self.was = taken
        products = Products(use.geometry, shape)
        products.add(self.now)
        self.moments = products.moments()
        self.shift: Products | None = None

    @staticmethod
    def _versions(now: Tensor, was: Tensor | None) -> tuple[object, ...]:
        return tuple((x.data_ptr(), x.shape, x.stride(), x._version) for x in (now, was) if x is not None)

    def are_those_of(self, use: Use, now: Tensor, was: Tensor | None) -> bool:
        alike = use.geometry.kind == "product" and use.geometry == self.use.geometry
        return alike and self._versions(now, was) == self.versions

    def missing(self, weight: Tensor) -> Missing:
        assert self.was is not None
        missing = Missing(self.use.geometry, weight, self.shift)
        if self.shift is None:
            missing.add(self.was, self.now)
            self.shift = missing.shift if self.use.geometry.kind == "product" else None
        return missing


class InParts:
    """Quantizes block after block of consecutive tensors. For each block, the samples are passed a few at a time, up to
    its last tensor, and the second moments of its tensors are summed. So neither the activations of all samples nor the
    second moments of all tensors are in memory at once; the price is that each block repeats the forward pass through
    the layers before it."""

    def __init__(self, each: Each, uses: Mapping[str, int], how: Sequential, at_once: int) -> None:
        """at_once: samples per pass."""
        self.each, self.task, self.uses, self.how, self.at_once = each, each.task, uses, how, at_once
        self.trained = each.task.weights() if how.correction > 0 else {}

    def run(self, samples: int) -> None:
        # there may be fewer than requested
        samples = sum(size for _, size in first_samples(self.task, samples, self.at_once))
        once = [name for name in forward_order(self.task, self.uses) if self.uses.get(name) == 1]
        # tensors with several uses are quantized at their first use, as in one pass
        for name in forward_order(self.task, self.uses):
            if name in self.each.done:
                continue
            if name not in once:
                self.each.sensed_anew(name)
                continue
            left = [other for other in once if other not in self.each.done]
            self._block(left[: -(-len(once) // self.how.blocks)], samples)

    def _block(self, names: list[str], samples: int) -> None:
        sums: dict[str, Products] = {}
        lacking: dict[str, Missing] = {}
        paired = self.how.correction > 0
        mask: Tensor | None = None
        ending = Ending()

        def reached(use: Use, now: Tensor, was: Tensor | None) -> None:
            if use.name not in names:
                return
            every = spacing(use.geometry, now, self.how.columns, samples)
            now = use.without_padding(now, mask)[::every]
            was = None if was is None else use.without_padding(was, mask)[::every]
            weight = self.task.parameter(use.name)
            sums.setdefault(use.name, Products(use.geometry, weight.shape)).add(now)
            if was is not None and not sums[use.name].moments().diagonal:
                lacking.setdefault(use.name, Missing(use.geometry, weight)).add(was, now)
            if use.name == names[-1]:
                ending.now()

        for done, (batch, _) in enumerate(first_samples(self.task, samples, self.at_once)):
            tell(f"tensor {len(self.each.done) + 1} of {len(self.task.names)}: samples, part {done + 1}")
            mask = self.task.attention_mask(batch)
            if done == 0:
                paired = paired and splits(self.task, batch)
            with ending:
                if paired:
                    visit = lambda use, was, now: reached(use, now, was)  # noqa: E731
                    paired_forward(self.task, batch, visit, self.trained)
                else:
                    looking = watching(self.task.module, self.task.names, lambda use: reached(use, use.x, None))
                    with evaluating(self.task.module), looking:
                        self.task.predict(batch)
        for name in names:
            tell(f"tensor {len(self.each.done) + 1} of {len(self.task.names)}")
            if name not in sums:  # not reached by this path through the network: sensed separately
                self.each.sensed_anew(name)
                continue
            self._quantize(name, sums.pop(name).moments(), lacking.pop(name, None))

    def _quantize(self, name: str, moments: Moments, missing: Missing | None) -> None:
        self.each.quantize(
            name,
            lambda: self.each.known(name, moments),
            lambda: corrected(self.task, name, moments, missing, self.how),
        )


def corrected(
    task: Task, name: str, moments: Moments, missing: Missing | None, how: Sequential
) -> Mapping[str, Tensor] | None:
    """The weights, moved towards those that best reproduce the trained network's outputs."""
    if missing is None:
        return None
    weight, mask = task.parameter(name).detach(), task.masks.get(name)
    return {name: moved_towards(weight, moments, missing.mean(moments), how.ridge, how.correction, mask)}


def forward_order(task: Task, uses: Mapping[str, int] | None = None) -> list[str]:
    """The tensors in the order in which a forward pass first uses their layers; unused ones last."""
    used = list(watched(task)[0] if uses is None else uses)
    return sorted(task.names, key=lambda name: used.index(name) if name in used else len(used))


def watched(task: Network) -> tuple[dict[str, int], int]:
    """The number of uses of each tensor in a forward pass, in the order of first uses, without unused tensors; and
    approximately how many bytes the activations of one sample take, including those of the trained network that is
    evaluated beside it."""
    calls: Counter[str] = Counter()
    largest = 0

    def see(use: Use) -> None:
        nonlocal largest
        calls[use.name] += 1
        largest = max(largest, use.x.numel() * use.x.element_size())

    samples = 0
    with evaluating(task.module), watching(task.module, task.names, see):
        for batch, size in first_samples(task, 2):
            task.predict(batch)
            samples += size
    return dict(calls), 2 * _LIVING * largest // max(1, samples)


def layer_uses(task: Network) -> dict[str, int]:
    """The number of uses of each tensor in a forward pass; see ``watched``."""
    return watched(task)[0]
