"""Second moments of each layer's inputs: what methods with error feedback need (OBQ, GPTQ; arXiv:2208.11580)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from nqbench.api import Batch, Network, SensitivityForm
from nqbench.api.toolkit.curvature import evaluating, first_samples
from nqbench.api.toolkit.persample import owner
from nqbench_training.grams import Products
from nqbench_training.sensitivities import Sampled


class SecondMoments(Sampled, name="second-moments", paper="arXiv:2208.11580, section 3"):
    """X X^T / N of a layer's input vectors (im2col for convolutions), a matrix per group.

    1/2 tr(E X X^T E^T) / N is half the mean squared error of the layer's output when its weights change by E. A layer
    that the network does not use has zeros.
    """

    form: ClassVar[SensitivityForm] = "second-moments"

    def sense(self, task: Network, names: Sequence[str]) -> Mapping[str, Tensor]:
        layers = {name: owner(task.module, name) for name in names}
        sums = {layer: Products(layer) for layer in layers.values()}
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

    def calibration(self, task: Network) -> Batch:
        """All the samples as one batch."""
        return joined([batch for batch, _ in first_samples(task, self.samples, self.samples)])


class _Seen(Exception):
    """Ends a forward pass of which nothing more is needed."""


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
