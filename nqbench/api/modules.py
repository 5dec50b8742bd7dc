"""What is asked of any ``torch.nn.Module``: its device, its outputs, and to be in evaluation mode, or to have hooks,
for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from nqbench.api.errors import BadInput


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """After the block each submodule has the mode, of training or evaluation, that it had before."""
    modes = {layer: layer.training for layer in module.modules()}
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode inside the block, each submodule's own mode after it."""
    trained = module.training
    with modes_kept(module):
        module.eval()
        try:
            yield module
        finally:
            if trained:
                module.train()  # layers forget what they derived from weights that will change


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Inside the block the hooks are active; afterwards they are removed."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's first parameter or buffer.

    Args:
        module: any module.

    Returns:
        Its device; the CPU if it has neither.

    Example:
        >>> device_of(nn.Linear(2, 2))
        device(type='cpu')
    """
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def call(module: nn.Module, inputs: Any) -> Any:
    """What a module returns for a batch's inputs: ``module(x)``, ``module(*x)`` for a tuple or list x, ``module(**x)``
    for a mapping."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, tuple | list) else module(inputs)


def writable_buffers(module: nn.Module) -> nn.Module:
    """The module, in which buffers that show one number in several places (``torch.zeros(1).expand(48)``), so that
    nothing can be written into them, have become tensors of their own."""
    for layer in module.modules():
        for name, buffer in list(layer.named_buffers(recurse=False)):
            if is_lazy(buffer):
                continue  # has neither shape nor numbers
            if any(size > 1 and step == 0 for size, step in zip(buffer.shape, buffer.stride(), strict=True)):
                setattr(layer, name, buffer.contiguous())
    return module


def check_materialized(model: str, module: nn.Module) -> None:
    """Raises BadInput for the first parameter or buffer that has no numbers yet."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if reason := unmaterialized(tensor):
            raise BadInput(f"model '{model}': '{name}' {reason}")


def unmaterialized(tensor: Tensor) -> str:
    """What is wrong with a tensor that has no numbers yet, as the end of a sentence; empty for any other."""
    if is_lazy(tensor):
        return "has no shape yet: run a batch through the network in the function that builds it"
    if tensor.device.type == "meta":
        return "is on the device meta, without numbers: load the weights in the function that builds the network"
    return ""
