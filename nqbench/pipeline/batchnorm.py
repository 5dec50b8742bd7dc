"""Whether a batch norm may be folded: whether it computes what PyTorch's does."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_OWN = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
_EXAMPLES = 8
_AXES = {nn.BatchNorm1d: ((), (3,)), nn.BatchNorm2d: ((3, 3),), nn.BatchNorm3d: ((3, 3, 3),)}
"""What follows the channels in an input of each class."""
_CLOSE = 1e-3
"""How far apart outputs may be, in their spread: float32 rounds to a thousandth of it, another formula is far off."""


def folds(layer: _BatchNorm, own: Mapping[str, Tensor], folded: Mapping[str, Tensor]) -> bool:
    """Whether a batch norm gives the same outputs with ``folded`` tensors as with its ``own``. PyTorch's does. One with
    a ``forward`` of its own (the usual formula, then an activation; or another formula, such as a scale of 1 + weight)
    is tried on random inputs, and does not where it cannot be tried."""
    if "forward" not in vars(layer) and type(layer).forward in _OWN:
        return True
    forms = next((forms for kind, forms in _AXES.items() if isinstance(layer, kind)), ((3, 3), (), (3,), (3, 3, 3)))
    for form in forms:
        # whatever a stranger's forward raises, inputs of this form are not what it takes
        with suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
            return _same(copy.deepcopy(layer).to("cpu", torch.float32).eval(), form, own, folded)
    return False


def _same(layer: _BatchNorm, form: tuple[int, ...], own: Mapping[str, Tensor], folded: Mapping[str, Tensor]) -> bool:
    shape = (-1, *(1 for _ in form))
    mean, deviation = own["running_mean"].float(), torch.sqrt(own["running_var"].float() + layer.eps)
    drawn = torch.randn(_EXAMPLES, len(mean), *form, generator=torch.Generator().manual_seed(0))
    x = mean.view(shape) + deviation.view(shape) * drawn  # what the layer is used to
    others = {**folded, "weight": 2 * folded["weight"] + 1, "bias": 2 * folded["bias"] + 1}
    before, after, beside = (_outputs(layer, tensors, x) for tensors in (own, folded, others))
    # a forward that is bound to the original's tensors does not see those of the copy, and nothing can be said
    return _close(before, after) and not _close(beside, after)


def _outputs(layer: _BatchNorm, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    there = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    for name, tensor in tensors.items():
        there[name].copy_(tensor)
    outputs: Tensor = layer(x.clone())  # an activation may work in place
    return outputs.clone()


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=_CLOSE, atol=_CLOSE * float(other.std()))
