"""A second condition for searches that can look at training data alone.

A network knows its training data better than any other: margins are wide there, and an accuracy of 99.9 % hides what
quantization does until it does far too much. On a ResNet-32 a search for half a point on training images found a file
that lost 0.74 points on the test images. How far outputs move is seen before a first choice changes, so such a search
holds the divergence from the float network besides, at so many nats for each point that may be lost: the same search
then lost 0.50.
"""

from __future__ import annotations

import math

from nqbench.api import BadInput, Metric, Model, Split
from nqbench.api.evaluation import DIVERGENCE
from nqbench.results.goal import Goal

PER_POINT = 0.02
"""Nats on training data for each point of accuracy that may be lost (`reports/reference/FINDINGS.md`)."""
_LEAST = 0.1
"""Points below which the divergence is not pressed further: to lose nothing need not mean to change nothing."""


def usual_loss(metric: Metric) -> str:
    """What may be lost where nobody says (``Goal.usual``), as a user would write it."""
    goal = Goal.usual(metric.name, metric.unit)
    return f"{goal.drop:g}" if goal.share is None else f"{goal.share:g}%"


def allowed_loss(max_drop: str | float) -> dict[str, float]:
    """What may be lost, in a target's fields: points, or a share of the float network's metric (``"1%"``). Raises
    BadInput for anything else."""
    text = str(max_drop).strip()
    try:
        drop = float(text.removesuffix("%"))
    except ValueError:
        drop = -1.0
    if not 0 <= drop < math.inf:
        raise BadInput(f"{max_drop}: write points (0.5) or a share of the float network's metric (1%)")
    return {"share" if text.endswith("%") else "drop": drop}


def divergence_beside(model: Model, split: Split, max_drop: str | float) -> float | None:
    """The largest divergence on the split of a file that may lose so much (points, or percent as ``"1%"``); None where
    the search sees data that the network was not trained on, or does not judge by the accuracy of a classifier."""
    headline = model.metric()
    if split != "train" or headline is None or headline.unit != "%" or not headline.higher_is_better:
        return None
    if DIVERGENCE.name not in [metric.name for metric in model.metrics()]:
        return None
    try:  # a share of an accuracy is no more than as many points
        points = float(str(max_drop).strip().removesuffix("%"))
    except ValueError:  # the suite says what is wrong with it
        return None
    return PER_POINT * max(points, _LEAST)
