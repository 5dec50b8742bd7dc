"""Batches are opaque to the core but for this: tensors, nested in tuples, lists and dicts, samples along the first
axis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from nqbench.api.errors import BadInput

Split = Literal["train", "validation", "test"]
Batch = Any
"""What ``Model.batches`` gives and ``predict`` and ``losses`` take."""


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device.

    Args:
        batch: nested tuples, lists and dicts of tensors; what is no tensor stays.
        device: where to.

    Returns:
        The same nesting.

    Example:
        >>> to_device((torch.ones(1), {"n": 3}), torch.device("cpu"))
        (tensor([1.]), {'n': 3})
    """
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return of_type(batch, (to_device(value, device) for value in batch))
    return batch


def count(batch: Batch) -> int:
    """Samples in a batch: the length of its first tensor that has one. Raises BadInput where none has."""
    for tensor in tensors_of(batch):
        if tensor.dim():
            return len(tensor)
    raise BadInput(f"a batch is {type(batch).__name__} without tensors: expected tensors, one row a sample")


def part(batch: Batch, stop: int, start: int = 0) -> Batch:
    """Some samples of a batch, by default the first ones. What has no row a sample stays: what is no tensor, and
    tensors of another length than the first (a mask, a graph's edges, a memory that all samples look at).

    Example:
        >>> part((torch.arange(4), {"y": torch.arange(4)}), 3, 1)
        (tensor([1, 2]), {'y': tensor([1, 2])})
    """
    samples = next((len(tensor) for tensor in tensors_of(batch) if tensor.dim()), 0)
    return _part(batch, start, stop, samples)


def _part(batch: Batch, start: int, stop: int, samples: int) -> Batch:
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.dim() and len(batch) == samples else batch
    if isinstance(batch, Mapping):
        return {key: _part(value, start, stop, samples) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return of_type(batch, (_part(value, start, stop, samples) for value in batch))
    return batch


def tensors_of(batch: Batch) -> Iterator[Tensor]:
    """The tensors of a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for inner in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_of(inner)


def of_type(like: Batch, values: Iterable[Batch]) -> Batch:
    """A tuple, list or named tuple of the same type with these values."""
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)


def joined(batches: Sequence[Batch]) -> Batch | None:
    """Several batches as one; what is no tensor is the first one's. None where their samples have several shapes, or a
    tensor has no row a sample.

    Example:
        >>> joined([(torch.zeros(1), None), (torch.ones(2), None)])
        (tensor([0., 1., 1.]), None)
        >>> joined([torch.zeros(1, 2), torch.zeros(1, 3)]) is None
        True
    """
    first = batches[0]
    if len(batches) == 1:
        return first
    if any(not tensor.dim() or len(tensor) != count(batch) for batch in batches for tensor in tensors_of(batch)):
        return None
    shapes = [[(tensor.shape[1:], tensor.dtype) for tensor in tensors_of(batch)] for batch in batches]
    return _joined(batches) if all(other == shapes[0] for other in shapes) else None


def _joined(batches: Sequence[Batch]) -> Batch:
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches))
    if isinstance(first, Mapping):
        return {key: _joined([batch[key] for batch in batches]) for key in first}
    if isinstance(first, tuple | list):
        return of_type(first, (_joined(parts) for parts in zip(*batches, strict=True)))
    return first


def between(batches: Iterator[Batch], start: int, stop: int) -> Iterator[Batch]:
    """The samples from ``start`` to before ``stop`` of a row of batches, in its batches, cut at either end."""
    at = 0
    for batch in batches:
        size = count(batch)
        first, last = max(start - at, 0), min(stop - at, size)
        if first < last:
            yield batch if (first, last) == (0, size) else part(batch, last, first)
        at += size
        if at >= stop:
            return
