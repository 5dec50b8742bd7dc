"""The sign-randomized Hadamard transform of a row's weights, block by block: what flattens outliers before a quantizer
sees them [QuIP#, 2402.04396, section 3; 1802.02271 for a common dither's cousin].

A row's kept weights are taken ``block`` at a time, a power of two; what is left at its end in the largest power of two
that fits, and so on. For a block x of m weights, H the matrix of +-1 in Sylvester's order and s its weights' signs::

    rotated = (H (s x)) m^-1/2            x = s ((H rotated) m^-1/2)

H is applied in log2 m stages for the strides 1, 2, 4, ..., m / 2: (a, b) -> (a + b, a - b), in float32, each addition
rounded once, and then multiplied once by m^-1/2 as float32. The sign of the i-th kept weight of a tensor is that of the
i-th number of ``nqbench.api.philox.dither`` for the seed.

With a ``tile`` of a rows the transform is of tiles, a rows by ``block`` places: of a tensor whose rows have equally
many kept weights, (R, n), the rotated columns are transformed in the same way, without signs, a rows at a time, what is
left at the bottom in the largest power of two that fits, and so on; and before the inverse, which is this once more.
Tensors of other rows are transformed along their rows alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.philox import dither

MOST = 1 << 15


def check_block(block: int) -> None:
    """Raises BadInput unless it is a power of two, 2 to 2^15."""
    if not 2 <= block <= MOST or block & (block - 1):
        raise BadInput(f"a Hadamard transform of {block} weights: a power of two from 2 to {MOST} is needed")


def rotate(values: Tensor, lengths: Tensor, block: int, seed: int, tile: int = 0) -> Tensor:
    """(n,) float32: a tensor's kept weights, transformed. lengths: (R,) int64, kept weights of each row. tile: rows of
    a tile; 0: rows by themselves."""
    return _across(_transform(values * signs(seed, values), lengths, block), lengths, tile)


def rotate_back(rotated: Tensor, lengths: Tensor, block: int, seed: int, tile: int = 0) -> Tensor:
    """The inverse of ``rotate``, up to rounding; differentiable."""
    return signs(seed, rotated) * _transform(_across(rotated, lengths, tile), lengths, block)


def _across(values: Tensor, lengths: Tensor, tile: int) -> Tensor:
    """Each column of a matrix of equal rows."""
    rows = lengths.numel()
    if not tile or rows < 2 or not values.numel() or bool((lengths != lengths[0]).any()):
        return values
    columns = int(lengths[0])
    turned = values.reshape(rows, columns).T.reshape(-1)
    return _transform(turned, torch.full((columns,), rows), tile).reshape(columns, rows).T.reshape(-1)


def signs(seed: int, like: Tensor) -> Tensor:
    """(n,) float32 of +-1."""
    return torch.sign(dither(seed, 1.0, like.numel(), like.device))


def _transform(values: Tensor, lengths: Tensor, block: int) -> Tensor:
    """Each row in blocks: whole ones, then the powers of two that its rest is made of."""
    check_block(block)
    rows, length = lengths.numel(), int(lengths[0]) if lengths.numel() else 0
    if rows and values.numel() == rows * length and length % block == 0 and bool((lengths == length).all()):
        return _stages(values.reshape(-1, block)).reshape(-1)
    lengths = lengths.to(values.device)
    starts = torch.cumsum(lengths, 0) - lengths
    out, size = values.clone(), block
    at, left = starts, lengths
    while size > 1:
        blocks = left // size
        row = torch.repeat_interleave(torch.arange(rows, device=values.device), blocks)
        first = torch.cumsum(blocks, 0) - blocks
        begin = at[row] + (torch.arange(row.numel(), device=values.device) - first[row]) * size
        index = begin[:, None] + torch.arange(size, device=values.device)
        out = out.index_put((index,), _stages(values[index]))
        at, left, size = at + blocks * size, left - blocks * size, size // 2
    return out


def _stages(blocks: Tensor) -> Tensor:
    """(b, m) -> (b, m): H times each row, divided by the root of m."""
    b, m = blocks.shape
    stride, x = 1, blocks
    while stride < m:
        pairs = x.reshape(b, m // (2 * stride), 2, stride)
        x = torch.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), dim=2).reshape(b, m)
        stride *= 2
    return x * torch.tensor(m**-0.5, dtype=torch.float32, device=x.device)
