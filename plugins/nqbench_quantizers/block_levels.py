"""Extremes and levels of rows with one scale each: compiled loops on the CPU, torch's operations elsewhere, with
bit-identical results."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nqbench.api import chunks
from nqbench.api.chunks import CHUNK, in_chunks

_FEW = 32  # up to this many edges, a linear search is faster than bisection


def extremes(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The least, (R,), and the largest, (R,), entry of each row of (R, L) float32."""
    if chunks.on_torch(matrix) or not matrix.numel():
        low, high = torch.aminmax(matrix, dim=1)
        return low, high
    from nqbench_quantizers.block_kernels import extremes as kernel

    low, high = matrix.new_empty(len(matrix)), matrix.new_empty(len(matrix))
    rows, a, b = matrix.contiguous().numpy(), low.numpy(), high.numpy()
    _by_rows(matrix, lambda at: kernel(rows[at], a[at], b[at]))
    return low, high


def grid_levels(matrix: Tensor, scale: Tensor, zero: Tensor | None, lowest: int, highest: int) -> Tensor:
    """(R, L) int32 levels clamp(round(w / scale) + zero), counted from ``lowest``; where the scale is 0, the level of
    the value 0."""
    if chunks.on_torch(matrix) or not matrix.numel():
        level = torch.round(quotient(matrix, scale[:, None]))
        level = (level if zero is None else level + zero[:, None]).clamp_(lowest, highest)
        return (level - lowest).to(torch.int32)
    from nqbench_quantizers.block_kernels import grid_levels as kernel

    out = torch.empty(matrix.shape, dtype=torch.int32)
    z = (matrix.new_empty(0) if zero is None else zero.contiguous()).numpy()
    rows, s, o = matrix.contiguous().numpy(), scale.contiguous().numpy(), out.numpy()
    _by_rows(matrix, lambda at: kernel(rows[at], s[at], z[at] if z.size else z, lowest, highest, o[at]))
    return out


def cells(matrix: Tensor, scale: Tensor, edges: Tensor) -> Tensor:
    """(R, L) int32: the number of ascending (k,) float32 edges below each weight divided by its row's scale."""
    if chunks.on_torch(matrix) or not matrix.numel():
        return torch.bucketize(quotient(matrix, scale[:, None]), edges, out_int32=True)
    from nqbench_quantizers.block_kernels import few_cells, many_cells

    kernel = few_cells if edges.numel() <= _FEW else many_cells
    out = torch.empty(matrix.shape, dtype=torch.int32)
    rows, s, e, o = matrix.contiguous().numpy(), scale.contiguous().numpy(), edges.contiguous().numpy(), out.numpy()
    _by_rows(matrix, lambda at: kernel(rows[at], s[at], e, o[at]))
    return out


def quotient(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0 or the quotient overflows."""
    return torch.nan_to_num(a / b, nan=0.0, posinf=0.0, neginf=0.0)


def _by_rows(matrix: Tensor, work: Callable[[slice], None]) -> None:
    in_chunks(len(matrix), work, max(1, CHUNK // matrix.shape[1]))
