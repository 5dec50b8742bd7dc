"""The input of a report: the records of one run, ranked, and everything that the formats share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nqbench.api.evaluation import DIVERGENCE
from nqbench.results.exports import read_run
from nqbench.results.goal import USUAL, Goal
from nqbench.results.labels import Labels
from nqbench.results.leaderboard import Row, leaderboard
from nqbench.results.methods import MethodRow, methods
from nqbench.results.published import Published, published_rows
from nqbench.results.record import Record
from nqbench.results.store import Run


@dataclass(frozen=True)
class ReportData:
    """records: of one run, in its order. goal: what a file has to hold to be ranked by its size, as the run said it.
    source: the run as it is stored; None where the records are of none."""

    suite: str
    records: Sequence[Record] = field(repr=False)
    suite_text: str = field(default="", repr=False)
    published: Sequence[Published] = ()
    goal: Goal = USUAL
    baseline: str | None = None
    run: str = ""
    started: str = ""
    outcome: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict, repr=False)
    source: Run | None = field(default=None, repr=False)
    separate: bool = False
    """Whether each record is a row of its own: two submitters' of one configuration are no repeats of one another."""

    @cached_property
    def labels(self) -> Labels:
        return Labels(self.records)

    @cached_property
    def rows(self) -> list[Row]:
        return leaderboard(self.records, goal=self.goal, labels=self.labels, separate=self.separate)

    def goal_of(self, model: str) -> Goal:
        """What a file of this model has to hold: the run's goal, or, where it says none, the usual of the model's
        metric."""
        first = next((row for row in self.by_model.get(model, ()) if row.metric_name), None)
        return self.goal if first is None else self.goal.asked_of(first.metric_name, first.metric_unit)

    @property
    def told(self) -> str:
        """Behind "files that", of all models."""
        said: dict[str, list[str]] = {}
        for model in self.by_model:
            said.setdefault(self.goal_of(model).told, []).append(model)
        if len(said) < 2:
            return next(iter(said), self.goal.told)
        return " or ".join(f"{told} ({', '.join(models)})" for told, models in said.items())

    def drop(self, model: str) -> float:
        """How far below the float network a file is that just holds the goal, in the metric's unit; half a point where
        the goal does not say."""
        rows = self.by_model.get(model, ())
        before = next((row.metric_float for row in rows if row.metric_float is not None), None)
        goal = self.goal_of(model)
        lost = goal.lost(before)
        if lost is None and goal.metric is not None and before is not None:
            lost = abs(before - goal.metric)
        return 0.5 if lost is None else lost

    def reach(self, model: str) -> float:
        """How far below the float network a file is still of interest, in the metric's unit: networks that lost more
        are left out of figures."""
        return replace(self.goal_of(model), drop=self.drop(model)).reach(None)

    def float_bytes(self, model: str) -> float | None:
        """The float network's size as ratios count it; None where no row has a ratio."""
        for row in self.by_model.get(model, ()):
            record = self.by_key[row.keys[0]]
            if record.ratio and record.file_bytes:
                return record.ratio * record.counted_bytes
        return None

    @property
    def remarks(self) -> list[str]:
        """What a reader of the ranking has to know besides, a sentence each."""
        found = []
        if splits := sorted({row.selected_on for row in self.rows if row.selected_on not in (None, "test")}):
            found.append(f"Whether a file of a search holds was asked on the {' and the '.join(splits)} split.")
        for model, rows in self.by_model.items():
            if self.baseline and not any(row.is_baseline for row in self.methods[model]):
                found.append(f"No row of {model} is of the baseline '{self.baseline}'.")
            records = [self.by_key[key] for row in rows for key in row.keys]
            known = [record for record in records if record.metric_name]
            if self.goal.divergence is not None and any(r.where_selected(DIVERGENCE.name) is None for r in known):
                found.append(f"Of {model} not every record has a divergence: rows without one are held to the rest.")
        return found

    @cached_property
    def by_model(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.model, []).append(row)
        return found

    @cached_property
    def methods(self) -> dict[str, list[MethodRow]]:
        """Ranked methods of each model."""
        return {
            model: methods(
                rows,
                self.by_key,
                baseline=self.baseline,
                goal=self.goal,
                published=self.published_for(model),
            )
            for model, rows in self.by_model.items()
        }

    @cached_property
    def failures(self) -> list[Record]:
        return [record for record in self.records if not record.ok]

    def name(self, record: Record) -> str:
        """Model and configuration on one line."""
        return f"{self.labels.plugin(record, 'model')} {self.labels.configuration(record)}"

    @cached_property
    def by_key(self) -> dict[str, Record]:
        return {record.key: record for record in self.records}

    def published_for(self, model: str) -> list[Published]:
        """The quoted rows of this model: of the same name, parameters aside."""
        name = model.partition("(")[0]
        return [row for row in self.published if row.model == name]

    @property
    def published_elsewhere(self) -> list[Published]:
        """Quoted rows of models that were not measured."""
        names = {model.partition("(")[0] for model in self.by_model}
        return [row for row in self.published if row.model not in names]


def load(path: str | Path, *, run: str = "latest", drop: float | None = None) -> ReportData:
    """From an output folder, its store, or an export. drop: another tolerance than the run's own. Raises StoreError."""
    chosen, records = read_run(path, run)
    settings = chosen.settings or {}
    return ReportData(
        suite=chosen.suite,
        records=records,
        suite_text=chosen.suite_text,
        published=published_rows(settings.get("published") or ()),
        goal=Goal.of(settings if drop is None else {"drop": drop}),
        baseline=settings.get("baseline"),
        run=chosen.run,
        started=chosen.started,
        outcome=chosen.outcome,
        environment=chosen.environment,
        source=chosen,
    )
