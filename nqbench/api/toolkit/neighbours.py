"""Which parameters scale a layer's inputs: what factors of input channels can be moved into.

Found by watching one forward pass at the level of torch's functions, so that a network may be written in any way:
``linear``, ``conv*`` with one group and norms with weights make activations whose channel c is multiplied by entry c of
their parameters; ``relu``, pooling, dropout and the like hand a positive factor of a channel on. If all that uses such
an activation are weights that multiply its channels (and nothing adds to it, looks at it, or returns it), then factors
of these weights' input channels may be moved into the parameters that made it, and the network computes what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_LAYERS = {"linear": -1, "conv1d": 1, "conv2d": 1, "conv3d": 1}
_NORMS = {"batch_norm": 1, "group_norm": 1, "instance_norm": 1, "layer_norm": -1, "rms_norm": -1}
_SCALED_BY = {
    **dict.fromkeys(_LAYERS, (1, 2)), "batch_norm": (3, 4), "group_norm": (2, 3), "instance_norm": (3, 4),
    "layer_norm": (2, 3), "rms_norm": (2,),
}  # fmt: skip
"""Where weight and bias are among the arguments."""
_KEEPS = {
    "relu", "relu_", "leaky_relu", "leaky_relu_", "dropout", "dropout2d", "contiguous", "max_pool2d", "avg_pool2d",
    "adaptive_avg_pool2d", "max_pool1d", "avg_pool1d", "detach",
}  # fmt: skip


@dataclass(frozen=True)
class Neighbours:
    """consumers: weights whose second axis holds the channels. producers: parameters whose first axis does."""

    consumers: tuple[str, ...]
    producers: tuple[str, ...]


@dataclass(eq=False)
class _Made:
    """An activation. axis: of its channels; producers: what scales them; other: whether anything else uses it."""

    axis: int = 0
    producers: tuple[str, ...] = ()
    consumers: list[str] = field(default_factory=list)
    other: bool = False


def neighbours(module: nn.Module, names: Sequence[str], run: Callable[[], Any]) -> list[Neighbours]:
    """Pairs of layers between which factors of channels can be moved.

    Args:
        module: the network, which stays as it is.
        names: of weights that may give up factors of their input channels.
        run: one forward pass of the module; returns its outputs.

    Returns:
        Each activation's, in the order in which they are made. Parameters that are used more than once are in none.
    """
    watch = _Watch(module)
    with torch.no_grad(), watch:
        outputs = run()
    for value in _tensors([outputs]):
        watch.node(value).other = True
    found, once = [], {name for name, count in watch.uses.items() if count == 1}
    for made in watch.nodes:
        wanted = set(made.consumers) | set(made.producers)
        if (
            made.producers
            and made.consumers
            and not made.other
            and wanted <= once
            and set(made.consumers) <= set(names)
        ):
            found.append(Neighbours(tuple(made.consumers), made.producers))
    return found


class _Watch(TorchFunctionMode):
    """nodes: of all activations that were made or used. uses: calls that read each parameter."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in module.named_parameters()}
        self.uses: dict[str, int] = {}
        self.nodes: list[_Made] = []
        self._found: dict[int, _Made] = {}
        self._alive: list[Tensor] = []  # an id is not given again as long as its tensor lives

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._note(getattr(func, "__name__", ""), list(args), dict(kwargs or {}), out)
        return out

    def node(self, value: Tensor, made: _Made | None = None) -> _Made:
        if made is not None or id(value) not in self._found:
            self._found[id(value)] = made or _Made()
            self._alive.append(value)
            if self._found[id(value)] not in self.nodes:
                self.nodes.append(self._found[id(value)])
        return self._found[id(value)]

    def _note(self, name: str, args: list[Any], kwargs: dict[str, Any], out: Any) -> None:
        outputs = _tensors([out])
        if not outputs:
            return  # a shape, a flag
        given = _tensors([*args, *kwargs.values()])
        known = [self.names[id(value)] for value in given if id(value) in self.names]
        for parameter in known:
            self.uses[parameter] = self.uses.get(parameter, 0) + 1
        x = next((value for value in given if id(value) not in self.names), None)
        scaling = [kwargs.get(key, args[at] if at < len(args) else None)
                   for key, at in zip(("weight", "bias"), _SCALED_BY.get(name, ()), strict=False)]  # fmt: skip
        # a weight or bias that is computed (weight norm, a scale times a weight) is none that could be multiplied
        whole = all(id(value) in self.names for value in scaling if isinstance(value, Tensor))
        if x is None or len(outputs) > 1 or (name in _LAYERS and not whole):
            self._otherwise(given, x, outputs)
        elif name in _LAYERS and known and _groups(name, args, kwargs) == 1:
            self._layer(name, x, given, known, outputs[0])
        elif name in _NORMS:
            self._otherwise(given, None, [])
            axis = _NORMS[name] % max(outputs[0].dim(), 1)
            whole &= all(value.dim() == 1 for value in given if id(value) in self.names)
            self.node(outputs[0], _Made(axis, tuple(known) if whole else ()))
        elif name in _KEEPS:
            self.node(outputs[0], self.node(x))
        else:
            self._otherwise(given, None, outputs)

    def _layer(self, name: str, x: Tensor, given: list[Tensor], known: list[str], out: Tensor) -> None:
        weight = next(value for value in given if id(value) in self.names)
        made = self.node(x)
        fits = made.producers and made.axis == _LAYERS[name] % x.dim() and weight.shape[1] == x.shape[made.axis]
        if fits:
            made.consumers.append(known[0])
        else:
            made.other = True
        self.node(out, _Made(_LAYERS[name] % out.dim(), tuple(known)))

    def _otherwise(self, given: list[Tensor], x: Tensor | None, outputs: list[Tensor]) -> None:
        for value in given:
            if id(value) not in self.names:
                self.node(value).other = True
        for value in outputs:
            self.node(value)


def _groups(name: str, args: list[Any], kwargs: dict[str, Any]) -> int:
    """Of a convolution: input, weight, bias, stride, padding, dilation, groups."""
    return 1 if name == "linear" else int(kwargs.get("groups", args[6] if len(args) > 6 else 1))


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
        elif isinstance(value, dict):
            found += _tensors(list(value.values()))
    return found
