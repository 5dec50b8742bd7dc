"""Which weights share an entry of a scale, a zero point or another array: ``Per``.

A tensor's *rows* are its indices along the first axis (output channels), each with the other axes row-major: a tensor
of shape (R, ...) has R rows of L weights; one of fewer than two axes is a single row. What an entry is for goes by a
weight's place in its tensor, whether its neighbours were pruned or not.

| by       | entries of a tensor | weight at place p = r L + c        |
| -------- | ------------------- | ---------------------------------- |
| `all`    | one for the group   | 0                                  |
| `tensor` | 1                   | 0                                  |
| `axis`   | its size along axis | its index along that axis          |
| `column` | L                   | c                                  |
| `block`  | R ceil(L / size)    | r ceil(L / size) + floor(c / size) |

A tensor without a weight has no entry (but of `all`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nqbench.api.errors import BadInput

By = Literal["all", "tensor", "axis", "column", "block"]
BYS: tuple[By, ...] = ("all", "tensor", "axis", "column", "block")


def rows_of(shape: Sequence[int]) -> tuple[int, int]:
    """(R, L): rows of a tensor, and places of a row."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


@dataclass(frozen=True)
class Per:
    """Which weights share an entry of an array (a scale, a zero point): the granularity, as the module's table has it.

    Args:
        by: ``all``, ``tensor``, ``axis``, ``column`` or ``block``.
        size: the axis of ``axis``, the weights of a ``block``; else 0.

    Raises:
        BadInput: no such granularity.

    Example:
        >>> Per("axis", 0).entries((8, 3)), Per("block", 2).entries((8, 3)), Per("tensor").entries((8, 3))
        (8, 16, 1)
    """

    by: By = "tensor"
    size: int = 0

    def __post_init__(self) -> None:
        if self.by not in BYS or self.size < 0 or (self.by == "block" and not self.size):
            raise BadInput(f"no granularity: {self.by} of {self.size}")

    def entries(self, shape: Sequence[int]) -> int:
        """Entries of one tensor. Raises BadInput for an axis that it does not have."""
        if self.by == "axis" and self.size >= len(shape):
            raise BadInput(f"a tensor of the shape {tuple(shape)} has no axis {self.size}")
        if not math.prod(shape):
            return 1 if self.by == "all" else 0
        rows, length = rows_of(shape)
        if self.by == "axis":
            return shape[self.size]
        return {"all": 1, "tensor": 1, "column": length, "block": rows * -(-length // max(self.size, 1))}[self.by]

    def count(self, shapes: Sequence[Sequence[int]]) -> int:
        """Entries of a group's tensors: one after another, but of ``all``, which they share."""
        each = [self.entries(shape) for shape in shapes]
        return 1 if self.by == "all" else sum(each)

    def split(self, entries: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Each tensor's entries."""
        if self.by == "all":
            return [entries.reshape(1)] * len(shapes)
        return list(torch.split(entries.reshape(-1), [self.entries(shape) for shape in shapes]))

    def aligned(self, entries: Tensor, shape: Sequence[int]) -> tuple[tuple[int, ...], Tensor]:
        """A view's shape for the tensor's (numel,) places, and the entries shaped to broadcast against it."""
        rows, length = rows_of(shape)
        numel = rows * length
        if not numel or self.by in ("all", "tensor"):
            return (numel,), entries[:1] if numel else entries[:0]
        if self.by == "axis":
            before, after = math.prod(shape[: self.size]), math.prod(shape[self.size + 1 :])
            return (before, shape[self.size], after), entries.reshape(1, -1, 1)
        if self.by == "column":
            return (rows, length), entries.reshape(1, -1)
        size = min(self.size, length)
        if length % size == 0:
            return (numel // size, size), entries.reshape(-1, 1)
        each = -(-length // size)
        wide = entries.reshape(rows, each, 1).expand(rows, each, size)
        return (rows, length), wide.reshape(rows, each * size)[:, :length]

    def spread(self, entries: Tensor, shape: Sequence[int]) -> Tensor:
        """(numel,): each place's entry."""
        view, aligned = self.aligned(entries, shape)
        return aligned.expand(view).reshape(-1)

    def gathered(self, places: Tensor, shape: Sequence[int], fill: float) -> Tensor:
        """(entries, width): the places (numel,) of each entry, row-major; a shorter last block is filled up."""
        rows, length = rows_of(shape)
        if not rows * length:
            return places.reshape(0, 1)
        if self.by == "axis":
            return places.reshape(tuple(shape)).movedim(self.size, 0).reshape(shape[self.size], -1)
        if self.by == "column":
            return places.reshape(rows, length).T
        if self.by == "block":
            size = min(self.size, length)
            short = -length % size
            matrix = places.reshape(rows, length)
            return (F.pad(matrix, (0, short), value=fill) if short else matrix).reshape(-1, size)
        return places.reshape(1, -1)

    def scattered(self, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """(numel,): the inverse of ``gathered``."""
        rows, length = rows_of(shape)
        if not rows * length:
            return matrix.reshape(-1)[:0]
        if self.by == "axis":
            moved = [shape[self.size], *(n for axis, n in enumerate(shape) if axis != self.size)]
            return matrix.reshape(moved).movedim(0, self.size).reshape(-1)
        if self.by == "column":
            return matrix.T.reshape(-1)
        if self.by == "block":
            return matrix.reshape(rows, -1)[:, :length].reshape(-1)
        return matrix.reshape(-1)

    def __str__(self) -> str:
        return f"{self.by} {self.size}" if self.by in ("axis", "block") else self.by
