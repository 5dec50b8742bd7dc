"""Two networks in one forward pass: each layer as it was, and as it has become, on the same samples.

Samples go through twice, side by side in one batch. The first half meets every layer as it was when the pass reached
it, the second half as the visitor left it; what the two halves bring to a layer are its inputs in the network as it
was and in the network as it has become so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from nqbench.api import Batch, Network
from nqbench.api.toolkit.curvature import evaluating
from nqbench_training.second_moments import inputs_of, joined

Visit = Callable[[nn.Module, Tensor, Tensor], None]
"""(layer, its inputs as they were, its inputs as they are now): may change the layer's weights in place."""


def paired_forward(task: Network, layers: Iterable[nn.Module], samples: Batch, visit: Visit) -> None:
    """Visit each layer, before its only call, in the order of the forward pass."""
    layers = list(layers)
    was: dict[nn.Module, Tensor] = {}

    def reached(layer: nn.Module, x: Tensor) -> None:
        before, now = torch.tensor_split(x, 2)
        was[layer] = layer.forward(before)
        visit(layer, before, now)

    def left(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        before = was.pop(layer)
        return torch.cat([before, output[len(before) :]])

    handles = [layer.register_forward_hook(left) for layer in layers]
    try:
        with evaluating(task.module), torch.no_grad(), inputs_of(layers, reached):
            task.predict(joined([samples, samples]))
    finally:
        for handle in handles:
            handle.remove()
