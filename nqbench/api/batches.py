"""Batches are opaque to the core but for this: tensors, nested in tuples, lists and dicts, samples along the first
axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

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
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def count(batch: Batch) -> int:
    """Samples in a batch: the length of its first tensor."""
    if isinstance(batch, Tensor):
        return len(batch)
    return count(next(iter(batch.values() if isinstance(batch, Mapping) else batch)))


def part(batch: Batch, stop: int, start: int = 0) -> Batch:
    """Some samples of a batch, by default the first ones.

    Example:
        >>> part((torch.arange(4), {"y": torch.arange(4)}), 3, 1)
        (tensor([1, 2]), {'y': tensor([1, 2])})
    """
    if isinstance(batch, Tensor):
        return batch[start:stop]
    if isinstance(batch, Mapping):
        return {key: part(value, stop, start) for key, value in batch.items()}
    return type(batch)(part(value, stop, start) for value in batch)


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
