"""Two networks on the same examples: McNemar's test for right and wrong, a paired bootstrap for any other metric and
for means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
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
    return paired_seeds([a], [b])


def paired_seeds(a: Sequence[Record], b: Sequence[Record]) -> Difference | None:
    """The difference of two configurations' mean metrics over their seeds, on the same examples: McNemar's exact test
    where each has one seed. None where those were not recorded, or not of all seeds alike."""
    answers = _answers([*a, *b])
    if answers is None:
        return None
    values, statistic = answers
    if statistic == "share" and len(a) == len(b) == 1:
        test = mcnemar(*values)
        told = f"{test.gained} examples gained, {test.lost} lost"
        ends = (100 * test.difference, test.p, 100 * test.low, 100 * test.high)
        return Difference(*ends, test.gained == test.lost == 0, told)
    return bootstrap(values[: len(a)], values[len(a) :], statistic)


def _answers(records: Sequence[Record]) -> tuple[list[np.ndarray], Statistic] | None:
    """What the metric of all of them follows from, and how."""
    hits = [one for record in records if (one := record.hits()) is not None]
    if len(hits) == len(records) and len({one.shape for one in hits}) == 1:
        return hits, "share"
    known = [given for record in records if (given := record.per_example()) is not None]
    if len(known) < len(records) or len({(statistic, values.shape) for values, statistic in known}) != 1:
        return None
    return [values for values, _ in known], known[0][1]


def bootstrap(a: Sequence[np.ndarray], b: Sequence[np.ndarray], statistic: Statistic, draws: int = DRAWS) -> Difference:
    """Efron's bootstrap (1979) of the difference of two mean metrics: examples are drawn with replacement, the same for
    all; and where there are several seeds, those of each side.

    a, b: of each seed the values of the examples, (N,) or (N, 2). p is twice the smaller share of draws on either side
    of no difference (one draw added, so that it is never 0), the interval the draws' 2.5 % and 97.5 % points. The draws
    are the same every time.
    """
    a, b = ([np.asarray(one, dtype=np.float64) for one in side] for side in (a, b))
    examples = len(a[0])
    ones = np.ones((1, examples))
    difference = float(
        np.mean([resampled(statistic, one, ones) for one in b])
        - np.mean([resampled(statistic, one, ones) for one in a])
    )
    if all(np.array_equal(a[0], one, equal_nan=True) for one in (*a[1:], *b)):
        return Difference(0.0, 1.0, 0.0, 0.0, True, f"the same on all {examples} examples")
    chosen = np.random.default_rng((examples, len(a), len(b)))
    found = []
    for part in range(0, draws, size := max(1, _CHUNK // examples)):
        counts = _counts(examples, min(size, draws - part), part)
        found.append(mean_of_seeds(b, statistic, counts, chosen) - mean_of_seeds(a, statistic, counts, chosen))
    drawn = np.concatenate(found)
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return Difference(difference, 1.0, -np.inf, np.inf, False, "no resample has a metric")
    below = (np.sum(drawn <= 0) + 1) / (drawn.size + 1)
    above = (np.sum(drawn >= 0) + 1) / (drawn.size + 1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    told = f"{difference:+.4g}, between {low:+.4g} and {high:+.4g} over {drawn.size} resamples of {examples} examples"
    return Difference(difference, min(1.0, 2 * float(min(below, above))), float(low), float(high), False, told)


def mean_of_seeds(
    seeds: Sequence[np.ndarray], statistic: Statistic, counts: np.ndarray, chosen: np.random.Generator
) -> np.ndarray:
    """(D,) the mean metric of seeds drawn with replacement, on each resample of the examples."""
    each = np.stack([resampled(statistic, one, counts) for one in seeds], 1)
    if len(seeds) > 1:
        each = np.take_along_axis(each, chosen.integers(0, len(seeds), each.shape), 1)
    mean: np.ndarray = each.mean(1)
    return mean


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
