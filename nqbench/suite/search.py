"""The search for operating points: for each method, the smallest file that holds a target.

A method is a trial whatever the value of its quantizer's (or codec's) knob, and whatever its seed. Which values of the
knob are tried is decided by ``bracket``, one for each method; here they become trials, and records become points.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nqbench.api.errors import BadInput, NoFigure
from nqbench.api.evaluation import DIVERGENCE
from nqbench.api.quantizer import Knob
from nqbench.pipeline.trial import Choice, Trial
from nqbench.registry import Registry
from nqbench.results.record import on_split
from nqbench.suite.bracket import NO_KNOB, SLACK, Bracket, Point
from nqbench.suite.schedule import Question
from nqbench.suite.spec import Target


@dataclass(eq=False)
class Search:
    """One method's search. methods: its trial, once a seed. bracket: its points; None until its knob is known."""

    methods: tuple[Trial, ...]
    bracket: Bracket | None = None

    @property
    def method(self) -> Trial:
        return self.methods[0]

    @property
    def done(self) -> bool:
        return self.bracket is not None and self.bracket.done

    @property
    def points(self) -> list[Point]:
        return [] if self.bracket is None else self.bracket.points

    @property
    def best(self) -> Point | None:
        """The smallest file that holds; see ``Bracket.best``."""
        return None if self.bracket is None else self.bracket.best

    @property
    def violations(self) -> int:
        return 0 if self.bracket is None else self.bracket.violations


class TargetSchedule:
    """A schedule that searches every method of a suite's trials for its operating point at the suite's target."""

    search = True

    def __init__(self, trials: Sequence[Trial], target: Target, registry: Registry) -> None:
        self.target = target
        self.registry = registry
        # what is asked of a method before its first point looks where the points will
        tested = target.report == "all"
        looking = [replace(trial, selected_on=target.split, tested=tested) for trial in trials]
        self.searches = [Search(tuple(methods)) for methods in _by_seed(looking).values()]
        self._asked: set[Trial] = set()
        self._complaints: list[str] = []
        self._complained: set[str] = set()
        self._ended: dict[Trial, Mapping[str, Any]] = {}
        self._running: set[Trial] = set()
        self._open: list[tuple[Point, tuple[Trial, ...]]] = []
        self._told = False

    def upper_bound(self) -> int:
        last = 1 if self.target.report == "chosen" else 0
        return sum(len(search.methods) for search in self.searches) * (self.target.trials + last)

    def questions(self) -> list[Question]:
        """Knobs to be found out, each asked for once."""
        fresh = [s.method for s in self.searches if s.bracket is None and s.method not in self._asked]
        self._asked.update(fresh)
        return [Question(method) for method in fresh]

    def answered(self, question: Question, knob: Knob | None) -> None:
        """The knob of the question's trial; a method without one is tried as it stands.

        Values of the knob that the suite lists are one method: its later copies are dropped.
        """
        search = next(s for s in self.searches if s.method == question.trial and s.bracket is None)
        search.bracket = Bracket(knob or NO_KNOB, largest=self.target.bytes is not None)
        if knob is None:
            return
        same = [s for s in self.searches if s is not search and self._whatever(s, knob) == self._whatever(search, knob)]
        if same:
            self.searches.remove(search)
            seeds = {method.seed for method in same[0].methods}
            same[0].methods += tuple(method for method in search.methods if method.seed not in seeds)

    def _whatever(self, search: Search, knob: Knob) -> object:
        """What two searches share that differ by the value of this knob alone. Of one that has no knob yet: nothing."""
        if search.bracket is None or search.bracket.knob.field != knob.field:
            return search
        choice = _with_knob(search.method)
        rest = tuple(sorted((k, json.dumps(v)) for k, v in choice.parameters.items() if k != knob.field))
        return replace(_swapped(search.method, Choice(choice.kind, choice.name)), seed=None), rest

    def complaints(self) -> list[str]:
        told, self._complaints = self._complaints, []
        return told

    def stop(self) -> None:
        """Ask for no more points: what was handed out and has not ended is not waited for."""
        for search in self.searches:
            search.bracket = search.bracket or Bracket(NO_KNOB)
            search.bracket.stop()
        self._running.clear()
        self._open.clear()

    def _finals(self) -> list[Trial]:
        """Once all searches are done: their answers on the test split, where it was kept for the end."""
        if self.target.report != "chosen" or self._told or not all(search.done for search in self.searches):
            return []
        self._told = True
        finals = [replace(trial, tested=True) for trial in self.chosen()]
        self._running.update(finals)
        return finals

    def ready(self) -> list[Trial]:
        trials: list[Trial] = []
        for search in self.searches:
            while search.bracket is not None and not search.done:
                points = search.bracket.next_points(self.target.trials)
                for point in points:
                    self._start(search, search.bracket.knob, point, trials)
                if not points or not all(point.ended for point in points):
                    break
        return [*trials, *self._finals()]

    def _start(self, search: Search, knob: Knob, point: Point, trials: list[Trial]) -> None:
        """Hand out a point's trials, those that were not before, or judge it where all of them have ended."""
        try:
            wanted = self._trials(search, knob, point)
        except BadInput as error:  # a value that the plugin refuses
            point.failed = True
            self._complaints.append(f"{knob.field}={point.value:g} is left out of the search: {error}")
            return
        fresh = [trial for trial in wanted if trial not in self._ended and trial not in self._running]
        trials += fresh
        self._running.update(fresh)
        self._open.append((point, wanted))
        self._settle()

    def _trials(self, search: Search, knob: Knob, point: Point) -> tuple[Trial, ...]:
        """A point's trials, one a seed. Raises BadInput where the plugin refuses the value."""
        return tuple(m if knob is NO_KNOB else with_knob(m, knob, point.value, self.registry) for m in search.methods)

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
        if self.target.divergence is not None and not any(_measured(record) for record in records):
            self._complain("the model measures no divergence from the float network: the target's is not held")
        if self.target.bytes is None and any(_not_finite(record) for record in records):
            point.missing, point.bytes = math.inf, 0.0  # beyond what can be told: its file was not kept
            return
        found = [value for value in (judged(self.target, record) for record in records) if value is not None]
        point.failed = len(found) < len(records)
        if not point.failed:
            point.missing = sum(missing for missing, _ in found) / len(found)
            point.most = sum(most or 0.0 for _, most in found) / len(found)
            point.bytes = sum(record["file_bytes"] for record in records) / len(records)

    def _complain(self, text: str) -> None:
        if text not in self._complained:
            self._complained.add(text)
            self._complaints.append(text)

    def finished(self) -> bool:
        told = self._told or self.target.report != "chosen"
        return told and not self._running and all(search.done for search in self.searches)

    def chosen(self) -> list[Trial]:
        """The trials, one a seed, of each method's answer so far; nothing of a method of which no point holds."""
        found: list[Trial] = []
        for search in self.searches:
            if search.bracket is not None and search.best is not None:
                found += self._trials(search, search.bracket.knob, search.best)
        return found

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
    """By how much a record misses the target, in the metric's unit (or as a share of the bytes); 0 or less: it holds.
    None where the record says nothing; see ``judged``."""
    found = judged(target, record)
    return None if found is None else found[0]


def judged(target: Target, record: Mapping[str, Any]) -> tuple[float, float | None] | None:
    """By how much a record misses the target, and, in the same unit, how much all that may be lost is (None: nothing
    may).

    Metric and divergence are those of the split which the search looks at. None where the record says nothing: the
    trial failed, or gave no metric there. Where it gave no divergence, none is asked.
    """
    if record.get("status") != "ok":
        return None
    alone = _alone(target, record)
    if alone is None or target.divergence is None:
        return alone
    missing, lost = alone
    apart = record["metrics"].get(on_split(DIVERGENCE.name, target.split))
    if apart is None:
        return alone
    # in the other's unit: as far beyond its limit, as a share of it
    unit = lost or 1.0
    beyond = (apart / target.divergence - 1) * unit
    return math.inf if math.isnan(beyond) else max(missing, beyond), unit


def _not_finite(record: Mapping[str, Any]) -> bool:
    """Whether a trial failed because what it is judged by is not a finite number of the decoded network."""
    return str(record.get("error") or "").startswith(f"{NoFigure.__name__}: ")


def _measured(record: Mapping[str, Any]) -> bool:
    """Whether a trial measured a divergence, or failed before it could."""
    return record.get("status") != "ok" or any(name.endswith(DIVERGENCE.name) for name in record["metrics"])


def _alone(target: Target, record: Mapping[str, Any]) -> tuple[float, float | None] | None:
    """As ``judged``, of bytes or metric alone."""
    if target.bytes is not None:
        return float(record["file_bytes"]) / target.bytes - 1, 1.0
    name = record.get("metric_name")
    if name is None:
        return None
    sign = 1.0 if record.get("metric_higher_is_better", True) else -1.0
    if target.split == "test":
        value, reference = record["metric"], record["metric_float"]
    else:
        value, reference = (record[of].get(on_split(name, target.split)) for of in ("metrics", "metrics_float"))
    if value is None or reference is None:
        return None
    lost = target.drop if target.share is None else abs(reference) * target.share / 100
    wanted = target.metric if target.metric is not None else reference - sign * (lost or 0.0)
    missing, most = sign * (wanted - value), sign * (reference - wanted)
    return math.inf if math.isnan(missing) else float(missing), float(most) if most > 0 else None


def holds(target: Target, record: Mapping[str, Any]) -> bool:
    """Whether a record holds the target, on the split that the search looks at. A failed trial never does."""
    missing = lacks(target, record)
    return missing is not None and missing <= SLACK
