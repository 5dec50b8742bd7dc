"""In which order, and in which batches, a split's examples are given.

Sensitivities take the first examples of the training split. Files are often in the order of classes, sources or a
text, so that their first examples are of one kind: without a seed, the training split's order is a fixed shuffle.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nqbench.api import Split


def in_order(count: int, split: Split, shuffle: int | None) -> Tensor:
    """(count,) int64: the numbers of a split's examples. shuffle: a seed; None: as stored, but for ``train``."""
    if shuffle is None and split != "train":
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(shuffle or 0))


def in_batches(count: int, batch_size: int, split: Split, shuffle: int | None) -> Iterator[Tensor]:
    """The same numbers, (B,) int64 a batch."""
    yield from torch.split(in_order(count, split, shuffle), batch_size)
