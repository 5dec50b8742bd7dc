"""The coder's prices of symbols, where error feedback weighs a level's error against its bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nqbench.api import Rate
from nqbench_quantizers.feedback import Rows

_MOST_PRICED = 1 << 16
_REFRESH = 16  # columns between two updates of the coder's prices


def mean_gain(parts: list[Rows]) -> float:
    """The mean of d_j over all weights: the output error caused by a squared error of one step^2."""
    total = sum(float((p.gain[:, :, None] * _kept(p)).sum()) for p in parts)
    return total / sum(float(_kept(p).sum()) for p in parts)


def _kept(part: Rows) -> Tensor:
    return torch.ones_like(part.weights) if part.kept is None else part.kept.double()


class Prices:
    """argmin over levels near the target of gain * (target - level)^2 + lambda * bits(level).

    The levels -span ... span have prices of their own; levels beyond have the price of the outermost. pull: the
    multiple of a level's square that gain and target already contain, so that prices exclude it. adaptive: when a
    column is quantized, its old symbols are removed from the counts and its new ones are added.
    """

    def __init__(self, parts: list[Rows], rate: Rate, lam: float, reach: int, pull: float = 0.0) -> None:
        self.rate, self.lam, self.reach, self.pull = rate, lam, reach, pull
        self.adaptive = False
        largest = max(float(p.weights.abs().max()) for p in parts)
        self.span = min(math.ceil(largest) + 1, _MOST_PRICED)
        self.count(parts)

    def count(self, parts: list[Rows]) -> None:
        """Set the counts, and from them the prices, by the levels chosen last."""
        self.counts = sum((self._histogram(p.levels, p.kept) for p in parts), torch.zeros(()))
        self._refresh()

    def _histogram(self, levels: Tensor | None, kept: Tensor | None) -> Tensor:
        """(2 span + 1,) int64."""
        assert levels is not None
        chosen = levels if kept is None else levels[kept]
        return torch.bincount(self._index(chosen).reshape(-1), minlength=2 * self.span + 1)

    def _index(self, levels: Tensor) -> Tensor:
        return (levels.clamp(-self.span, self.span) + self.span).long()

    def _refresh(self) -> None:
        bits = torch.from_numpy(self.rate(self.counts.cpu().numpy())).to(self.counts.device)
        self.price = self.lam * bits.double()
        if self.pull:
            # gain and target contain the square already
            levels = torch.arange(-self.span, self.span + 1, dtype=torch.float64, device=self.price.device)
            self.price = self.price - self.pull * levels.square()

    def __call__(self, rows: Rows, j: int, target: Tensor, gain: Tensor) -> Tensor:
        best = target.round()
        cost = self._cost(gain, target, best)
        tried = [best + k for k in (*range(-self.reach, 0), *range(1, self.reach + 1))]
        for level in (*tried, torch.zeros_like(best)):
            other = self._cost(gain, target, level)
            less = other < cost
            best, cost = torch.where(less, level, best), torch.where(less, other, cost)
        # an input that is always 0 tells nothing of its weights, and their bits are to be saved
        best = torch.where(gain > 0, best, torch.zeros_like(best))
        if self.adaptive:
            self._exchange(rows, j, best)
        return best

    def _cost(self, gain: Tensor, target: Tensor, level: Tensor) -> Tensor:
        return gain * (target - level).square() + self.price[self._index(level)]

    def _exchange(self, rows: Rows, j: int, new: Tensor) -> None:
        kept = None if rows.kept is None else rows.kept[:, j]
        old = None if rows.levels is None else rows.levels[:, j]
        self.counts = self.counts + self._histogram(new, kept) - self._histogram(old, kept)
        if j % _REFRESH == 0:
            self._refresh()
