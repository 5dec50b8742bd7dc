"""Second moments of each layer's inputs: what methods with error feedback need (OBQ, GPTQ; arXiv:2208.11580)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nqbench.api import SensitivityForm, Task
from nqbench.api.toolkit.curvature import evaluating, first_samples
from nqbench.api.toolkit.persample import columns, owner
from nqbench_training.sensitivities import Sampled


class SecondMoments(Sampled, name="second-moments", paper="arXiv:2208.11580, section 3"):
    """X X^T / N of a layer's input vectors (im2col for convolutions), a matrix per group.

    1/2 tr(E X X^T E^T) / N is half the mean squared error of the layer's output when its weights change by E.
    """

    form: ClassVar[SensitivityForm] = "second-moments"

    def sense(self, task: Task, names: Sequence[str]) -> Mapping[str, Tensor]:
        layers = {name: owner(task.module, name) for name in names}
        totals: dict[nn.Module, tuple[Tensor, int]] = {}

        def add(layer: nn.Module, inputs: tuple[Any, ...], _: Tensor) -> None:
            x = columns(layer, inputs[0].detach())
            total, n = totals.get(layer, (None, 0))
            grams = gram(x, int(getattr(layer, "groups", 1)))
            totals[layer] = (grams if total is None else total + grams, n + x.shape[0] * x.shape[2])

        handles = [layer.register_forward_hook(add) for layer in {id(v): v for v in layers.values()}.values()]
        try:
            with evaluating(task.module), torch.no_grad():
                for batch, _ in first_samples(task, self.samples):
                    task.predict(batch)
        finally:
            for handle in handles:
                handle.remove()
        return {name: (totals[layer][0] / totals[layer][1]).float() for name, layer in layers.items()}


def gram(x: Tensor, groups: int) -> Tensor:
    """(groups, m, m): the sum over samples and places of x x^T; x: (B, groups * m, L)."""
    count, wide, places = x.shape
    split = x.reshape(count, groups, wide // groups, places).permute(1, 2, 0, 3).reshape(groups, wide // groups, -1)
    return torch.bmm(split, split.transpose(1, 2))
