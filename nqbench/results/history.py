"""Each figure of each trial over the nights, and the points where it changed.

A night is compared with the first since the last change, so that a slow loss is told, too. Figures without chance
change where the two differ by more than the tolerance, a metric with values of its examples where McNemar's test or a
paired bootstrap says so, corrected for the number of nights. Times change at the borders of the best piecewise constant
line (least absolute deviations of the logarithms, as asv finds steps) that pass the comparison's own two conditions,
the ratio and the rank test.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Literal

from nqbench.results.compare import Change, Thresholds
from nqbench.results.environment import comparable_times
from nqbench.results.figure_names import EXACT, SECONDS, metric_figure
from nqbench.results.labels import Labels
from nqbench.results.paired import paired
from nqbench.results.record import Record
from nqbench.results.stats import are_times, compare_times
from nqbench.results.store import Run, Store

NIGHTS = 120
"""How many of the last nights are searched for changes of speed: the search takes their number's cube."""


@dataclass(frozen=True)
class Point:
    """One night's value. samples: raw seconds, where the figure is a time."""

    run: str
    started: str
    revision: str
    value: float
    samples: tuple[float, ...] = field(default=(), repr=False)
    record: Record | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Step:
    """Night ``at`` differs from night ``since``: from the last before it or, where nothing changed from one night to
    the next, from the first since the change before this one."""

    since: int
    at: int
    before: float
    after: float
    verdict: Literal["worse", "better"]


@dataclass(frozen=True)
class Series:
    trial: str
    model: str
    configuration: str
    figure: str
    points: tuple[Point, ...]
    steps: tuple[Step, ...]

    @property
    def constant(self) -> bool:
        return len({point.value for point in self.points}) == 1


def history(store: Store, thresholds: Thresholds | None = None, *, suite: str | None = None) -> list[Series]:
    """Series of every trial that the last night has, over all nights of its suite that ended."""
    nights = [run for run in store.runs() if run.outcome in ("ok", "failed")]
    if not nights:
        return []
    name = suite or nights[-1].suite
    return build([(run, store.records(run.run)) for run in nights if run.suite == name], thresholds)


def build(nights: Sequence[tuple[Run, Sequence[Record]]], thresholds: Thresholds | None = None) -> list[Series]:
    """As ``history``, from runs and what each of them says, oldest first."""
    limits = thresholds or Thresholds()
    last = list(nights[-1][1])
    labels = Labels(last)
    found: list[Series] = []
    by_night = [(run, {record.trial: record for record in records}) for run, records in nights]
    for record in last:
        trials = [(run, records[record.trial]) for run, records in by_night if record.trial in records]
        who = (record.trial, labels.plugin(record, "model"), labels.configuration(record))
        for figure, points in _figures([(run, r) for run, r in trials if r.ok]).items():
            found.append(Series(*who, figure, points, steps(figure, points, limits)))
    return found


def _figures(nights: Sequence[tuple[Run, Record]]) -> dict[str, tuple[Point, ...]]:
    found: dict[str, list[Point]] = {}
    if not nights:
        return {}
    reference = nights[-1][1].environment
    for run, record in nights:
        revision = str(run.environment.get("git_revision") or run.environment.get("nqbench") or "")
        for figure in (*EXACT, "metric"):
            value = getattr(record, figure)
            if value is not None:
                name = metric_figure(record.metric_name) if figure == "metric" else figure
                found.setdefault(name, []).append(Point(run.run, run.started, revision, value, (), record))
        if record.measured and comparable_times(record.environment, reference):
            for stage, samples in record.samples.items():
                if are_times(samples):
                    point = Point(run.run, run.started, revision, median(samples), tuple(samples), record)
                    found.setdefault(f"{SECONDS}{stage}", []).append(point)
    return {figure: tuple(points) for figure, points in found.items()}


def steps(figure: str, points: Sequence[Point], limits: Thresholds) -> tuple[Step, ...]:
    """Where a series changed, oldest first."""
    if figure.startswith(SECONDS):
        skipped = max(0, len(points) - NIGHTS)
        return tuple(replace(s, since=s.since + skipped, at=s.at + skipped) for s in _splits(points[skipped:], limits))
    found = []
    since = 0  # against the first night since the last change: what falls a little each night falls at last
    for at in range(1, len(points)):
        b = points[at]
        worse = _worse(figure, points[since], b, limits, len(points) - 1)
        if worse is not None:
            if _worse(figure, points[at - 1], b, limits, len(points) - 1) == worse:
                since = at - 1
            found.append(Step(since, at, points[since].value, b.value, "worse" if worse else "better"))
            since = at
    return tuple(found)


def _worse(figure: str, a: Point, b: Point, limits: Thresholds, tests: int) -> bool | None:
    """Whether b is worse than a; None where they do not differ."""
    if a.value == b.value:
        return None
    if figure not in EXACT and a.record is not None and b.record is not None:
        test = paired(a.record, b.record)
        if test is not None:
            if limits.given(figure) and limits.within(figure, a.value, b.value):
                return None
            worse = (test.difference < 0) == b.record.metric_higher_is_better
            return worse if test.p * tests < limits.alpha else None
    if limits.within(figure, a.value, b.value, 0.0 if figure in EXACT else 1e-6):
        return None
    larger_is_better = EXACT.get(figure, b.record is None or b.record.metric_higher_is_better)
    return (b.value < a.value) == larger_is_better


def _splits(points: Sequence[Point], limits: Thresholds) -> list[Step]:
    """Borders of the best piecewise constant line, less those that the two conditions do not confirm."""
    borders = _partition([math.log(point.value) for point in points], _noise(points))
    while len(borders) > 2:
        tests = []
        for left, at, right in zip(borders, borders[1:], borders[2:], strict=False):
            speed = compare_times(_pool(points[left:at]), _pool(points[at:right]))
            holds = speed.p < limits.time_p and not 1 / limits.time_ratio <= speed.ratio <= limits.time_ratio
            tests.append((holds, -speed.p, at))
        weakest = min(tests)
        if weakest[0]:
            break
        borders.remove(weakest[2])  # its sides become one, and the rest is tested again
    found = []
    for left, at, right in zip(borders, borders[1:], borders[2:], strict=False):
        old, new = (median(p.value for p in part) for part in (points[left:at], points[at:right]))
        found.append(Step(at - 1, at, old, new, "worse" if new > old else "better"))
    return found


def _noise(points: Sequence[Point]) -> float:
    """Spread of a night's value without a change, in logarithms: that of the samples within a night and, once there
    are enough of them, of neighbouring nights; at least one per cent."""
    within = [_deviation(logs) / len(logs) for p in points if (logs := [math.log(s) for s in p.samples])]
    between = [abs(math.log(b.value / a.value)) for a, b in itertools.pairwise(points)]
    return max(0.01, median(within) if within else 0.0, median(between) if len(between) >= 4 else 0.0)


def _partition(values: Sequence[float], noise: float) -> list[int]:
    """Borders 0 = b_0 < ... < b_m = n of the segments that minimize the sum of absolute deviations from each segment's
    median plus a price a segment, four times the noise (dynamic programming)."""
    n, price = len(values), 4.0 * noise
    cost, before = [0.0] + [math.inf] * n, [0] * (n + 1)
    for end in range(1, n + 1):
        for start in range(end):
            total = cost[start] + _deviation(values[start:end]) + price
            if total < cost[end]:
                cost[end], before[end] = total, start
    borders = [n]
    while borders[-1]:
        borders.append(before[borders[-1]])
    return borders[::-1]


def _pool(points: Sequence[Point]) -> list[float]:
    """What a rank test compares: the nights' medians where there are enough of them, for the samples of one night are
    alike; else all samples."""
    return [p.value for p in points] if len(points) >= 7 else [s for p in points for s in p.samples]


def _deviation(values: Sequence[float]) -> float:
    middle = median(values)
    return sum(abs(value - middle) for value in values)


def with_slow(changes: Sequence[Change], found: Sequence[Series], run: str) -> list[Change]:
    """A night's changes, with what differs from longer ago where it does not from the night before.

    changes: the night's comparison with the one before. found: the history, that night's included. run: the night's.
    """
    slow = {
        (series.trial, series.figure): (series.points[step.since], step)
        for series in found
        for step in series.steps[-1:]
        if step.at == len(series.points) - 1 > step.since + 1 and series.points[step.at].run == run
    }
    told = []
    for change in changes:
        since, step = slow.get((change.trial, change.figure), (None, None))
        if since is None or step is None or change.verdict not in ("same", "inconclusive"):
            told.append(change)
            continue
        relative = change.figure in EXACT
        amount = step.after / step.before - 1 if relative and step.before else step.after - step.before
        reason = f"slowly, since run {since.run} ({since.started[:10]})"
        told.append(replace(change, verdict=step.verdict, baseline=step.before, change=amount, p=None, reason=reason))
    return told


def changed(found: Sequence[Series]) -> Mapping[str, list[Series]]:
    """Series with a step, by configuration, those that got worse last first."""
    result: dict[str, list[Series]] = {}
    for series in sorted(found, key=lambda s: (not any(x.verdict == "worse" for x in s.steps), s.configuration)):
        if series.steps:
            result.setdefault(f"{series.model} {series.configuration}", []).append(series)
    return result
