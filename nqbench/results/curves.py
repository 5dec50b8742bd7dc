"""Curves of quality over size: the fit that is compared, delta rates, and how sure those are.

A curve is (bytes, quality) points, larger quality is better. Accuracy is not monotone in a knob where points lie near
each other: what is compared is the isotonic fit, which takes neither the lucky points nor the unlucky ones alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nqbench.results.pchip import integral, value

Curve = Sequence[tuple[float, float]]
_TOO_FEW = 0.95
"""Share of the resamples that must have a figure for there to be an interval."""


def isotonic(points: Curve) -> list[tuple[float, float]]:
    """The isotonic regression of quality on size: the non-decreasing curve of least squares (Ayer et al. 1955).

    By pooling adjacent violators: points that do not rise become one, of their mean quality and the mean of their log
    bytes, so that size and quality strictly rise along the result; so do points that rise by less than a billionth of
    the whole range, through which no curve can be drawn. Points without a finite quality do not count.
    """
    blocks: list[tuple[float, float, int]] = []  # sum of log bytes, sum of qualities, points
    sizes: dict[float, list[float]] = {}
    for size, quality in points:
        if math.isfinite(quality):
            sizes.setdefault(size, []).append(quality)
    known = [quality for found in sizes.values() for quality in found]
    least = 1e-9 * (max(known) - min(known)) if known else 0.0
    for size in sorted(sizes):
        found = sizes[size]
        block = (len(found) * math.log(size), math.fsum(found), len(found))
        while blocks and (blocks[-1][1] / blocks[-1][2] + least) >= block[1] / block[2]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    return [(math.exp(logs / n), quality / n) for logs, quality, n in blocks]


def bd_rate(anchor: Curve, test: Curve, *, floor: float = -math.inf) -> float | None:
    """Bjontegaard's delta rate (VCEG-M33, 2001): the mean change of size at equal quality, e.g. -0.2 for 20 % less.

    Of each curve's isotonic fit log bytes over quality is interpolated by a monotone cubic (PCHIP, as the field does
    since the four-point polynomial was found to overshoot) and averaged over the qualities that both cover. None where
    they share no interval, or a fit has fewer than two points. floor: qualities below it do not count.
    """
    fits = [isotonic(anchor), isotonic(test)]
    if any(len(fit) < 2 for fit in fits):
        return None
    low = max(floor, *(fit[0][1] for fit in fits))
    high = min(fit[-1][1] for fit in fits)
    if not high > low:
        return None
    means = []
    for fit in fits:
        size, quality = np.array(fit, dtype=np.float64).T
        means.append(integral(quality, np.log(size), low, high) / (high - low))
    return math.expm1(means[1] - means[0])


def size_change(anchor: Curve, test: Curve, quality: float) -> float | None:
    """The change of size at one quality, by both curves' isotonic fits; None where one does not cover it."""
    logs = []
    for curve in (anchor, test):
        fit = isotonic(curve)
        if len(fit) < 2 or not fit[0][1] <= quality <= fit[-1][1]:
            return None
        size, qualities = np.array(fit, dtype=np.float64).T
        logs.append(value(qualities, np.log(size), quality))
    return math.expm1(logs[1] - logs[0])


@dataclass(frozen=True)
class Estimate:
    """A change of size with a 95 % interval; (nan, nan) where there is none."""

    change: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def estimate(
    anchor: Curve,
    test: Curve,
    compare: Callable[[Curve, Curve], float | None],
    draws: tuple[np.ndarray, np.ndarray] | None,
) -> Estimate | None:
    """What ``compare`` says of two curves, and between which ends it lies when their qualities are drawn again.

    draws: (D, points) qualities of each curve, row by row from the same examples. The interval is the percentile one
    (Efron 1979); none where one in twenty resamples has no figure.
    """
    change = compare(anchor, test)
    if change is None:
        return None
    if draws is None:
        return Estimate(change)
    sizes = [[size for size, _ in curve] for curve in (anchor, test)]
    found = []
    for ours, theirs in zip(*draws, strict=True):
        again = compare(
            list(zip(sizes[0], ours.tolist(), strict=True)), list(zip(sizes[1], theirs.tolist(), strict=True))
        )
        if again is not None:
            found.append(again)
    if len(found) < _TOO_FEW * len(draws[0]):
        return Estimate(change)
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(change, float(low), float(high))
