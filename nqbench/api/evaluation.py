"""What a network reaches on a split: metrics, and beside each a value for every example, so that two networks can be
compared in pairs.

A metric follows from its examples' values by one of a few statistics: what a share of right answers, a loss, a
perplexity, a rank correlation and a score like IoU are made of. ``resampled`` gives it for any choice of examples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

Statistic = Literal["share", "mean", "exp-mean", "ratio", "spearman"]
"""share: percent of the examples that are True. mean. exp-mean: e to the mean (perplexity of a mean loss in nats).
ratio: the sum of the first column over that of the second (IoU: intersections and unions). spearman: rank correlation
of the two columns."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Metric:
    """A leaderboard's headline figure.

    Args:
        name: as tables call it.
        unit: of its values, as text behind them.
        higher_is_better: which way is better.

    Example:
        >>> Metric("perplexity", "", higher_is_better=False).unit
        ''
    """

    name: str = "accuracy"
    unit: str = "%"
    higher_is_better: bool = True


AGREEMENT = Metric("agreement", "%")
"""How often the first choice is the float network's."""
DIVERGENCE = Metric("divergence", "nats", higher_is_better=False)
"""The mean Kullback-Leibler divergence from the float network's outputs to the compressed one's."""


_FALLING = {
    "loss", "nll", "perplexity", "ppl", "error", "errors", "err", "divergence", "kl", "distance", "deviation", "mse",
    "rmse", "mae", "mape", "wer", "cer", "eer", "fid", "bpb", "bpc", "latency",
}  # fmt: skip
"""Words in the names of metrics that are better the lower."""


def rises(name: str) -> bool:
    """Whether higher values of a metric of that name are better: no word of it is an error's.

    Example:
        >>> rises("top-5 accuracy"), rises("validation_loss")
        (True, False)
    """
    return not _FALLING & set(re.findall("[a-z]+", name.lower()))


@dataclass(frozen=True, eq=False)
class PerExample:
    """A value for each example, and how the metric follows from them.

    Args:
        values: (examples,), bool for a share; (examples, 2) for a ratio or a rank correlation.
        statistic: see ``Statistic``.

    Example:
        >>> import torch
        >>> PerExample(torch.tensor([True, False, True, True]), "share").metric()
        75.0
        >>> PerExample(torch.tensor([[2.0, 4.0], [1.0, 2.0]]), "ratio").metric()
        0.5
    """

    values: Tensor
    statistic: Statistic = "mean"

    def metric(self) -> float:
        values = self.values.detach().cpu().double().numpy()
        return float(resampled(self.statistic, values, np.ones((1, len(values))))[0])


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network reaches on a split.

    Args:
        metrics: name -> value, in the metric's unit.
        correct: (examples,) bool, in the split's fixed order, where the headline metric is a share of right answers and
            ``examples`` does not say so: the paired tests between methods use it. Else None.
        examples: metric's name -> its value of each example, in the split's fixed order.

    Example:
        >>> Evaluation({"accuracy": 99.1}).correct is None
        True
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    correct: Tensor | None = None
    examples: Mapping[str, PerExample] = field(default_factory=dict)


def resampled(statistic: Statistic, values: Array, counts: Array) -> Array:
    """The metric of each choice of examples.

    Args:
        statistic: how it follows from the values.
        values: (N,) or (N, 2) float64.
        counts: (D, N), how often each choice has each example.

    Returns:
        (D,) float64.
    """
    total = counts.sum(1)
    if statistic == "ratio":
        whole: Array = (counts @ values[:, 0]) / (counts @ values[:, 1])
        return whole
    if statistic == "spearman":
        return _correlation(_ranks(values[:, 0], counts), _ranks(values[:, 1], counts), counts)
    means: Array = counts @ values / total
    return np.exp(means) if statistic == "exp-mean" else 100 * means if statistic == "share" else means


def _ranks(column: Array, counts: Array) -> Array:
    """(D, N): the mean rank of each example among those of a choice, equal values sharing theirs."""
    order = np.argsort(column, kind="stable")
    ranked = column[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    members = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks = np.cumsum(members, axis=1) - members / 2
    found = np.empty(counts.shape)
    found[:, order] = np.repeat(ranks, np.diff([*starts, len(column)]), axis=1)
    return found


def _correlation(x: Array, y: Array, counts: Array) -> Array:
    """(D,): Pearson's, examples counted as often as ``counts`` says; nan where one side is constant."""
    total = counts.sum(1, keepdims=True)
    x, y = (v - (counts * v).sum(1, keepdims=True) / total for v in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = (counts * x * y).sum(1) / np.sqrt((counts * x * x).sum(1) * (counts * y * y).sum(1))
    return found
