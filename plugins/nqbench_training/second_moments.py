"""Second moments of each layer's inputs: what methods with error feedback need (OBQ, GPTQ; arXiv:2208.11580)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from nqbench.api import Batch, SensitivityForm, Task
from nqbench.api.toolkit.curvature import BATCH, evaluating, first_samples
from nqbench.api.toolkit.persample import columns, owner
from nqbench_training.sensitivities import Sampled

_LONG = 48  # places of a sample from which a product per sample is faster than a copy of all


class SecondMoments(Sampled, name="second-moments", paper="arXiv:2208.11580, section 3"):
    """X X^T / N of a layer's input vectors (im2col for convolutions), a matrix per group.

    1/2 tr(E X X^T E^T) / N is half the mean squared error of the layer's output when its weights change by E. A layer
    that the network does not use has zeros.
    """

    form: ClassVar[SensitivityForm] = "second-moments"

    def sense(self, task: Task, names: Sequence[str]) -> Mapping[str, Tensor]:
        layers = {name: owner(task.module, name) for name in names}
        sums = {layer: Moments(layer) for layer in layers.values()}
        calls: Counter[nn.Module] = Counter()
        expected: Counter[nn.Module] | None = None

        def add(layer: nn.Module, x: Tensor) -> None:
            sums[layer].add(x)
            calls[layer] += 1
            if calls == expected:
                raise _Seen

        with evaluating(task.module), torch.no_grad(), inputs_of(layers.values(), add):
            for batch, _ in first_samples(task, self.samples):
                calls.clear()
                try:
                    task.predict(batch)
                except _Seen:
                    continue
                # the first batch went all the way: every pass makes as many calls
                expected = calls.copy()
        return {name: sums[layer].mean() for name, layer in layers.items()}

    def calibration(self, task: Task) -> Batch:
        """All the samples as one batch."""
        return joined([batch for batch, _ in first_samples(task, self.samples, self.samples)])


class _Seen(Exception):
    """Ends a forward pass of which nothing more is needed."""


class Moments:
    """The sum of x x^T over the input vectors of a layer, and their number."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.total: Tensor | None = None
        self.count = 0

    def add(self, x: Tensor) -> None:
        """x: a batch of the layer's inputs; it is unfolded a few samples at a time."""
        for few in torch.split(x.detach(), BATCH):
            vectors = columns(self.layer, few)
            part = gram(vectors, int(getattr(self.layer, "groups", 1)))
            self.total = part if self.total is None else self.total + part
            self.count += vectors.shape[0] * vectors.shape[2]

    def mean(self) -> Tensor:
        """(groups, m, m) float32; zeros where nothing was added."""
        if self.total is not None:
            return (self.total / self.count).float()
        weight = self.layer.get_parameter("weight")
        m = weight.shape[1:].numel()
        return torch.zeros(int(getattr(self.layer, "groups", 1)), m, m, device=weight.device)


@contextmanager
def inputs_of(layers: Iterable[nn.Module], seen: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Inside the block, ``seen(layer, x)`` is called before each call of one of the layers."""
    handles = [
        layer.register_forward_pre_hook(lambda layer, inputs: seen(layer, inputs[0]))
        for layer in {id(layer): layer for layer in layers}.values()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gram(x: Tensor, groups: int) -> Tensor:
    """(groups, m, m): the sum over samples and places of x x^T; x: (B, groups * m, L)."""
    count, wide, places = x.shape
    if groups == 1 and places >= _LONG:
        total = x.new_zeros(wide, wide)
        for one in x:
            total.addmm_(one, one.T)
        return total[None]
    split = x.reshape(count, groups, wide // groups, places).permute(1, 2, 0, 3).reshape(groups, wide // groups, -1)
    return torch.bmm(split, split.transpose(1, 2))


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one."""
    first = batches[0]
    if len(batches) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(batches))
    if isinstance(first, Mapping):
        return {key: joined([batch[key] for batch in batches]) for key in first}
    return type(first)(joined(parts) for parts in zip(*batches, strict=True))
