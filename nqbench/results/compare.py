"""Two runs compared, trial by trial and figure by figure: worse, better, same, inconclusive, new, gone, failed.

Figures that are the same in every repeat (bytes, ratio, distortion) compare exactly, or within a declared relative
tolerance. Metrics compare on the same examples, by McNemar's exact test for right and
wrong and a paired bootstrap for any other. Times compare only on equal hardware, from
raw samples, and count as changed only where both the ratio and a rank test say so. Tests of a kind are corrected for
their number (Holm). "Same" has to be shown, too: identical predictions or an interval within the margin; what shows
neither a difference nor its absence is inconclusive.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nqbench.api.errors import BadInput
from nqbench.registry import did_you_mean
from nqbench.results.environment import comparable_times
from nqbench.results.exports import Side
from nqbench.results.figure_names import EXACT, SECONDS, metric_figure
from nqbench.results.goal import points
from nqbench.results.labels import Labels, configuration_key
from nqbench.results.paired import paired
from nqbench.results.record import Record
from nqbench.results.stats import are_times, compare_times, holm

Verdict = Literal["failed", "worse", "inconclusive", "better", "new", "gone", "same"]
ORDER: tuple[Verdict, ...] = ("failed", "worse", "inconclusive", "better", "new", "gone", "same")
"""A trial or a method is what the first of these says that any of its figures is."""


@dataclass(frozen=True)
class Thresholds:
    """tolerance: relative, by figure; absolute: in the figure's unit; a change within either is none. margin: of the
    metric, in points (of one that is no percentage: in percent of it), within which two networks count as equal. alpha:
    of each family of tests. time_ratio and time_p: what a change of speed must exceed, both."""

    tolerance: Mapping[str, float] = field(default_factory=lambda: {"mse": 1e-6, "weighted_mse": 1e-6, "ratio": 1e-12})
    absolute: Mapping[str, float] = field(default_factory=dict)
    margin: float = 0.5
    alpha: float = 0.05
    time_ratio: float = 1.1
    time_p: float = 0.002

    @staticmethod
    def of(settings: Mapping[str, Any] | None) -> Thresholds:
        """From what a run keeps of its suite's thresholds: the fields above; ``tolerance`` adds to the defaults."""
        given = dict((settings or {}).get("thresholds") or {})
        default = Thresholds()
        unknown = sorted(set(given) - set(vars(default)))
        if unknown:
            raise BadInput(f"unknown threshold '{unknown[0]}'; known: {', '.join(vars(default))}")
        return replace(default, **{**given, "tolerance": {**default.tolerance, **given.get("tolerance", {})}})

    def given(self, figure: str) -> bool:
        """Whether a tolerance was declared for the figure."""
        return figure in self.tolerance or figure in self.absolute

    def within(self, figure: str, a: float, b: float, default: float = 0.0) -> bool:
        """Whether a and b differ by no more than the figure may. default: relative, for a figure that none is given."""
        return abs(b - a) <= max(self.tolerance.get(figure, default) * abs(a), self.absolute.get(figure, 0.0))

    def with_tolerances(self, texts: Sequence[str], metrics: Iterable[str | None] | None = None) -> Thresholds:
        """Further tolerances, as ``figure=share``. metrics: those that a figure may be; None: any. Raises BadInput for
        another text, and for a figure that there is not, whose tolerance nothing would ask for."""
        more = {}
        known = None if metrics is None else [*EXACT, *dict.fromkeys(metric_figure(name) for name in metrics if name)]
        for text in texts:
            name, _, share = text.partition("=")
            try:
                more[name.strip()] = float(share)
            except ValueError:
                raise BadInput(f"tolerance '{text}': expected figure=share, such as file_bytes=0.001") from None
            if known is not None and name.strip() not in known:
                raise BadInput(f"tolerance '{text}': there is no figure '{name.strip()}'{did_you_mean(name, known)}")
        return replace(self, tolerance={**self.tolerance, **more})


@dataclass(frozen=True)
class Change:
    """One figure of one trial. change: relative, candidate / baseline - 1; of a metric in its unit, which is points
    where it is a percentage. p: Holm-adjusted."""

    trial: str
    model: str
    method: str
    configuration: str
    figure: str
    verdict: Verdict
    baseline: float | None = None
    candidate: float | None = None
    change: float | None = None
    p: float | None = None
    reason: str = ""
    unit: str = ""
    """Of a metric's change."""


@dataclass(frozen=True)
class Comparison:
    baseline: Side = field(repr=False)
    candidate: Side = field(repr=False)
    changes: Sequence[Change] = field(repr=False)
    notes: Sequence[str] = ()

    @property
    def trials(self) -> dict[str, Verdict]:
        """Verdict of each trial."""
        return _worst(self.changes, lambda change: change.trial)

    @property
    def methods(self) -> dict[str, Verdict]:
        """Verdict of each method, ``model: method``."""
        return _worst(self.changes, lambda change: f"{change.model}: {change.method}")

    @property
    def exit_code(self) -> int:
        """3 where anything is worse, else 2 where the candidate has failed trials, else 0."""
        verdicts = {change.verdict for change in self.changes}
        return 3 if "worse" in verdicts else 2 if "failed" in verdicts else 0


def _worst(changes: Sequence[Change], key: Any) -> dict[str, Verdict]:
    found: dict[str, set[Verdict]] = defaultdict(set)
    for change in changes:
        found[key(change)].add(change.verdict)
    return {name: next(verdict for verdict in ORDER if verdict in verdicts) for name, verdicts in found.items()}


def compare(baseline: Side, candidate: Side, thresholds: Thresholds | None = None) -> Comparison:
    """Raises BadInput where the sides cannot be compared: other suites, unequal seeds, no trial in common."""
    limits = thresholds or Thresholds()
    old = {record.trial: record for record in baseline.records}
    new = {record.trial: record for record in candidate.records}
    _comparable(baseline, candidate, old, new)
    labels = Labels([*old.values(), *new.values()])
    changes: list[_Open] = []
    notes: dict[str, None] = dict.fromkeys(baseline.notes)
    for trial in dict.fromkeys([*old, *new]):
        changes += _trial(old.get(trial), new.get(trial), labels, limits, notes)
    return Comparison(baseline, candidate, _settle(changes, limits), tuple(notes))


def _comparable(baseline: Side, candidate: Side, old: Mapping[str, Record], new: Mapping[str, Record]) -> None:
    if baseline.suite != candidate.suite:
        raise BadInput(
            f"{baseline.path} is of suite '{baseline.suite}', {candidate.path} of '{candidate.suite}': "
            "only runs of the same suite can be compared"
        )
    for side in (baseline, candidate):
        if not side.records:
            raise BadInput(f"{side.path}: holds no records to compare")
    seeds: list[dict[str, set[int | None]]] = []
    for records in (old, new):
        found: dict[str, set[int | None]] = defaultdict(set)
        for record in records.values():
            found[f"{record.model} {record.model_params} {configuration_key(record)}"].add(record.seed)
        seeds.append(found)
    for key in seeds[0].keys() & seeds[1].keys():
        if seeds[0][key] != seeds[1][key]:
            shown = [", ".join(str(seed) for seed in sorted(s[key], key=str)) for s in seeds]
            raise BadInput(
                f"the two runs have different seeds: {shown[0]} in {baseline.path}, {shown[1]} in {candidate.path}"
            )
    if not old.keys() & new.keys():
        raise BadInput(f"{baseline.path} and {candidate.path} have no trial in common")


@dataclass(frozen=True)
class _Open:
    """A change whose test still awaits the correction. family: the tests it is corrected with; '' for a settled one.
    below: what its own p must stay below, too. fallback: the verdict if the tests do not show the change."""

    change: Change
    family: str = ""
    below: float = math.inf
    fallback: Verdict = "inconclusive"


def _trial(
    old: Record | None, new: Record | None, labels: Labels, limits: Thresholds, notes: dict[str, None]
) -> list[_Open]:
    record = new or old
    assert record is not None
    base = Change(
        record.trial,
        labels.plugin(record, "model"),
        labels.method(record),
        labels.configuration(record),
        "status",
        "same",
    )
    if old is None or new is None:
        verdict: Verdict = "gone" if new is None else "new" if new.ok else "failed"
        return [_Open(replace(base, verdict=verdict, reason="" if record.ok else record.status))]
    if not new.ok:
        return [_Open(replace(base, verdict="failed", reason=f"{new.status}: {_line(new.error)}"))]
    if not old.ok:
        return [_Open(replace(base, verdict="better", reason=f"the baseline's trial {old.status}"))]
    found = [_Open(_exact(base, name, old, new, limits)) for name in EXACT if _both(name, old, new)]
    judged = _judged(base, old, new, limits)
    return found + ([] if judged is None else [judged]) + _times(base, old, new, limits, notes)


def _judged(base: Change, old: Record, new: Record, limits: Thresholds) -> _Open | None:
    """By what both are judged by: on the test split in pairs; where a search has kept that for others, by the figure on
    the split that it looked at. None where neither has a metric."""
    if old.metric_name is None and new.metric_name is None:
        return None
    kinds = [(r.metric_name, r.metric_unit, r.metric_higher_is_better) for r in (old, new)]
    if kinds[0] != kinds[1]:
        before, after = (record.metric_name or "nothing" for record in (old, new))
        reason = f"the baseline is judged by {before}, the candidate by {after}"
        return _Open(replace(base, figure="metric", verdict="inconclusive", reason=reason))
    if old.metric is not None and new.metric is not None:
        return _metric(base, old, new, limits)
    a, b = old.metric_where_selected, new.metric_where_selected
    name = metric_figure(new.metric_name)
    if old.selected_on != new.selected_on or old.selected_on in (None, "test") or a is None or b is None:
        if old.metric is None and new.metric is None:
            return None
        reason = "the two were not evaluated on one split"
        return _Open(replace(base, figure=name, verdict="inconclusive", reason=reason))
    same, better = limits.within(name, a, b, 1e-6), (b > a) == new.metric_higher_is_better
    return _Open(
        replace(
            base, figure=f"{new.selected_on}.{name}", verdict="same" if same else "better" if better else "worse",
            baseline=a, candidate=b, change=b - a, unit=points(new.metric_unit),
            reason="one of them was not evaluated on the test split",
        )
    )  # fmt: skip


def _both(name: str, old: Record, new: Record) -> bool:
    return getattr(old, name) is not None and getattr(new, name) is not None


def _line(error: str | None) -> str:
    lines = (error or "").strip().splitlines()
    return lines[-1] if lines else "no reason was recorded"


def _exact(base: Change, name: str, old: Record, new: Record, limits: Thresholds) -> Change:
    a, b = float(getattr(old, name)), float(getattr(new, name))
    same, worse = a == b or limits.within(name, a, b), (b < a) == EXACT[name]
    verdict: Verdict = "same" if same else "worse" if worse else "better"
    return replace(base, figure=name, verdict=verdict, baseline=a, candidate=b, change=b / a - 1 if a else None)


def _metric(base: Change, old: Record, new: Record, limits: Thresholds) -> _Open:
    assert old.metric is not None
    assert new.metric is not None
    name = metric_figure(new.metric_name)
    sign = 1.0 if new.metric_higher_is_better else -1.0
    gain = sign * (new.metric - old.metric)
    change = replace(base, figure=name, baseline=old.metric, candidate=new.metric, change=new.metric - old.metric)
    change = replace(change, unit=points(new.metric_unit))
    test = paired(old, new)
    if test is None:
        if old.examples is not None and new.examples is not None and old.examples != new.examples:
            reason = f"{old.examples} and {new.examples} examples cannot be paired"
            return _Open(replace(change, verdict="inconclusive", reason=reason))
        # nothing to pair: a figure like any other without chance in it
        same = limits.within(name, old.metric, new.metric, 1e-6) or abs(gain) <= 1e-6
        verdict: Verdict = "same" if same else "better" if gain > 0 else "worse"
        return _Open(replace(change, verdict=verdict, reason="no values of the examples were recorded"))
    if test.identical:
        return _Open(replace(change, verdict="same", p=1.0))
    if limits.given(name) and limits.within(name, old.metric, new.metric):
        return _Open(replace(change, verdict="same", p=test.p, reason="within the suite's tolerance"))
    moved: Verdict = "better" if sign * test.difference > 0 else "worse"
    # points of a percentage; of any other metric as many percent of it
    margin = limits.margin if new.metric_unit == "%" else limits.margin / 100 * abs(old.metric)
    equal = max(abs(test.low), abs(test.high)) <= margin
    change = replace(change, verdict=moved, p=test.p, reason=test.told)
    return _Open(change, "metric", fallback="same" if equal else "inconclusive")


def _times(base: Change, old: Record, new: Record, limits: Thresholds, notes: dict[str, None]) -> list[_Open]:
    stages = [stage for stage in old.samples if stage in new.samples and old.samples[stage] and new.samples[stage]]
    if not stages:
        return []
    if not (old.measured and new.measured):
        notes["times were not compared: they are not measurements on both sides"] = None
        return []
    if not comparable_times(old.environment, new.environment):
        notes["times were not compared: hardware, threads or device differ"] = None
        return []
    found = []
    for stage in stages:
        a, b = old.samples[stage], new.samples[stage]
        if not (are_times(a) and are_times(b)):
            continue
        speed = compare_times(a, b)
        slow, fast = speed.ratio > limits.time_ratio, speed.ratio < 1 / limits.time_ratio
        equal = 1 / limits.time_ratio < speed.low and speed.high < limits.time_ratio
        change = replace(
            base,
            figure=f"{SECONDS}{stage}",
            baseline=sorted(a)[len(a) // 2],
            candidate=sorted(b)[len(b) // 2],
            change=speed.ratio - 1,
            p=speed.p,
            reason=f"{len(a)} and {len(b)} samples",
            verdict="worse" if slow else "better",
        )
        below = limits.time_p if slow or fast else 0.0  # a ratio within the limits is no change, however sure
        found.append(_Open(change, "times", below, "same" if equal else "inconclusive"))
    return found


def _settle(changes: Sequence[_Open], limits: Thresholds) -> list[Change]:
    """Correct each family's p values, and let what is not significant fall back."""
    adjusted: dict[int, float] = {}
    for family in ("metric", "times"):
        members = [index for index, change in enumerate(changes) if change.family == family]
        values = holm([changes[index].change.p or 0.0 for index in members])
        adjusted |= dict(zip(members, values, strict=True))
    settled = []
    for index, entry in enumerate(changes):
        change = entry.change
        if entry.family:
            sure = adjusted[index] < limits.alpha and (change.p or 0.0) < entry.below
            change = replace(change, verdict=change.verdict if sure else entry.fallback, p=adjusted[index])
        settled.append(change)
    return settled
