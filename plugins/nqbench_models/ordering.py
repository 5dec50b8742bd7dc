"""In which order, and in which batches, a split's examples are given."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def in_batches(count: int, batch_size: int, shuffle: int | None) -> Iterator[Tensor]:
    """The numbers of a split's examples, (B,) int64 a batch. shuffle: a seed for their order; None: as they are."""
    order = torch.arange(count)
    if shuffle is not None:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(shuffle))
    yield from torch.split(order, batch_size)
