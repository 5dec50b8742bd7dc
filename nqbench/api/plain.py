"""Row-major tensors, which files and compiled loops need, from whatever views a plugin returns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def plain(tensor: Tensor) -> Tensor:
    """The tensor itself where its strides are those of its shape, row-major, else a copy of which they are.

    ``Tensor.contiguous`` leaves the stride of a dimension of size 1 as it is, be it 0 or any other, and such a tensor
    cannot be viewed as bytes.
    """
    wanted = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if stride != wanted:
            return tensor.clone(memory_format=torch.contiguous_format)
        wanted *= max(size, 1)
    return tensor


def all_plain(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A mapping of plain tensors: the same one where all of them are; what is no tensor stays."""
    found = {name: plain(value) if isinstance(value, Tensor) else value for name, value in tensors.items()}
    return tensors if all(found[name] is value for name, value in tensors.items()) else found


def place(tensor: Tensor) -> tuple[object, ...]:
    """Equal for tensors that are the same numbers in the same memory: not for a transposed or reinterpreted view."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain, detached tensors on the CPU, of which no two share memory."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        tensor = plain(value.detach().cpu())
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen and tensor.numel():
            tensor = tensor.clone()
        seen.add(storage.data_ptr())
        found[name] = tensor
    return found


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same numbers, nan in the same places."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
