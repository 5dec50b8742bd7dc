"""Sums of products of a layer's input vectors over samples and places, E[a b^T], without more unfolding than it takes.

A convolution's input vector at a place is a window. For windows of kh rows that move by one row at a time, let z[r] be
the window's part in padded row r (all its columns and channels, for every place of that row). Block (i, j) of the sum
is that of z[r + i] z[r + j]^T over the output's rows r: the sum over *all* rows of z[r] z[r + j - i]^T, the same for
all blocks with that j - i, less a few rows at either end. That is a third of the products for 3 x 3 kernels, and a
third of the copies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nqbench.api.toolkit.curvature import BATCH
from nqbench.api.toolkit.persample import columns

_LONG = 48  # places of a sample from which a product per sample is faster than a copy of all


class Products:
    """The sum of a b^T over a layer's input vectors, and their number. Add batches, then take the mean."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.groups = int(getattr(layer, "groups", 1))
        self.total: Tensor | None = None
        self.count = 0

    def add(self, a: Tensor, b: Tensor | None = None) -> None:
        """a, b: batches of the layer's inputs, unfolded a few samples at a time. b: None stands for a."""
        theirs = torch.split(a if b is None else b, BATCH)
        for mine, other in zip(torch.split(a.detach(), BATCH), theirs, strict=True):
            if slides(self.layer):
                part, count = sliding(self.layer, mine, None if b is None else other.detach())
            else:
                x = columns(self.layer, mine)
                y = x if b is None else columns(self.layer, other.detach())
                part, count = gram(x, self.groups, y), x.shape[0] * x.shape[2]
            self.total = part if self.total is None else self.total + part
            self.count += count

    def mean(self) -> Tensor:
        """(groups, m, m) float32; zeros where nothing was added."""
        if self.total is not None:
            return (self.total / self.count).float()
        weight = self.layer.get_parameter("weight")
        m = weight.shape[1:].numel()
        return torch.zeros(self.groups, m, m, device=weight.device)


def gram(x: Tensor, groups: int, y: Tensor | None = None) -> Tensor:
    """(groups, m, m): the sum over samples and places of x y^T. x, y: (B, groups * m, L); y: None stands for x."""
    count, wide, places = x.shape
    y = x if y is None else y
    if groups == 1 and places >= _LONG:
        total = x.new_zeros(wide, wide)
        for one, other in zip(x, y, strict=True):
            total.addmm_(one, other.T)
        return total[None]
    sizes = (count, groups, wide // groups, places)
    left, right = (v.reshape(sizes).permute(1, 2, 0, 3).reshape(groups, wide // groups, -1) for v in (x, y))
    return torch.bmm(left, right.transpose(1, 2))


def slides(layer: nn.Module) -> bool:
    """Whether its windows move one row and one column at a time, with padding that parts one sample from the next."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.stride == (1, 1)
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and not isinstance(layer.padding, str)
        and layer.kernel_size[0] > 1
        and layer.kernel_size[0] - 1 <= 2 * layer.padding[0]
    )


def sliding(layer: nn.Module, x: Tensor, y: Tensor | None) -> tuple[Tensor, int]:
    """(1, m, m): the sum of x y^T for a layer that ``slides``, and the number of places. x, y: (B, C, H, W)."""
    assert isinstance(layer, nn.Conv2d)
    high, wide = layer.kernel_size
    left = _row_parts(layer, x)
    right = left if y is None else _row_parts(layer, y)
    m, samples, rows, places = left.shape
    sums = x.new_zeros(layer.in_channels, high, wide, layer.in_channels, high, wide)
    shape = (layer.in_channels, wide, layer.in_channels, wide)
    for apart in range(high):
        for i, block in enumerate(_blocks(left, right, apart, high)):
            sums[:, i, :, :, i + apart, :] = block.reshape(shape)
            if apart and y is None:
                sums[:, i + apart, :, :, i, :] = block.T.reshape(shape)
        if apart and y is not None:
            for i, block in enumerate(_blocks(right, left, apart, high)):
                sums[:, i + apart, :, :, i, :] = block.T.reshape(shape)
    return sums.reshape(1, m * high, m * high), samples * (rows - high + 1) * places


def _row_parts(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """(C * kw, B, rows, places): z[r] of each sample, rows padded."""
    assert not isinstance(layer.padding, str)
    (high, wide), wide_pad = layer.padding, layer.kernel_size[1]
    z = nn.functional.pad(x, (wide, wide, high, high)).contiguous()
    count, channels, rows, breadth = z.shape
    per_sample, per_channel, per_row, one = z.stride()
    sizes = (channels, wide_pad, count, rows, breadth - wide_pad + 1)
    view = z.as_strided(sizes, (per_channel, one, per_sample, per_row, one))
    return view.reshape(channels * wide_pad, *sizes[2:])


def _blocks(left: Tensor, right: Tensor, apart: int, high: int) -> list[Tensor]:
    """Blocks (i, i + apart), i = 0, 1, ..., of the sum: all pairs of rows ``apart``, less those outside the output."""
    m, _, rows, places = left.shape
    # padding makes every pair of rows of two different samples 0
    reach = left[0].numel() - apart * places
    whole = left.reshape(m, -1)[:, :reach] @ right.reshape(m, -1)[:, apart * places :].T
    outside = high - 1 - apart

    def pair(row: int) -> Tensor:
        return left[:, :, row].reshape(m, -1) @ right[:, :, row + apart].reshape(m, -1).T

    head = [pair(row) for row in range(outside)]
    tail = [pair(rows - apart - outside + row) for row in range(outside)]
    # block i's rows begin with row i of the padded input
    return [
        whole - sum(head[:i], torch.zeros_like(whole)) - sum(tail[i:], torch.zeros_like(whole))
        for i in range(outside + 1)
    ]
