"""The search for operating points: for each method, the smallest file that holds a target, over the method's knob.

A method is a trial whatever the value of its quantizer's (or codec's) knob, and whatever its seed. Its knob is walked
on its own scale from x = 0, the largest file, to x = 1, the smallest. A coarse grid comes first, because a metric need
not fall with every step of the knob: the bracket is then the last point that holds and the next one that does not, and
is halved until the stated number of points is spent or the knob cannot be told apart any more. A point that fails
although a smaller file holds is a *violation* of monotony, and is counted. A point whose trial failed says nothing: the
search goes on around it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nqbench.api.errors import BadInput
from nqbench.api.quantizer import Knob
from nqbench.registry import Registry
from nqbench.suite.schedule import Question
from nqbench.suite.spec import Target
from nqbench.suite.trial import Choice, Trial

RESOLUTION = 0.01
"""Relative width of a bracket at which a search ends (knobs with a log scale), or of the range (linear ones)."""
NO_KNOB = Knob("", 1, 1)
_SLACK = 1e-9  # 99.0 - 98.5 is not exactly 0.5 in floating point


@dataclass(eq=False)
class Point:
    """One value of the knob: x in [0, 1]. Once every seed's trial ended: whether the target was held on average, the
    mean bytes, and whether a trial failed."""

    x: float
    value: float
    holds: bool | None = None
    bytes: float | None = None
    failed: bool = False


@dataclass(eq=False)
class Search:
    """One method's search. methods: its trial, once a seed. ``points`` are in the order they were asked for."""

    methods: tuple[Trial, ...]
    knob: Knob | None = None
    points: list[Point] = field(default_factory=list)
    done: bool = False

    @property
    def method(self) -> Trial:
        return self.methods[0]

    @property
    def violations(self) -> int:
        """Points that fail although a point of a smaller file holds."""
        last = max((p.x for p in self.points if p.holds), default=-1.0)
        return sum(p.holds is False and not p.failed and p.x < last for p in self.points)

    @property
    def best(self) -> Point | None:
        """The smallest file that holds."""
        held = [p for p in self.points if p.holds and p.bytes is not None]
        return min(held, key=lambda p: p.bytes or 0, default=None)

    def value_at(self, x: float) -> float:
        """The knob's value at x; whole where it must be."""
        assert self.knob is not None
        k = self.knob
        t = 1 - x if k.more_bytes == "up" else x
        value = k.low * (k.high / k.low) ** t if k.scale == "log" else k.low + (k.high - k.low) * t
        return float(round(value)) if k.integer else float(f"{value:.6g}")

    def next_points(self, budget: int) -> list[Point]:
        """The points to try now; none (and ``done``) when there is nothing left to learn or to spend."""
        if any(p.holds is None for p in self.points):
            return []
        left = budget - len(self.points)
        wanted: list[float] = []
        if not self.points:
            coarse = 1 if self.knob is NO_KNOB else max(3, math.ceil(budget / 3))
            wanted = [i / max(1, coarse - 1) for i in range(coarse)]
        elif left > 0:
            wanted = self._halved()
        fresh: list[Point] = []
        for x in wanted[: max(left, 0)]:
            value = self.value_at(x)
            if all(p.value != value for p in (*self.points, *fresh)):
                fresh.append(Point(x, value))
        if not fresh:
            self.done = True
        self.points += fresh
        return fresh

    def _halved(self) -> list[float]:
        """The middle of the bracket, if there is one that can still be told apart: of the widest gap that failed trials
        leave in it."""
        held = max((p.x for p in self.points if p.holds), default=None)
        short = [p.x for p in self.points if p.holds is False and not p.failed and p.x > (-1 if held is None else held)]
        broken = [p.x for p in self.points if p.failed]
        if not short:
            return []  # the whole range holds, or nothing ended well
        high = min(short)
        low = held if held is not None else min(broken, default=high)
        inside = sorted((p for p in self.points if low <= p.x <= high), key=lambda p: p.x)
        gaps = [(b.x - a.x, a, b) for a, b in itertools.pairwise(inside) if not self._near(a, b)]
        if not gaps:
            return []
        _, a, b = max(gaps, key=lambda gap: gap[0])
        return [(a.x + b.x) / 2]

    def _near(self, a: Point, b: Point) -> bool:
        """Whether nothing worth trying lies between two points."""
        assert self.knob is not None
        if self.knob.integer:
            return abs(a.value - b.value) <= 1
        if self.knob.scale == "log":
            return abs(math.log(b.value / a.value)) < RESOLUTION
        return abs(b.value - a.value) < RESOLUTION * (self.knob.high - self.knob.low)


class TargetSchedule:
    """A schedule that searches every method of a suite's trials for its operating point at the suite's target."""

    search = True

    def __init__(self, trials: Sequence[Trial], target: Target, registry: Registry) -> None:
        self.target = target
        self.registry = registry
        self.searches = [Search(tuple(methods)) for methods in _by_seed(trials).values()]
        self._asked: set[Trial] = set()
        self._complaints: list[str] = []
        self._ended: dict[Trial, Mapping[str, Any]] = {}
        self._running: set[Trial] = set()
        self._open: list[tuple[Point, tuple[Trial, ...]]] = []

    def upper_bound(self) -> int:
        return sum(len(search.methods) for search in self.searches) * self.target.trials

    def questions(self) -> list[Question]:
        """Knobs to be found out, each asked for once."""
        fresh = [s.method for s in self.searches if s.knob is None and s.method not in self._asked]
        self._asked.update(fresh)
        return [Question(method) for method in fresh]

    def answered(self, question: Question, knob: Knob | None) -> None:
        """The knob of the question's trial; a method without one is tried as it stands.

        Values of the knob that the suite lists are one method: its later copies are dropped.
        """
        search = next(s for s in self.searches if s.method == question.trial and s.knob is None)
        search.knob = knob or NO_KNOB
        if knob is None:
            return
        same = [s for s in self.searches if s is not search and self._whatever(s, knob) == self._whatever(search, knob)]
        if same:
            self.searches.remove(search)
            seeds = {method.seed for method in same[0].methods}
            same[0].methods += tuple(method for method in search.methods if method.seed not in seeds)

    def _whatever(self, search: Search, knob: Knob) -> object:
        """What two searches share that differ by the value of this knob alone. Of one that has no knob yet: nothing."""
        if search.knob is None or search.knob.field != knob.field:
            return search
        choice = _with_knob(search.method)
        rest = tuple(sorted((k, json.dumps(v)) for k, v in choice.parameters.items() if k != knob.field))
        return replace(_swapped(search.method, Choice(choice.kind, choice.name)), seed=None), rest

    def complaints(self) -> list[str]:
        told, self._complaints = self._complaints, []
        return told

    def ready(self) -> list[Trial]:
        trials: list[Trial] = []
        for search in self.searches:
            while search.knob is not None and not search.done:
                points = search.next_points(self.target.trials)
                for point in points:
                    self._start(search, point, trials)
                if not points or any(point.holds is None for point in points):
                    break
        return trials

    def _start(self, search: Search, point: Point, trials: list[Trial]) -> None:
        """Hand out a point's trials, those that were not before, or judge it where all of them have ended."""
        assert search.knob is not None
        try:
            wanted = tuple(
                replace(self._at(method, search.knob, point), selected_on=self.target.split)
                for method in search.methods
            )
        except BadInput as error:  # a value that the plugin refuses
            point.holds, point.failed = False, True
            self._complaints.append(f"{search.knob.field}={point.value:g} is left out of the search: {error}")
            return
        fresh = [trial for trial in wanted if trial not in self._ended and trial not in self._running]
        trials += fresh
        self._running.update(fresh)
        self._open.append((point, wanted))
        self._settle()

    def _at(self, method: Trial, knob: Knob, point: Point) -> Trial:
        return method if knob is NO_KNOB else with_knob(method, knob, point.value, self.registry)

    def ended(self, trial: Trial, record: Mapping[str, Any]) -> None:
        self._running.discard(trial)
        self._ended[trial] = record
        self._settle()

    def _settle(self) -> None:
        """Judge the points whose trials have all ended."""
        still = []
        for point, trials in self._open:
            if all(trial in self._ended for trial in trials):
                self._judge(point, [self._ended[trial] for trial in trials])
            else:
                still.append((point, trials))
        self._open = still

    def _judge(self, point: Point, records: Sequence[Mapping[str, Any]]) -> None:
        lacking = [lacks(self.target, record) for record in records]
        found = [value for value in lacking if value is not None]
        point.failed = len(found) < len(lacking)
        point.holds = not point.failed and sum(found) / len(found) <= _SLACK
        if not point.failed:
            point.bytes = sum(record["file_bytes"] for record in records) / len(records)

    def finished(self) -> bool:
        return not self._running and all(search.done for search in self.searches)

    def violations(self) -> dict[str, int]:
        """Trial id of each method -> its violations of monotony, where there were any."""
        return {s.method.trial: s.violations for s in self.searches if s.violations}


def _by_seed(trials: Sequence[Trial]) -> dict[Trial, list[Trial]]:
    """Trials that differ by their seed alone, together."""
    found: dict[Trial, list[Trial]] = {}
    for trial in dict.fromkeys(trials):
        found.setdefault(replace(trial, seed=None), []).append(trial)
    return found


def _with_knob(trial: Trial) -> Choice:
    """The plugin of a trial that has the knob."""
    choice = trial.codec or trial.quantizer
    assert choice is not None
    return choice


def _swapped(trial: Trial, choice: Choice) -> Trial:
    """The trial with another choice in its place."""
    return replace(trial, codec=choice) if choice.kind == "codec" else replace(trial, quantizer=choice)


def with_knob(trial: Trial, knob: Knob, value: float, registry: Registry) -> Trial:
    """The trial with its quantizer's (or codec's) knob at a value. Raises BadInput where the plugin refuses it."""
    choice = _with_knob(trial)
    parameters = {**choice.parameters, knob.field: int(value) if knob.integer else value}
    return _swapped(trial, Choice.of(registry.make(choice.kind, choice.name, parameters)))


def lacks(target: Target, record: Mapping[str, Any]) -> float | None:
    """By how much a record misses the target, on the split that the search looks at; 0 or less: it holds.

    None where it says nothing: the trial failed, or gave no metric (or no number) there.
    """
    if record.get("status") != "ok" or record.get("metric") is None:
        return None
    name, sign = record["metric_name"], 1.0 if record.get("metric_higher_is_better", True) else -1.0
    value, reference = record["metric"], record["metric_float"]
    if target.split != "test":
        value = record["metrics"].get(f"{target.split}.{name}")
        reference = record["metrics_float"].get(f"{target.split}.{name}")
        if value is None or reference is None:
            return None
    wanted = target.metric if target.metric is not None else reference - sign * (target.drop or 0.0)
    missing = sign * (wanted - value)
    return math.inf if math.isnan(missing) else float(missing)


def holds(target: Target, record: Mapping[str, Any]) -> bool:
    """Whether a record holds the target, on the split that the search looks at. A failed trial never does."""
    missing = lacks(target, record)
    return missing is not None and missing <= _SLACK
