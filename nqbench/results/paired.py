"""Two networks on the same examples: McNemar's test for right and wrong, a paired bootstrap for any other metric."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from nqbench.api.evaluation import Statistic, resampled
from nqbench.results.record import Record
from nqbench.results.stats import mcnemar

DRAWS = 2000
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Difference:
    """metric of b - metric of a, in its unit; p: two-sided, of no difference; low, high: a 95 % interval. identical:
    not one example differs. told: what was seen, in words."""

    difference: float
    p: float
    low: float
    high: float
    identical: bool
    told: str


def paired(a: Record, b: Record) -> Difference | None:
    """The difference of two records' metrics on the same examples; None where those were not recorded."""
    x, y = a.hits(), b.hits()
    if x is not None and y is not None and x.shape == y.shape:
        test = mcnemar(x, y)
        told = f"{test.gained} examples gained, {test.lost} lost"
        ends = (100 * test.difference, test.p, 100 * test.low, 100 * test.high)
        return Difference(*ends, test.gained == test.lost == 0, told)
    ours, theirs = a.per_example(), b.per_example()
    if ours is None or theirs is None or ours[1] != theirs[1] or ours[0].shape != theirs[0].shape:
        return None
    return bootstrap(ours[0], theirs[0], ours[1])


def bootstrap(a: np.ndarray, b: np.ndarray, statistic: Statistic, draws: int = DRAWS) -> Difference:
    """Efron's bootstrap (1979) of a statistic's difference: examples are drawn with replacement, the same for both.

    a, b: (N,) or (N, 2). p is twice the smaller share of draws on either side of no difference (one draw added, so that
    it is never 0), the interval the draws' 2.5 % and 97.5 % points. The draws are the same every time.
    """
    examples = len(a)
    ones = np.ones((1, examples))
    difference = float((resampled(statistic, b, ones) - resampled(statistic, a, ones))[0])
    if np.array_equal(a, b, equal_nan=True):
        return Difference(0.0, 1.0, 0.0, 0.0, True, f"the same on all {examples} examples")
    found = []
    for part in range(0, draws, size := max(1, _CHUNK // examples)):
        counts = _counts(examples, min(size, draws - part), part)
        found.append(resampled(statistic, b, counts) - resampled(statistic, a, counts))
    drawn = np.concatenate(found)
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return Difference(difference, 1.0, -np.inf, np.inf, False, "no resample has a metric")
    below = (np.sum(drawn <= 0) + 1) / (drawn.size + 1)
    above = (np.sum(drawn >= 0) + 1) / (drawn.size + 1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    told = f"{difference:+.4g}, between {low:+.4g} and {high:+.4g} over {drawn.size} resamples of {examples} examples"
    return Difference(difference, min(1.0, 2 * float(min(below, above))), float(low), float(high), False, told)


def resamples(examples: int, draws: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(draws, examples): how often each of the first ``draws`` resamples of ``bootstrap`` has each example."""
    size = max(1, _CHUNK // examples)
    return np.concatenate([_counts(examples, min(size, draws - part), part) for part in range(0, draws, size)])


@lru_cache(maxsize=4)
def _counts(examples: int, draws: int, part: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(draws, examples): how often each resample has each example."""
    generator = np.random.default_rng((examples, part))
    drawn = generator.integers(0, examples, (draws, examples))
    flat = drawn + examples * np.arange(draws)[:, None]
    return np.bincount(flat.reshape(-1), minlength=draws * examples).reshape(draws, examples).astype(np.float64)
