"""The statistics that tables and comparisons rest on: pure functions of arrays. scipy is imported by the rank
test alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from nqbench.api.errors import BadInput


@dataclass(frozen=True)
class Paired:
    """Two networks on the same examples. gained: right in b and wrong in a; lost: the other way round.

    difference: share of right answers, b - a. p: exact two-sided McNemar. low, high: a 95 % interval of the difference.
    """

    gained: int
    lost: int
    examples: int
    difference: float
    p: float
    low: float
    high: float


def mcnemar(a: np.ndarray, b: np.ndarray) -> Paired:
    """McNemar's exact test (1947): under the null each of the n discordant examples favours either with 1/2.

    a, b: (examples,) bool, right or wrong on the same examples in the same order. The two-sided p doubles the smaller
    tail of Binomial(n, 1/2), at most 1. The interval is Wald's with the Agresti-Min correction (2005: half an example
    is added to each of the four cells).
    """
    if a.shape != b.shape:
        raise BadInput(f"a paired test needs the same examples: {a.size} and {b.size}")
    gained, lost = int(np.sum(~a & b)), int(np.sum(a & ~b))
    n, examples = gained + lost, int(a.size)
    p = min(1.0, 2.0 * _fair_tail(min(gained, lost), n)) if n else 1.0
    up, down, total = gained + 0.5, lost + 0.5, examples + 2.0
    middle = (up - down) / total
    half = 1.959963984540054 * math.sqrt(max(0.0, up + down - (up - down) ** 2 / total)) / total
    difference = (gained - lost) / examples if examples else 0.0
    return Paired(gained, lost, examples, difference, p, middle - half, middle + half)


def wilson(hits: float, n: int) -> tuple[float, float]:
    """A 95 % interval of the probability behind ``hits`` successes in n trials, as shares (Wilson 1927).

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), p = hits / n, z = 1.96: unlike Wald's it stays
    within [0, 1] and has a width where p is 0 or 1.
    """
    z, p = 1.959963984540054, hits / n
    middle, scale = p + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(max(0.0, p * (1 - p)) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


@cache
def _fair_tail(k: int, n: int) -> float:
    """P(X <= k) for X of Binomial(n, 1/2): counted in whole numbers, rounded once."""
    ways, total = 1, 1
    for i in range(k):
        ways = ways * (n - i) // (i + 1)
        total += ways
    return total / (1 << n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): compare each with alpha, and the chance of any false alarm is at most alpha.

    The i-th smallest of m is multiplied by m - i + 1; the results are made monotone and cut at 1.
    """
    m = len(p_values)
    adjusted = [0.0] * m
    running = 0.0
    for position, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        running = max(running, (m - position) * p_values[index])
        adjusted[index] = min(1.0, running)
    return adjusted


@dataclass(frozen=True)
class Speed:
    """Two samples of seconds. ratio: median of b / median of a. p: exact two-sided Mann-Whitney rank test.

    low, high: a 95 % interval of the ratio; (0, inf) where the samples are too few for one.
    """

    ratio: float
    p: float
    low: float
    high: float


def are_times(samples: Sequence[float]) -> bool:
    """Whether these are measured seconds: some, all positive and finite."""
    return len(samples) > 0 and all(0 < seconds < math.inf for seconds in samples)


def compare_times(a: Sequence[float], b: Sequence[float]) -> Speed:
    """Rank test and ratio of two independent samples of positive times.

    The interval is Hodges and Lehmann's (1963) on the logarithms: the order statistics of all pairwise ratios that the
    exact null distribution of U cuts off at 2.5 % a side.
    """
    from scipy.stats import mannwhitneyu

    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not (are_times(a) and are_times(b)):
        raise BadInput("times to compare must be positive, at least one a side")
    exact = max(x.size, y.size) <= 50 and np.unique(np.concatenate([x, y])).size == x.size + y.size
    p = float(mannwhitneyu(x, y, alternative="two-sided", method="exact" if exact else "asymptotic").pvalue)
    ratios = np.sort((y[:, None] / x[None, :]).reshape(-1))
    cut = _cut(x.size, y.size)
    low, high = (float(ratios[cut - 1]), float(ratios[-cut])) if cut else (0.0, math.inf)
    return Speed(float(np.median(y) / np.median(x)), p if math.isfinite(p) else 1.0, low, high)


def _cut(m: int, n: int) -> int:
    """The largest c with P(U < c) <= 0.025 under the null; 0: no interval of 95 % exists."""
    from scipy.stats import norm

    if m * n > 400:
        value = m * n / 2 + norm.ppf(0.025) * math.sqrt(m * n * (m + n + 1) / 12)
        return max(0, math.floor(float(value)))
    counts = rank_counts(m, n)
    below = np.cumsum(counts) / counts.sum()
    return int(np.sum(below <= 0.025))


def rank_counts(m: int, n: int) -> np.ndarray:
    """(m n + 1,) float64: in how many of the C(m + n, m) orders U takes each value; Mann and Whitney's recursion."""
    table = [np.ones(1) for _ in range(n + 1)]
    for i in range(1, m + 1):
        row = [np.ones(1)]
        for j in range(1, n + 1):
            counts = np.zeros(i * j + 1)
            counts[j : j + table[j].size] += table[j]  # the largest is an x: it beats all j
            counts[: row[j - 1].size] += row[j - 1]  # or a y
            row.append(counts)
        table = row
    return np.asarray(table[n])
