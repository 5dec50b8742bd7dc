"""The search for operating points: for each method, the smallest file that holds a target, over the method's knob.

A method is a trial whatever the value of its quantizer's (or codec's) knob. Its knob is walked on its own scale from
x = 0, the largest file, to x = 1, the smallest. A coarse grid comes first, because a metric need not fall with every
step of the knob: the bracket is then the last point that holds and its neighbour that does not, and is halved until
the stated number of trials is spent or the knob cannot be told apart any more. A point that fails although a smaller
file holds is a *violation* of monotony, and is counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nqbench.api.quantizer import Knob
from nqbench.registry import Registry
from nqbench.suite.spec import Target
from nqbench.suite.trial import Choice, Trial

RESOLUTION = 0.01
"""Relative width of a bracket at which a search ends (knobs with a log scale), or of the range (linear ones)."""


@dataclass(frozen=True)
class Question:
    """What the schedule must know before it can go on: the knob of a trial's method, on its own weights."""

    trial: Trial


@dataclass
class Point:
    """One value of the knob: x in [0, 1], and once it ended whether it held and how many bytes it took."""

    x: float
    value: float
    holds: bool | None = None
    bytes: int | None = None


@dataclass
class Search:
    """One method's search. ``points`` are in the order they were asked for."""

    method: Trial
    knob: Knob | None = None
    points: list[Point] = field(default_factory=list)
    done: bool = False

    @property
    def violations(self) -> int:
        """Points that fail although a point of a smaller file holds."""
        last = max((p.x for p in self.points if p.holds), default=-1.0)
        return sum(p.holds is False and p.x < last for p in self.points)

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
            coarse = max(3, math.ceil(budget / 3))
            wanted = [i / (coarse - 1) for i in range(coarse)]
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
        """The middle of the bracket, if there is one that can still be told apart."""
        held = [p for p in self.points if p.holds]
        if not held:
            return []
        low = max(held, key=lambda p: p.x)
        above = [p for p in self.points if p.x > low.x]
        if not above:
            return []  # the whole range holds
        high = min(above, key=lambda p: p.x)
        assert self.knob is not None
        if self.knob.integer:
            return [(low.x + high.x) / 2] if abs(low.value - high.value) > 1 else []
        if self.knob.scale == "log":
            near = abs(math.log(high.value / low.value)) < RESOLUTION
        else:
            near = abs(high.value - low.value) < RESOLUTION * (self.knob.high - self.knob.low)
        return [] if near else [(low.x + high.x) / 2]


class TargetSchedule:
    """A schedule that searches every method of a suite's trials for its operating point at the suite's target."""

    def __init__(self, trials: Sequence[Trial], target: Target, registry: Registry) -> None:
        self.target = target
        self.registry = registry
        self.searches = [Search(method) for method in dict.fromkeys(trials)]
        self._asked: set[Trial] = set()
        self._running: dict[Trial, list[Point]] = {}
        self._known: dict[Trial, Mapping[str, Any]] = {}

    def upper_bound(self) -> int:
        return len(self.searches) * self.target.trials

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
        search.knob = knob or Knob("", 1, 1)
        if knob is not None:
            search.method = with_knob(search.method, knob, search.value_at(0.0), self.registry)
            if any(other is not search and other.method == search.method for other in self.searches):
                self.searches.remove(search)

    def ready(self) -> list[Trial]:
        trials = []
        for search in self.searches:
            if search.knob is None or search.done:
                continue
            for trial, point in self._next(search):
                if trial in self._known:
                    self._judge(point, self._known[trial])
                    continue
                if trial not in self._running:
                    trials.append(trial)
                self._running.setdefault(trial, []).append(point)
        return trials

    def _next(self, search: Search) -> list[tuple[Trial, Point]]:
        assert search.knob is not None
        if not search.knob.field:
            points = [] if search.points else [Point(0.0, 0.0)]
            search.points += points
            search.done = not points
            return [(search.method, point) for point in points]
        return [
            (with_knob(search.method, search.knob, point.value, self.registry), point)
            for point in search.next_points(self.target.trials)
        ]

    def ended(self, trial: Trial, record: Mapping[str, Any]) -> None:
        self._known[trial] = record
        for point in self._running.pop(trial, ()):
            self._judge(point, record)

    def _judge(self, point: Point, record: Mapping[str, Any]) -> None:
        point.holds = holds(self.target, record)
        point.bytes = record.get("file_bytes")

    def finished(self) -> bool:
        return not self._running and all(search.done for search in self.searches)

    def violations(self) -> dict[str, int]:
        """Trial id of each method -> its violations of monotony, where there were any."""
        return {s.method.trial: s.violations for s in self.searches if s.violations}


def with_knob(trial: Trial, knob: Knob, value: float, registry: Registry) -> Trial:
    """The trial with its quantizer's (or codec's) knob at a value."""
    place = "codec" if trial.codec is not None else "quantizer"
    choice: Choice = getattr(trial, place)
    parameters = {**json.loads(choice.json), knob.field: int(value) if knob.integer else value}
    changed = Choice.of(registry.make(choice.kind, choice.name, parameters))
    return replace(trial, codec=changed) if place == "codec" else replace(trial, quantizer=changed)


def holds(target: Target, record: Mapping[str, Any]) -> bool:
    """Whether a record holds the target, on the split that the search looks at. A failed trial never does."""
    if record.get("status") != "ok" or record.get("metric") is None:
        return False
    name, higher = record["metric_name"], record.get("metric_higher_is_better", True)
    value, reference = record["metric"], record["metric_float"]
    if target.split != "test":
        value = record["metrics"].get(f"{target.split}.{name}")
        reference = record["metrics_float"].get(f"{target.split}.{name}")
        if value is None or reference is None:
            return False
    if target.metric is not None:
        return bool(value >= target.metric if higher else value <= target.metric)
    fall = reference - value if higher else value - reference
    return bool(fall <= (target.drop or 0.0) + 1e-9)
