"""Methods compared: each method's curve over its knob, its smallest file that holds, and how sure the difference is.

A method is a configuration without its knob and its seed. It is ranked by the smallest file that loses no more than the
tolerance; a method none of whose files holds comes after, by what its best one loses. Where bytes are the goal, it is
ranked as rows are: by what the best of the files that hold loses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from nqbench.results.curves import Estimate, bd_rate, estimate, size_change
from nqbench.results.goal import USUAL, Goal
from nqbench.results.labels import first_name
from nqbench.results.leaderboard import Row, by_loss
from nqbench.results.paired import Difference, paired_seeds
from nqbench.results.published import Published
from nqbench.results.record import Record
from nqbench.results.redrawn import Redrawn
from nqbench.results.stats import holm

ALPHA = 0.05
Verdict = Literal["leader", "identical", "better", "worse", "not distinguishable", ""]


@dataclass(frozen=True)
class MethodRow:
    """One method on one model. best: its smallest file that holds, or the one that loses least."""

    rank: int
    model: str
    method: str
    points: int
    """How many configurations of it were measured."""
    best: Row
    holds: bool | None
    vs_baseline: float | None
    """Bytes / the baseline's bytes, both at their smallest file that holds; None unless both hold."""
    is_baseline: bool
    vs_published: float | None
    """Ratio / the best quoted one that holds the same target, at the smallest file that holds; None unless both do."""
    violations: int
    """Of its points, how many fail although a smaller file of it holds: the metric is not monotone in the knob."""
    bd_rate: Estimate | None
    """Mean change of size against the baseline at equal metric, where that is of interest (``reach``); -0.1: ten per
    cent smaller; with an interval over test examples and seeds where those were recorded."""
    at_goal: Estimate | None
    """The change of size at what the goal allows to be lost, by the isotonic fits of both curves."""
    bd_rate_mse: float | None
    """The same at equal mse of the kept weights; None where other weights are kept than the baseline keeps."""
    verdict: Verdict
    """On the best file's metric against the leader's, on the same test examples and over all seeds; 'identical': the
    same on every one; '' where these were not recorded."""
    p: float | None
    """Of that: exact McNemar, or a paired bootstrap, which draws the seeds, too; Holm-adjusted over the model's
    methods."""

    def to_dict(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("bd_rate", "at_goal"):
            found: Estimate | None = fields.pop(name)
            fields[name] = found and found.change
            fields |= {f"{name}_low": found.low if found and found.known else None}
            fields |= {f"{name}_high": found.high if found and found.known else None}
        return {**fields, "best": self.best.to_dict()}


def methods(
    rows: Sequence[Row],
    records: Mapping[str, Record],
    *,
    baseline: str | None = None,
    goal: Goal = USUAL,
    published: Sequence[Published] = (),
    alpha: float = ALPHA,
) -> list[MethodRow]:
    """Ranked methods of one model. rows: its leaderboard; records: by key, for the paired tests. baseline: text that
    the baseline's name begins with, or None for the method named first in the suite. goal: the leaderboard's.
    published: the model's quoted rows."""
    curves: dict[str, list[Row]] = {}
    for point in rows:
        curves.setdefault(point.method, []).append(point)
    if not curves:
        return []
    goal = goal.asked_of(rows[0].metric_name, rows[0].metric_unit)
    chosen = _baseline(list(curves), rows, baseline, records)
    reference = curves.get(chosen or "", [])
    pick = _most_metric if goal.bytes is not None else _smallest
    anchor = pick(reference) if reference else None
    quoted = _best_quoted(published, rows, goal)
    original = next((row.metric_float for row in rows if row.metric_float is not None), None)
    found = []
    draws = Redrawn(rows, records)
    for name, points in curves.items():
        row = _method(name, points, pick(points), anchor, quoted)
        if name == chosen:
            row = replace(row, is_baseline=True)
        else:
            at_metric, at_goal = _changes(reference, points, draws, goal, original)
            # an mse is of the weights that are kept: of other masks it is of other weights
            alike = reference and reference[0].pruner == points[0].pruner
            at_mse = bd_rate(_curve(reference, "mse"), _curve(points, "mse")) if alike else None
            row = replace(row, bd_rate=at_metric, at_goal=at_goal, bd_rate_mse=at_mse)
        found.append(row)
    found.sort(key=(lambda row: by_loss(row.best)) if goal.bytes is not None else _order)
    return _test([replace(row, rank=rank) for rank, row in enumerate(found, 1)], records, alpha)


def _baseline(names: list[str], rows: Sequence[Row], asked: str | None, records: Mapping[str, Record]) -> str | None:
    """The baseline's method: the one that is asked for, None where it has no row; else the first of the suite."""
    if asked:
        near = [name for name in names if asked in (name, name.partition(" ")[0], name.partition("(")[0])]
        near += [name for name in names if name.startswith(asked)]
        # a name begins with the pruner and the sensitivity, and the quantizer is what a baseline is called by
        near += [row.method for row in rows if asked in (row.quantizer, first_name(row.quantizer))]
        near += [row.method for row in rows if f" {asked}" in row.method]
        return near[0] if near else None
    order = {key: index for index, key in enumerate(records)}
    first = min(rows, key=lambda row: min((order.get(key, len(order)) for key in row.keys), default=len(order)))
    return first.method


def _smallest(points: Sequence[Row]) -> Row:
    """The smallest that holds; else the least loss. Without a metric: the smallest mse."""
    holding = [row for row in points if row.holds]
    if holding:
        return min(holding, key=lambda row: row.file_bytes)
    return max(points, key=lambda row: (-math.inf if row.quality is None else row.quality, -row.file_bytes))


def _most_metric(points: Sequence[Row]) -> Row:
    """Of those that hold the one with the best metric; else the smallest."""
    holding = [row for row in points if row.holds]
    if holding:
        return max(holding, key=lambda row: (-math.inf if row.quality is None else row.quality, -row.file_bytes))
    return min(points, key=lambda row: row.file_bytes)


def _best_quoted(published: Sequence[Published], rows: Sequence[Row], goal: Goal) -> float | None:
    """The largest quoted ratio among published rows whose metric is within the target, by the measured original."""
    first = next((row for row in rows if row.metric_float is not None), None)
    if first is None or first.metric_float is None:
        return None
    sign = 1.0 if first.metric_higher_is_better else -1.0
    wanted = goal.wanted(first.metric_float, first.metric_higher_is_better)
    if wanted is None:
        return None
    ratios = [
        row.ratio
        for row in published
        if row.ratio is not None
        and (quoted := row.measured_as(first.metric_name, first.metric_unit)) is not None
        and sign * (wanted - quoted) <= 1e-9
    ]
    return max(ratios, default=None)


def violations(points: Sequence[Row]) -> int:
    """How many of a curve's points fail although a smaller file holds."""
    smallest = min((row.file_bytes for row in points if row.holds), default=math.inf)
    return sum(row.holds is False and row.file_bytes > smallest for row in points)


def _method(name: str, points: Sequence[Row], best: Row, anchor: Row | None, quoted: float | None) -> MethodRow:
    return MethodRow(
        rank=0,
        model=best.model,
        method=name,
        points=len(points),
        best=best,
        holds=best.holds,
        vs_baseline=best.file_bytes / anchor.file_bytes if anchor and anchor.holds and best.holds else None,
        is_baseline=False,
        vs_published=best.ratio / quoted if best.holds and best.ratio and quoted else None,
        violations=violations(points),
        bd_rate=None,
        at_goal=None,
        bd_rate_mse=None,
        verdict="",
        p=None,
    )


def _changes(
    anchor: Sequence[Row], test: Sequence[Row], draws: Redrawn, goal: Goal, original: float | None
) -> tuple[Estimate | None, Estimate | None]:
    """The delta rate at equal metric, and the change of size at what the goal allows to be lost."""
    ours, theirs = ([row for row in curve if row.drop is not None and not row.failed] for curve in (anchor, test))
    again = (draws.of(ours), draws.of(theirs))
    both = None if again[0] is None or again[1] is None else (again[0], again[1])
    curves = _curve(ours, "metric"), _curve(theirs, "metric")
    rate = estimate(*curves, partial(bd_rate, floor=-goal.reach(original)), both)
    lost = goal.lost(original)
    return rate, None if lost is None else estimate(*curves, partial(size_change, quality=-lost), both)


def _curve(points: Sequence[Row], quality: Literal["metric", "mse"]) -> list[tuple[float, float]]:
    return [(row.file_bytes, q) for row in points if (q := _quality(row, quality)) is not None and not row.failed]


def _quality(row: Row, kind: Literal["metric", "mse"]) -> float | None:
    """The metric the right way up, or the mse in decibels."""
    if kind == "metric":
        return None if row.drop is None else -row.drop
    return -10 * math.log10(row.mse) if row.mse else None


def _order(row: MethodRow) -> tuple[object, ...]:
    if row.holds:
        return (0, row.best.file_bytes, math.inf if row.best.drop is None else row.best.drop, row.method)
    quality = row.best.quality
    return (1, math.inf if quality is None else -quality, row.best.file_bytes, row.method)


def _test(ranked: list[MethodRow], records: Mapping[str, Record], alpha: float) -> list[MethodRow]:
    """Each method's best file against the leader's, corrected for their number."""
    leader = ranked[0].best
    tests = [_paired(leader, row.best, records) for row in ranked[1:]]
    adjusted = iter(holm([test.p for test in tests if test]))
    result = [replace(ranked[0], verdict="leader" if any(tests) else "")]
    for row, test in zip(ranked[1:], tests, strict=True):
        if test is None:
            result.append(row)
            continue
        p = next(adjusted)
        if test.identical:
            result.append(replace(row, verdict="identical"))
            continue
        gained = test.difference if row.best.metric_higher_is_better else -test.difference
        verdict: Verdict = "not distinguishable" if p > alpha else "better" if gained > 0 else "worse"
        result.append(replace(row, verdict=verdict, p=p))
    return result


def _paired(a: Row, b: Row, records: Mapping[str, Record]) -> Difference | None:
    """Two rows over all of their seeds. None without recorded values of the same examples."""
    ours, theirs = ([record for key in row.keys if (record := records.get(key))] for row in (a, b))
    return paired_seeds(ours, theirs) if ours and theirs else None


@dataclass(frozen=True)
class Quoted:
    """A published row beside what was measured: the smallest measured file whose metric is at least the quoted one."""

    row: Published
    measured: Row | None
    difference: float | None
    """Measured ratio / quoted ratio - 1; None where nothing measured is as good, or the paper gives no figure."""


def with_measured(published: Sequence[Published], rows: Sequence[Row]) -> list[Quoted]:
    """Each quoted row with the measured one that answers it."""
    return [_with_measured(row, rows) for row in published]


def _with_measured(quoted: Published, rows: Sequence[Row]) -> Quoted:
    known = [row for row in rows if row.ratio is not None and not row.failed]
    good = [row for row in known if quoted.ratio is not None and _as_good(row, quoted)]
    best = max(good, key=lambda row: row.ratio or 0.0, default=None)
    if best is None or best.ratio is None or quoted.ratio is None:
        return Quoted(quoted, None, None)
    return Quoted(quoted, best, best.ratio / quoted.ratio - 1)


def _as_good(row: Row, quoted: Published) -> bool:
    """Whether a measured file is at least as good as a quoted one, by the same metric."""
    target = quoted.measured_as(row.metric_name, row.metric_unit)
    sign = 1.0 if row.metric_higher_is_better else -1.0
    return target is not None and row.metric is not None and sign * (row.metric - target) >= -1e-9
