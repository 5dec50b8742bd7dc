"""Models that are judged by different metrics are each asked what is usual for its own."""

from __future__ import annotations

import json

import pytest
from record_factory import make

from nqbench.report.data import ReportData
from nqbench.report.figures import figures
from nqbench.report.files import leaderboard_json
from nqbench.report.latex import latex
from nqbench.report.payload import datasets
from nqbench.report.text import markdown
from nqbench.results.goal import Goal
from nqbench.results.record import Record

RANKS = {"metric_name": "rank correlation", "metric_unit": "", "metrics_float": {"rank correlation": 0.8}}


def ranked(model: str, value: float, **changes: object) -> Record:
    """A record judged by a rank correlation, of 0.8 in float."""
    fields = {**RANKS, "metric": value, "metric_float": 0.8, "metrics": {"rank correlation": value}, "correct": None}
    return make(model=model, **{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def mixed() -> ReportData:
    sentences = [ranked("sentences", 0.795, k=8), ranked("sentences", 0.45, k=2)]
    return ReportData("mixed", [make(model="net", k=8, wrong=22), *sentences])


def test_half_a_rank_correlation_is_not_half_a_point(mixed: ReportData) -> None:
    held = {(row.model, row.knob_value): row.holds for row in mixed.rows}
    assert held == {("net", 8): True, ("sentences", 8): True, ("sentences", 2): False}
    assert mixed.drop("net") == 0.5
    assert mixed.drop("sentences") == pytest.approx(0.008)
    assert mixed.reach("net") == pytest.approx(5.0)


def test_every_form_says_whose_goal_is_which(mixed: ReportData) -> None:
    told = "lose at most 0.5 points (net) or lose at most 1 % (sentences)"
    assert mixed.told == told
    assert f"among rows that {told};" in markdown(mixed)
    assert "files that lose at most 0.5 points;" in latex(mixed)
    assert r"files that lose at most 1 \%;" in latex(mixed)
    said = json.loads(leaderboard_json(mixed))
    assert said["goals"] == {"net": {"drop": 0.5}, "sentences": {"share": 1.0}}
    assert "goal" not in said


def test_each_figure_has_the_level_of_its_own_model() -> None:
    """A goal of 97 is one point below a network of 98, and two below one of 99; and is drawn where it is."""
    records = [
        make(model=model, metric=value - lost, metric_float=value, k=k)
        for model, value in (("first", 98.0), ("second", 99.0))
        for k, lost in ((8, 0.1), (4, 0.3), (2, 0.6))
    ]
    data = ReportData("two", records, goal=Goal(metric=97.0))
    assert [data.drop(model) for model in ("first", "second")] == [1.0, 2.0]
    drawn = {
        figure.model: json.dumps(figure.spec)
        for figure in figures(data, datasets(data))
        if "rate-accuracy" in figure.name
    }
    assert all('{"y": 97.0, "text": "wanted: 97.00 %"}' in spec for spec in drawn.values())
    said = json.loads(leaderboard_json(data))
    assert said["goal"] == {"metric": 97.0}
