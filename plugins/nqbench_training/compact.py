"""Layers that compute only what is left of them: outputs that are cut are 0, inputs that are always 0 are passed over.

The network computes the same up to the rounding of sums, faster in proportion to its size. Weights that are skipped get
the gradient 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nqbench.api import Batch, Network
from nqbench.api.modules import evaluating, hooked
from nqbench.api.toolkit.optimise import seeded
from nqbench_training.gaussian_weights import is_local

_EXAMPLES = 256


@dataclass(frozen=True, eq=False)
class Live:
    """The remaining part of a layer: ``rows``, indices of outputs, and ``columns``, indices of inputs (or channels)."""

    rows: Tensor
    columns: Tensor

    def over(self, shape: torch.Size) -> Tensor:
        """Bool of the shape of a weight (outputs, inputs, ...) or a bias (outputs,): True in the remaining part."""
        found = torch.zeros(shape, dtype=torch.bool, device=self.rows.device)
        if len(shape) == 1:
            found[self.rows] = True
        else:
            found[self.rows[:, None], self.columns[None]] = True
        return found


def can_be_compact(layer: nn.Module) -> bool:
    """Whether the layer is a linear layer or a convolution without groups, and computes as such."""
    return is_local(layer) and getattr(layer, "groups", 1) == 1


def live_parts(network: Network, rows: Mapping[str, Tensor]) -> dict[str, Live]:
    """name -> the remaining part of each layer that can be compact, if of some layers only the outputs ``rows`` (bool
    by name) remain.

    Which inputs are then always 0 is found by a forward pass in which each layer outputs noise, and 0 for the outputs
    that are cut: an input that is 0 in all of 256 examples, after activations, pooling and reshaping, is always 0.
    """
    layers = {n: network.layer(n) for n in network.names if n.endswith(".weight") and can_be_compact(network.layer(n))}
    seen: dict[str, Tensor] = {}
    kept = {n: rows.get(n, torch.ones(network.parameter(n).shape[0]).bool()).to(network.device) for n in layers}

    def noise(name: str) -> Callable[..., Tensor]:
        def hook(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            axis = _axis(layer, out)
            return torch.randn_like(out) * kept[name].reshape(-1, *[1] * (-axis - 1))

        return hook

    def look(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0]
            nonzero = (x != 0).movedim(_axis(layer, x), -1).flatten(0, -2).any(0)
            seen[name] = seen[name] | nonzero if name in seen else nonzero

        return hook

    handles = [layer.register_forward_hook(noise(name)) for name, layer in layers.items()]
    handles += [layer.register_forward_pre_hook(look(name)) for name, layer in layers.items()]
    with hooked(handles), seeded(0), evaluating(network.module), torch.no_grad():
        network.predict(_noise_for(next(iter(network.batches(batch_size=_EXAMPLES)))))
    for name in layers:  # one that the network does not use
        seen.setdefault(name, kept[name].new_ones(network.parameter(name).shape[1]))
    return {n: Live(kept[n].nonzero()[:, 0], seen[n].nonzero()[:, 0]) for n in layers}


def masked_parts(network: Network) -> dict[str, Live]:
    """name -> the remaining part of each layer of which masks leave at most half: without outputs that have neither
    weights nor a bias, and without inputs that no weight multiplies. Outputs are the same, whatever the inputs."""
    found = {}
    for name in network.masks:
        if not name.endswith(".weight") or not can_be_compact(network.layer(name)):
            continue
        mask = network.masks[name]
        used = mask.reshape(*mask.shape[:2], -1).any(2)
        rows, columns = used.any(1), used.any(0)
        if isinstance(network.layer(name).bias, Tensor):
            biases = network.masks.get(name.removesuffix("weight") + "bias")
            rows = torch.ones_like(rows) if biases is None else rows | biases
        if 0 < int(rows.sum()) * int(columns.sum()) <= rows.numel() * columns.numel() / 2:
            found[name] = Live(rows.nonzero()[:, 0], columns.nonzero()[:, 0])
    return found


def _noise_for(batch: Batch) -> Batch:
    """The batch with its first tensor, if of floats, replaced by noise: in a few examples of the data an input may be 0
    by chance."""
    if isinstance(batch, tuple | list) and isinstance(batch[0], Tensor) and batch[0].is_floating_point():
        return (torch.randn_like(batch[0]), *batch[1:])
    return batch


def _axis(layer: nn.Module, x: Tensor) -> int:
    """The axis of the inputs or outputs in a layer's activations, counted from the end."""
    return -1 if isinstance(layer, nn.Linear) else -(layer.weight.dim() - 1)  # type: ignore[operator]


@contextmanager
def compact(network: Network, live: Mapping[str, Live]) -> Iterator[None]:
    """Inside the block, layers compute only their remaining parts; biases of outputs that are cut count as 0."""
    with ExitStack() as stack:
        for name, part in live.items():
            layer = network.layer(name)
            rows, columns = network.parameter(name).shape[:2]
            if part.rows.numel() < rows or part.columns.numel() < columns:
                layer.forward = _forward(layer, part, rows)
                stack.callback(delattr, layer, "forward")
        yield


def _forward(layer: nn.Module, part: Live, rows: int) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        assert isinstance(layer.weight, Tensor)
        axis = _axis(layer, x)
        weight = layer.weight.index_select(0, part.rows).index_select(1, part.columns)
        bias = layer.bias.index_select(0, part.rows) if isinstance(layer.bias, Tensor) else None
        x = x.index_select(x.dim() + axis, part.columns) if part.columns.numel() < x.shape[axis] else x
        if isinstance(layer, nn.Linear):
            out = functional.linear(x, weight, bias)
        else:
            out = layer._conv_forward(x, weight, bias)  # type: ignore[operator]
        if part.rows.numel() == rows:
            return out
        shape = list(out.shape)
        shape[axis] = rows
        return out.new_zeros(shape).index_copy(out.dim() + axis, part.rows, out)

    return forward
