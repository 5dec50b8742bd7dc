"""Checks whether a network can be compressed, as soon as it is loaded. Errors are one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nqbench.api import BadInput
from nqbench.api.source import LARGEST_WEIGHT
from nqbench.container.header import DTYPES

Nonfinite = Literal["refuse", "store"]


def check_state(model: str, module: nn.Module) -> None:
    """Raises BadInput for the first entry of the state that cannot be stored in a file."""
    for name, value in module.state_dict(keep_vars=True).items():
        reason = _objection(value)
        if reason:
            raise BadInput(f"model '{model}': '{name}' {reason}")


def _objection(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, not a tensor: remove it from the state, only tensors can be compressed"
    if is_lazy(value):
        return "has no shape yet: run a batch through the network in the function that builds it"
    if value.device.type == "meta":
        return "is on the device meta, without numbers: load the weights in the function that builds the network"
    if value.layout != torch.strided or value.is_quantized:
        kind = "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")
        return f"is {kind}, expected a plain dense tensor: convert it first"
    if value.dtype not in DTYPES:
        kind = str(value.dtype).removeprefix("torch.")
        parts = "keep its real and imaginary parts in two tensors" if value.is_complex() else "convert it first"
        return f"is {kind}, which no file holds: {parts}, or register the buffer with persistent=False"
    return ""


@dataclass(frozen=True)
class Odd:
    """The first number of a tensor that is nan, infinite, or too large to be quantized."""

    name: str
    place: tuple[int, ...]
    value: float
    quantized: bool


def odd_numbers(state: Mapping[str, Tensor], names: Sequence[str]) -> tuple[Odd, ...]:
    """The first bad number of each tensor. names: of the tensors that are quantized."""
    found = []
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        largest = LARGEST_WEIGHT if name in names else torch.finfo(tensor.dtype).max
        # nan is neither smaller nor larger than anything
        low, high = (float(end) for end in tensor.detach().aminmax())
        if not (low >= -largest and high <= largest):
            place = tuple(torch.nonzero(~(tensor.detach().abs() <= largest))[0].tolist())
            found.append(Odd(name, place, float(tensor.detach()[place]), name in names))
    return tuple(found)


def check_numbers(model: str, odd: Sequence[Odd], nonfinite: Nonfinite) -> None:
    """Raises BadInput for the first number that cannot be quantized, and for nan and inf in tensors that are not
    quantized, unless ``nonfinite`` says to store them."""
    for one in odd:
        found = f"model '{model}': '{one.name}' has {one.value:g} at {list(one.place)}"
        if one.quantized:
            raise BadInput(
                f"{found}: quantized tensors must be finite, no larger than {LARGEST_WEIGHT:.2g}; mend it, "
                "or leave the tensor out of the model's compressible ones"
            )
        if nonfinite == "refuse":
            raise BadInput(
                f"{found}, and is stored without quantization: if that is intended, write 'nonfinite: store' to keep it"
            )
