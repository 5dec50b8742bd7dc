"""Copies in single precision of what is trained in half precision (Micikevicius et al. 2018, arXiv:1710.03740, 3.1).

Near a weight w, bfloat16's values are up to |w| / 128 apart and float16's |w| / 1024: smaller steps would be rounded
away, and training stands still. In float16, Adam's epsilon of 1e-8 is 0, and so are squares of gradients below 2e-4.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_HALVES = (torch.float16, torch.bfloat16)


class Masters:
    """For each parameter in half precision a float32 copy, which an optimizer moves in its place; the parameter is
    always the copy rounded. parameters: leaf tensors by name, of any dtype."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = parameters
        self.copies = {name: p.detach().float() for name, p in parameters.items() if is_half(p)}

    def moved(self) -> dict[str, Tensor]:
        """What an optimizer moves, by the parameters' names: the copy where there is one, else the parameter."""
        return {name: self.copies.get(name, p) for name, p in self.parameters.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """Take over what was changed in the parameters themselves, as a mask does that holds them at 0."""
        for name, copy in self.copies.items():
            p = self.parameters[name]
            copy.copy_(torch.where(p == copy.to(p.dtype), copy, p.float()))

    def take_gradients(self) -> None:
        """Give the copies the parameters' gradients."""
        for name, copy in self.copies.items():
            grad = self.parameters[name].grad
            copy.grad = None if grad is None else grad.float()

    @torch.no_grad()
    def lead(self) -> None:
        """Round the copies into the parameters."""
        for name, copy in self.copies.items():
            self.parameters[name].copy_(copy)


def widened(tensor: Tensor) -> Tensor:
    """A tensor of 16-bit numbers in float32, where squares and sums are not lost; any other as it is."""
    return tensor.float() if is_half(tensor) else tensor


def sums_of(tensor: Tensor) -> Tensor:
    """Zeros of a tensor's shape to sum numbers of its kind in: float32 at least."""
    return torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32), requires_grad=False)


def is_half(tensor: Tensor) -> bool:
    """Whether its numbers have 16 bits."""
    return tensor.dtype in _HALVES
