"""Which weights share an entry of a scale, a zero point or another array: ``Per``.

The words are those of suites and of quantizers' parameters: ``global``, ``layer``, ``channel`` and ``group``; an array
may also have an entry for each ``column``.

The *rows* of a tensor are its indices along the first axis (output channels), each with the other axes row-major: a
tensor of shape (R, ...) has R rows of L weights; one with fewer than two axes is a single row. The entry of a weight
depends on its place in the tensor, not on whether other weights were pruned.

| by        | entries of a tensor        | entry of the weight at place p = r L + c |
| --------- | -------------------------- | ---------------------------------------- |
| `global`  | one for all tensors        | 0                                        |
| `layer`   | 1                          | 0                                        |
| `channel` | its size along axis `size` | its index along that axis                |
| `column`  | L                          | c                                        |
| `group`   | R ceil(L / size)           | r ceil(L / size) + floor(c / size)       |

A tensor without weights has no entries, except with `global`.
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

By = Literal["global", "layer", "channel", "column", "group"]
BYS: tuple[By, ...] = ("global", "layer", "channel", "column", "group")

_FORMER: dict[str, By] = {"all": "global", "tensor": "layer", "axis": "channel", "block": "group"}
"""Words of an earlier version -> those of today."""


def rows_of(shape: Sequence[int]) -> tuple[int, int]:
    """(R, L): rows of a tensor, and places of a row."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


@dataclass(frozen=True)
class Per:
    """Which weights share an entry of an array (a scale, a zero point): the granularity, as the module's table has it.

    Args:
        by: ``global``, ``layer``, ``channel``, ``column`` or ``group``; the former words ``all``, ``tensor``, ``axis``
            and ``block`` are still accepted.
        size: of ``channel`` the axis of the channels, of ``group`` the number of weights in a group; else 0.

    Raises:
        BadInput: no such granularity.

    Example:
        >>> [per.entries((8, 3)) for per in (Per("channel", 0), Per("group", 2), Per("layer"))]
        [8, 16, 1]
    """

    by: By = "layer"
    size: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", _FORMER.get(self.by, self.by))
        if self.by not in BYS or self.size < 0 or (self.by == "group" and not self.size):
            raise BadInput(f"no granularity: {self.by} of {self.size}")

    def entries(self, shape: Sequence[int]) -> int:
        """Entries of one tensor. Raises BadInput for an axis that it does not have."""
        if self.by == "channel" and self.size >= len(shape):
            raise BadInput(f"a tensor of the shape {tuple(shape)} has no axis {self.size}")
        if not math.prod(shape):
            return 1 if self.by == "global" else 0
        rows, length = rows_of(shape)
        if self.by == "channel":
            return shape[self.size]
        return {"global": 1, "layer": 1, "column": length, "group": rows * -(-length // max(self.size, 1))}[self.by]

    def count(self, shapes: Sequence[Sequence[int]]) -> int:
        """Entries of a group's tensors: one after another; of ``global`` the one that they share."""
        each = [self.entries(shape) for shape in shapes]
        return 1 if self.by == "global" else sum(each)

    def split(self, entries: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Each tensor's entries."""
        if self.by == "global":
            return [entries.reshape(1)] * len(shapes)
        return list(torch.split(entries.reshape(-1), [self.entries(shape) for shape in shapes]))

    def aligned(self, entries: Tensor, shape: Sequence[int]) -> tuple[tuple[int, ...], Tensor]:
        """A view's shape for the tensor's (numel,) places, and the entries shaped to broadcast against it."""
        rows, length = rows_of(shape)
        numel = rows * length
        if not numel or self.by in ("global", "layer"):
            return (numel,), entries[:1] if numel else entries[:0]
        if self.by == "channel":
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
        if self.by == "channel":
            return places.reshape(tuple(shape)).movedim(self.size, 0).reshape(shape[self.size], -1)
        if self.by == "column":
            return places.reshape(rows, length).T
        if self.by == "group":
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
        if self.by == "channel":
            moved = [shape[self.size], *(n for axis, n in enumerate(shape) if axis != self.size)]
            return matrix.reshape(moved).movedim(0, self.size).reshape(-1)
        if self.by == "column":
            return matrix.T.reshape(-1)
        if self.by == "group":
            return matrix.reshape(rows, -1)[:, :length].reshape(-1)
        return matrix.reshape(-1)

    def __str__(self) -> str:
        return f"{self.by} {self.size}" if self.by in ("channel", "group") else self.by
