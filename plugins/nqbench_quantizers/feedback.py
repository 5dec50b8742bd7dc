"""Error feedback on a grid: optimal brain surgeon, column by column [Hassibi and Stork 1993; arXiv:2210.17323].

A row w of a layer whose inputs have second moments H is to be replaced by points q of a grid so that e H e^T,
e = w - q, is small. Write H = M D M^T, M unit upper triangular and D diagonal. Then

    e H e^T = sum_j d_j (e_j + sum_{i<j} e_i M_ij)^2,

so that, taking the columns in order, q_j should be near the target w_j + sum_{i<j} e_i M_ij: later columns compensate
the errors of earlier ones. This is optimal brain surgeon's update: with H^-1 = U^T U, U upper triangular, d_j = 1 /
U_jj^2, and the targets are the weights after every earlier error was propagated along U (arXiv:2307.13304, section 4,
shows that both are the same method). In this form no matrix is inverted, and the original weights are not overwritten.

With a price on bits, q_j = argmin d_j (target_j - q)^2 + price(q) (arXiv:2505.18758). All values are in units of grid
steps.

Masks: a row's pruned weights are left out, so that each row has an H of its own, restricted to the rows and columns of
its kept weights; rows are solved in batches, padded to one length. Where that would cost too much, all rows share the
full H, and pruned weights are weights that may only be 0: their error is 0, and the part of the compensation that would
fall on them is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nqbench.api.chunks import in_chunks

BLOCK = 128
"""Columns per matrix product: inside a block, each column depends on the one before it."""
_MOST_WORK = 4e11  # most multiplications for factorizations per row: a minute or two on one core
_MOST_ENTRIES = 1 << 27  # most entries of those factors together: 1 GiB
_CHUNK_ENTRIES = 1 << 23
_LEAST_DAMPING = 1e-8
_ROWS_AT_ONCE = 16  # of a thread of a beam search

Choose = Callable[["Rows", int, Tensor, Tensor], Tensor]
"""(rows, j, targets (B, R) in steps, gain (B, 1)) -> levels (B, R): integers, as float64. The gain is the cost of a
squared error of one step; 0 for a dead input (one that is always 0)."""


@dataclass(eq=False)
class Rows:
    """B quadratic forms, each shared by R rows of m columns.

    weights: (B, m, R) float64, in steps, columns in the order in which they are quantized. lower: (B, m, m), lower[j,
    i] = M_ij. gain: (B, m), the diagonal of D; 0 for a dead input. kept: (B, m, R) bool, False where a weight is pruned
    or padding; None: all are kept. rows: (B, R) and columns: (B, m), the indices in the layer's matrix. levels: (B, m,
    R), the levels chosen last.
    """

    weights: Tensor
    lower: Tensor
    gain: Tensor
    rows: Tensor
    columns: Tensor
    kept: Tensor | None = None
    levels: Tensor | None = None

    def sweep(self, choose: Choose, block: int = BLOCK) -> None:
        """Choose every level, in order. Left-looking: the targets of a block are one matrix product with all errors
        before it, those of a column one product with the errors inside its block."""
        errors = torch.zeros_like(self.weights)
        levels = torch.empty_like(self.weights)
        m = self.weights.shape[1]
        for start in range(0, m, block):
            stop = min(start + block, m)
            targets = self.weights[:, start:stop].clone()
            if start:
                targets.baddbmm_(self.lower[:, start:stop, :start], errors[:, :start])
            for j in range(start, stop):
                target = targets[:, j - start]
                if j > start:
                    pushed = torch.bmm(self.lower[:, j : j + 1, start:j], errors[:, start:j])
                    target += pushed[:, 0]
                level = self._chosen(choose, j, target, self.gain[:, j, None])
                levels[:, j] = level
                torch.sub(self.weights[:, j], level, out=errors[:, j])
        self.levels = levels

    def search(self, price: np.ndarray, reach: int, beam_width: int, threads: int = 1) -> None:
        """Choose every level by beam search, keeping the cheapest ``beam_width`` beginnings of each row at every
        column; price and reach are those of ``beam.best_rows``. Runs on the CPU, whatever the weights' device; rows do
        not depend on one another, so that threads change nothing."""
        from nqbench_quantizers.beam import best_rows

        weights, lower, gain = (part.cpu().numpy() for part in (self.weights, self.lower, self.gain))
        kept = np.ones(weights.shape, dtype=np.bool_) if self.kept is None else self.kept.cpu().numpy()
        levels = np.empty_like(weights)
        for b in range(len(weights)):

            def some(rows: slice, b: int = b) -> None:
                first, stop = rows.start, rows.stop
                best_rows(weights[b], lower[b], gain[b], kept[b], price, reach, beam_width, levels[b], first, stop)

            in_chunks(weights.shape[2], some, _ROWS_AT_ONCE, threads)
        self.levels = torch.from_numpy(levels).to(self.weights.device)

    def descend(self, choose: Choose, block: int = BLOCK) -> None:
        """Choose every level again, all others held: coordinate descent. With H = M D M^T the best number in column j
        is w_j + sum_{i != j} e_i H_ij / H_jj, and H_jj is the cost of a squared deviation of one step from it, so that
        the objective never increases."""
        assert self.levels is not None
        h = self.lower.mT @ (self.gain[:, :, None] * self.lower)
        curvature = h.diagonal(dim1=1, dim2=2).clone()
        pull = h / torch.where(curvature > 0, curvature, 1.0)[:, :, None]
        pull.diagonal(dim1=1, dim2=2).zero_()
        levels, errors = self.levels.clone(), self.weights - self.levels
        m = self.weights.shape[1]
        for start in range(0, m, block):
            stop = min(start + block, m)
            targets = torch.baddbmm(self.weights[:, start:stop], pull[:, start:stop], errors)
            before = errors[:, start:stop].clone()
            for j in range(start, stop):
                moved = errors[:, start:j] - before[:, : j - start]
                target = targets[:, j - start] + torch.bmm(pull[:, j : j + 1, start:j], moved)[:, 0]
                level = self._chosen(choose, j, target, curvature[:, j, None])
                levels[:, j] = level
                torch.sub(self.weights[:, j], level, out=errors[:, j])
        self.levels = levels

    def pulled(self, pull: float) -> None:
        """Add ``pull`` times the square of every weight to the form: with H' = H + pull I its minimum is at w' = w H
        H'^-1, and it exceeds the minimum by (w' - q) H' (w' - q)^T."""
        h = self.lower.mT @ (self.gain[:, :, None] * self.lower)
        more = h + pull * torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
        moved = torch.linalg.solve(more, h @ self.weights)
        self.weights = moved if self.kept is None else torch.where(self.kept, moved, 0.0)
        self.lower, gain = factor(more, 0.0)
        self.gain = torch.where(self.gain > 0, gain, 0.0)

    def _chosen(self, choose: Choose, j: int, target: Tensor, gain: Tensor) -> Tensor:
        level = choose(self, j, target, gain)
        return level if self.kept is None else torch.where(self.kept[:, j], level, 0.0)


def nearest(rows: Rows, j: int, target: Tensor, gain: Tensor) -> Tensor:
    """The nearest point of the grid; 0 for a dead input."""
    return torch.where(gain > 0, target.round(), 0.0)


def factor(h: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """(lower, gain) of H + damping * mean diagonal * I = M D M^T: lower[b, j, i] = M_ij, gain[b, j] = d_j.

    h: (B, m, m) float64, symmetric, positive semi-definite up to rounding; the damping is increased where it does not
    suffice to make H definite. A matrix of zeros is replaced by the identity.
    """
    diagonal = h.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True)
    eye = torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
    h = torch.where((mean > 0)[..., None], h, eye)
    mean = torch.where(mean > 0, mean, 1.0)[..., None]
    share = max(damping, _LEAST_DAMPING)
    while True:
        # the Cholesky factor of the reversed matrix, reversed again, is upper triangular
        root, failed = torch.linalg.cholesky_ex((h + share * mean * eye).flip(1, 2))
        if not bool(failed.any()):
            break
        share *= 10
    upper = root.flip(1, 2)
    scale = upper.diagonal(dim1=1, dim2=2)
    return (upper.mT / scale[..., None]).contiguous(), scale.square()


def whole_rows(
    matrix: Tensor, h: Tensor, damping: float, descending: bool, mask: Tensor | None = None
) -> Iterator[Rows]:
    """One form per group, and a batch after another of its rows, which all share one factorization.

    matrix: (O, m) float64 in steps; h: (G, m, m) float64; mask: (O, m), the matrix is 0 where it is False.
    """
    groups, m = len(h), h.shape[2]
    columns = order(h.diagonal(dim1=1, dim2=2), descending)
    lower, gain = factor(among(h, columns), damping)
    alive = _alive(h, columns, gain)
    rows = torch.arange(len(matrix), device=matrix.device).reshape(groups, -1)
    for some in torch.split(rows, max(1, _CHUNK_ENTRIES // max(1, groups * m)), 1):
        places = (some[:, None, :], columns[:, :, None])
        yield Rows(matrix[places], lower, alive, some, columns, None if mask is None else mask[places])


def lone_columns(matrix: Tensor, h: Tensor, mask: Tensor | None) -> Rows:
    """One form per column where only the diagonals are known, h: (G, 1, m): no weight can compensate another's error.

    As in ``factor``, a diagonal of zeros is replaced by ones.
    """
    groups, _, m = h.shape
    parts = matrix.reshape(groups, -1, m).transpose(1, 2).reshape(groups * m, 1, -1)
    gain = torch.where(h.mean(2, keepdim=True) > 0, h, 1.0).reshape(-1, 1)
    rows = torch.arange(len(matrix), device=matrix.device).reshape(groups, 1, -1).expand(-1, m, -1)
    columns = torch.arange(m, device=matrix.device).expand(groups, m)
    kept = None if mask is None else mask.reshape(groups, -1, m).transpose(1, 2).reshape(parts.shape)
    ones = matrix.new_ones(groups * m, 1, 1)
    return Rows(parts, ones, gain, rows.reshape(groups * m, -1), columns.reshape(-1, 1), kept)


def masked_rows(matrix: Tensor, h: Tensor, damping: float, descending: bool, mask: Tensor) -> Iterator[Rows]:
    """One form per row, restricted to its kept columns: rows of similar length in one batch, shorter ones padded."""
    count, m = matrix.shape
    per_group = count // len(h)
    kept = mask.sum(1)
    ranked = torch.argsort(kept, descending=True, stable=True)
    ranked = ranked[kept[ranked] > 0]
    diagonal = h.diagonal(dim1=1, dim2=2)
    padded = torch.cat([matrix, matrix.new_zeros(count, 1)], 1)
    while ranked.numel():
        longest = int(kept[ranked[0]])
        rows = ranked[: max(1, _CHUNK_ENTRIES // longest**2)]
        ranked = ranked[len(rows) :]
        group = rows // per_group
        # kept columns first, in the order in which they are quantized; m stands for padding
        rank = torch.where(mask[rows], diagonal[group] + 0.0, -1.0)
        places = order(rank, True) if descending else torch.argsort(~mask[rows], dim=1, stable=True)
        columns = places[:, :longest]
        real = torch.arange(longest, device=kept.device) < kept[rows][:, None]
        own = torch.where(real, columns, 0)
        both = real[:, :, None] & real[:, None, :]
        eye = torch.eye(longest, dtype=h.dtype, device=h.device)
        block = torch.where(both, h[group[:, None, None], own[:, :, None], own[:, None, :]], 0.0)
        mean = (block.diagonal(dim1=1, dim2=2).sum(1) / kept[rows])[:, None, None]
        # padding gets the mean of the diagonal: it changes neither the other columns nor the damping
        filled = torch.where(both, block, eye * torch.where(mean > 0, mean, 1.0))
        empty = (mean <= 0) & both
        lower, gain = factor(torch.where(empty, eye, filled), damping)
        alive = torch.where(real & (block.diagonal(dim1=1, dim2=2) <= 0) & (mean[:, 0] > 0), 0.0, gain)
        columns = torch.where(real, columns, m)
        weights = padded[rows[:, None], columns]
        yield Rows(weights[..., None], lower, alive, rows[:, None], columns, real[..., None])


def affordable(mask: Tensor) -> bool:
    """Whether a factorization per row is affordable."""
    kept = mask.sum(1).double()
    return float((kept**3).sum()) <= _MOST_WORK and float((kept**2).sum()) <= _MOST_ENTRIES


def order(rank: Tensor, descending: bool) -> Tensor:
    """(B, m) columns in the order in which they are quantized."""
    if descending:
        return torch.argsort(rank, dim=1, descending=True, stable=True)
    return torch.arange(rank.shape[1], device=rank.device).expand(rank.shape)


def among(h: Tensor, columns: Tensor) -> Tensor:
    return h.gather(1, columns[:, :, None].expand_as(h)).gather(2, columns[:, None, :].expand_as(h))


def _alive(h: Tensor, columns: Tensor, gain: Tensor) -> Tensor:
    """The gain, set to 0 for inputs that were always 0, unless all inputs of a form were."""
    diagonal = h.diagonal(dim1=1, dim2=2).gather(1, columns)
    dead = (diagonal <= 0) & (diagonal.amax(1, keepdim=True) > 0)
    return torch.where(dead, 0.0, gain)


def power(rows: Tensor, h: Tensor) -> float:
    """sum over rows of x H x^T. rows: (O, m); h: (G, m, m)."""
    split = rows.reshape(len(h), -1, rows.shape[1])
    if h.shape[1] != h.shape[2]:
        return float((split.square() * h).sum())
    return float((torch.bmm(split, h) * split).sum())
