"""The search for operating points, on methods whose curves are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pluggy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from nqbench.api import Coder, Knob, Metric, Model, Quantizer, Split
from nqbench.api.evaluation import DIVERGENCE
from nqbench.pipeline.trial import Choice, Trial
from nqbench.registry import Registered, Registry
from nqbench.results.goal import Goal
from nqbench.results.record import Record
from nqbench.suite.guard import PER_POINT, allowed_loss, divergence_beside, usual_loss
from nqbench.suite.search import TargetSchedule, holds, lacks
from nqbench.suite.spec import Target


class Net(Model, name="net"):
    """A model that is never loaded."""


class Stepped(Quantizer, name="stepped"):
    """Knob: step, larger is smaller."""

    step: float = Field(1.0, gt=0)
    KNOB: ClassVar[Knob] = Knob("step", 0.001, 1.0, more_bytes="down")


class Levels(Quantizer, name="levels"):
    """Knob: k, a whole number."""

    k: int = Field(2, ge=2)
    KNOB: ClassVar[Knob] = Knob("k", 2, 256, integer=True)


class Plain(Coder, name="plain"):
    """Nothing."""


@pytest.fixture
def registry() -> Registry:
    found = Registry(pluggy.PluginManager("nqbench"))
    for cls in (Net, Stepped, Levels, Plain):
        found.found[cls.kind, cls.name] = Registered(cls, "here", "1")
    return found


def trial(quantizer: Quantizer) -> Trial:
    return Trial(Choice.of(Net()), quantizer=Choice.of(quantizer), coder=Choice.of(Plain()))


def drive(
    schedule: TargetSchedule, knob: Knob | None, accuracy: Callable[[float], float], size: Callable[[float], int]
) -> int:
    """Run a schedule against a known curve; the number of trials it took."""
    ran = 0
    for _ in range(1000):
        if schedule.finished():
            return ran
        for question in schedule.questions():
            schedule.answered(question, knob)
        for one in schedule.ready():
            ran += 1
            value = next(iter(one.quantizer.parameters.values()))  # type: ignore[union-attr]
            schedule.ended(one, record(accuracy(value), size(value)))
    raise AssertionError("the schedule does not end")


def record(metric: float, size: int, **fields: Any) -> dict[str, Any]:
    return {
        "status": "ok", "metric_name": "accuracy", "metric": metric, "metric_float": 90.0, "metrics": {},
        "metrics_float": {}, "metric_higher_is_better": True, "file_bytes": size, **fields,
    }  # fmt: skip


@given(edge=st.floats(0.002, 0.9))
def test_a_monotone_curve_is_searched_to_its_edge(edge: float) -> None:
    found = Registry(pluggy.PluginManager("nqbench"))
    found.found["quantizer", "stepped"] = Registered(Stepped, "here", "1")
    schedule = TargetSchedule([trial(Stepped())], Target(drop=0.5, trials=16), found)
    ran = drive(schedule, Stepped.KNOB, lambda step: 90.0 if step <= edge else 80.0, lambda s: int(1e5 / s))
    best = schedule.searches[0].best
    assert ran <= 16
    assert best is not None
    assert best.value <= edge
    # the bracket is narrowed to 2 % of bytes, which are 1 / step; its larger neighbour may have to confirm
    assert best.value > edge * 0.95
    assert schedule.searches[0].violations == 0


def test_a_whole_knob_ends_on_neighbours(registry: Registry) -> None:
    schedule = TargetSchedule([trial(Levels())], Target(metric=85.0, trials=20), registry)
    drive(schedule, Levels.KNOB, lambda k: 90.0 if k >= 37 else 50.0, lambda k: int(1000 * math.log2(k)))
    assert schedule.searches[0].best is not None
    assert schedule.searches[0].best.value == 37
    tried = [p.value for p in schedule.searches[0].points]
    assert len(tried) == len(set(tried))


def test_a_point_that_holds_by_luck_is_not_taken_and_the_search_goes_on(registry: Registry) -> None:
    """All steps to 0.1 hold; around 0.195 the test images happen to be kind."""
    schedule = TargetSchedule([trial(Stepped())], Target(drop=0.5, trials=24), registry)
    knob = replace(Stepped.KNOB, start=0.0974)

    def accuracy(step: float) -> float:
        return 90.0 if step <= 0.1 or 0.1945 < step < 0.1955 else 70.0

    drive(schedule, knob, accuracy, lambda s: int(1e5 / s))
    search = schedule.searches[0]
    tried = {p.value: p.holds for p in search.points}
    assert any(holds and value > 0.19 for value, holds in tried.items()), "0.0974 is doubled: the luck is met"
    assert search.violations >= 1
    assert search.best is not None
    assert 0.097 < search.best.value <= 0.1


def test_a_search_begins_where_the_knob_says_and_ends_when_two_percent_cannot_be_saved(registry: Registry) -> None:
    schedule = TargetSchedule([trial(Stepped())], Target(drop=0.5, trials=24), registry)
    # a smooth curve: the drop grows with the square of the step, half a point at 0.2
    ran = drive(schedule, replace(Stepped.KNOB, start=0.15), lambda s: 90 - 12.5 * s * s, lambda s: int(1e6 / s))
    points = schedule.searches[0].points
    # a quarter more than may be lost is aimed at
    assert [p.value for p in points[:2]] == pytest.approx([0.15, 0.2 * 1.25**0.5], rel=1e-3)
    best = schedule.searches[0].best
    assert best is not None
    assert 0.2 / 1.02 < best.value <= 0.2
    assert ran <= 8


@pytest.mark.parametrize("first", [0.1, 0.19, 0.202, 0.4, 1.1])
@pytest.mark.parametrize("power", [1.5, 1.75, 2.5, 4.0])
def test_a_point_that_just_misses_is_followed_by_one_that_just_holds(
    registry: Registry, first: float, power: float
) -> None:
    """Each point of a large network takes minutes, and the finest steps take longest."""
    schedule = TargetSchedule([trial(Stepped())], Target(drop=0.5, trials=24), registry)
    knob = replace(Stepped.KNOB, start=first)
    ran = drive(schedule, knob, lambda s: 90 - 0.5 * (s / 0.2) ** power, lambda s: int(1e7 * (0.2 / s) ** 0.7))
    search = schedule.searches[0]
    assert search.best is not None
    assert 0.194 < search.best.value <= 0.2
    assert ran <= 6
    assert min(p.value for p in search.points) >= min(first, 0.12)


@pytest.mark.parametrize("power", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("goal", ["drop", "bytes"])
def test_what_grows_with_a_power_of_the_step_is_found_in_a_few_points(
    registry: Registry, power: float, goal: str
) -> None:
    """Half a point is lost at a step of 0.2, where the file has 10,000 bytes."""
    target = Target(drop=0.5, trials=24) if goal == "drop" else Target(bytes=10_000, trials=24)
    schedule = TargetSchedule([trial(Stepped())], target, registry)
    knob = replace(Stepped.KNOB, start=0.13)
    ran = drive(schedule, knob, lambda s: 90 - 0.5 * (s / 0.2) ** power, lambda s: int(10_000 * (0.2 / s) ** 0.8))
    best = schedule.searches[0].best
    assert best is not None
    assert best.value == pytest.approx(0.2, rel=0.03)
    assert ran <= 5


def test_a_method_that_never_holds_stops_at_its_finest_step(registry: Registry) -> None:
    schedule = TargetSchedule([trial(Stepped())], Target(drop=0.5, trials=12), registry)
    # 0.0316, and finer by factors of 2, 4 and 8, the last of them cut off at the range's end
    assert drive(schedule, Stepped.KNOB, lambda step: 10.0, lambda s: 1) == 4
    assert [p.x for p in schedule.searches[0].points][-1] == 0
    assert schedule.searches[0].best is None


def test_a_method_without_a_knob_is_tried_once(registry: Registry) -> None:
    schedule = TargetSchedule([trial(Stepped())], Target(drop=0.5), registry)
    assert drive(schedule, None, lambda step: 90.0, lambda s: 7) == 1


def test_values_of_the_knob_in_a_suite_are_one_method(registry: Registry) -> None:
    methods = [trial(Stepped(step=0.1)), trial(Stepped(step=0.2)), trial(Levels())]
    schedule = TargetSchedule(methods, Target(drop=0.5, trials=6), registry)
    for question, knob in zip(schedule.questions(), (Stepped.KNOB, Stepped.KNOB, Levels.KNOB), strict=True):
        schedule.answered(question, knob)
    assert [s.method.quantizer.name for s in schedule.searches] == ["stepped", "levels"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("target", "fields", "expected"),
    [
        (Target(drop=0.5), {"metric": 89.5}, True),
        (Target(drop=0.5), {"metric": 89.4}, False),
        (Target(metric=89.0), {"metric": 89.0}, True),
        (Target(metric=2.0), {"metric": 1.9, "metric_higher_is_better": False}, True),
        (Target(drop=0.5), {"metric": 90.0, "status": "failed"}, False),
        (
            Target(drop=0.5, split="validation"),
            {"metric": 10.0, "metrics": {"validation.accuracy": 79.9}, "metrics_float": {"validation.accuracy": 80.0}},
            True,
        ),
        (Target(drop=0.5, split="validation"), {"metric": 90.0}, False),
    ],
)
def test_holds(target: Target, fields: dict[str, Any], expected: bool) -> None:
    assert holds(target, record(90.0, 1, **{k: v for k, v in fields.items() if k != "metric"}) | fields) is expected


@pytest.mark.parametrize(
    ("target", "apart", "missing"),
    [
        (Target(drop=0.5, divergence=0.01), {"divergence": 0.01}, 0.0),  # just so
        (Target(drop=0.5, divergence=0.01), {"divergence": 0.012}, 0.1),  # a fifth too far, of the half point
        (Target(drop=0.05, divergence=0.01), {"divergence": 0.01}, 0.05),
        (Target(drop=0.5, divergence=0.01), {}, -0.4),  # none was measured
        (Target(bytes=50, divergence=0.01), {"divergence": 0.005}, -0.5),
        (Target(bytes=200, divergence=0.01), {"divergence": 0.02}, 1.0),
        (
            Target(drop=0.5, divergence=0.01, split="train"),
            {"divergence": 9.0, "train.divergence": 0.02, "train.accuracy": 90.0},
            0.5,
        ),
    ],
)
def test_a_divergence_is_held_beside_the_metric(target: Target, apart: dict[str, float], missing: float) -> None:
    given = record(89.9, 25 if target.bytes == 50 else 100, metrics=apart, metrics_float={"train.accuracy": 90.0})
    assert lacks(target, given) == pytest.approx(missing)
    # and what is shown and ranked judges alike
    goal = Goal.of({"target": target.model_dump()})
    shown = Record.from_dict(
        {"run": "r", "suite": "s", "key": "k", "trial": "t", "model": "m", "device": "cpu", "selected_on": target.split}
        | {"parts": {"symbols": given["file_bytes"]}}
        | given
    )
    assert goal.held([shown]) is (missing <= 0)


@given(edge=st.floats(0.002, 0.9))
def test_a_metric_that_is_no_number_beyond_an_edge_does_not_hold_there(edge: float) -> None:
    """A correlation of constant outputs: the search goes on between what holds and there, not among such files."""
    found = Registry(pluggy.PluginManager("nqbench"))
    found.found["quantizer", "stepped"] = Registered(Stepped, "here", "1")
    schedule = TargetSchedule([trial(Stepped())], Target(drop=0.5, trials=16), found)
    while not schedule.finished():
        for question in schedule.questions():
            schedule.answered(question, Stepped.KNOB)
        for one in schedule.ready():
            step = next(iter(one.quantizer.parameters.values()))  # type: ignore[union-attr]
            failed = {"status": "failed", "error": "NoFigure: the metric 'r' of the decoded network is nan"}
            schedule.ended(one, record(90.0, int(1e5 / step)) if step <= edge else failed)
    best = schedule.searches[0].best
    assert best is not None
    assert edge / 1.05 <= best.value <= edge


@pytest.mark.parametrize("apart", [math.nan, math.inf])
def test_a_divergence_that_is_no_number_does_not_hold(apart: float) -> None:
    target = Target(drop=0.5, divergence=0.01)
    given = record(90.0, 100, metrics={"divergence": apart})
    assert lacks(target, given) == math.inf
    fields = {"run": "r", "suite": "s", "key": "k", "trial": "t", "model": "m", "device": "cpu"}
    shown = Record.from_dict({**fields, "parts": {"symbols": 100}, **given})
    assert Goal.of({"target": target.model_dump()}).held([shown]) is False


@pytest.mark.parametrize("metric", [90.0, 91.0, 89.9])
def test_a_coarser_point_whose_file_is_larger_does_not_end_a_search(registry: Registry, metric: float) -> None:
    """A tensor that falls back to a fine grid, or a header that grows, in a small file."""
    schedule = TargetSchedule([trial(Stepped())], Target(drop=0.5, trials=16), registry)
    drive(schedule, Stepped.KNOB, lambda step: metric, lambda s: int(2000 / s) if s < 0.3 else 20000 - int(1000 * s))
    best = schedule.searches[0].best
    assert best is not None
    assert best.bytes is not None
    assert best.bytes < 20000
    assert schedule.finished()


@pytest.mark.parametrize(
    ("metric", "usual"),
    [
        (Metric(), "0.5"),
        (Metric("Spearman", ""), "1%"),
        (Metric("perplexity", "", higher_is_better=False), "1%"),
        (DIVERGENCE, "0.1"),
    ],
)
def test_what_may_be_lost_where_nobody_says_is_in_the_metric_s_unit(metric: Metric, usual: str) -> None:
    assert usual_loss(metric) == usual
    assert allowed_loss(usual)


@pytest.mark.parametrize("report", ["chosen", "none"])
def test_the_test_split_is_seen_at_the_end_or_never(registry: Registry, report: str) -> None:
    target = Target.model_validate({"drop": 0.5, "split": "train", "report": report, "trials": 6})
    schedule = TargetSchedule([trial(Stepped())], target, registry)
    tested = 0
    while not schedule.finished():
        for question in schedule.questions():
            schedule.answered(question, Stepped.KNOB)
        for one in schedule.ready():
            tested += one.tested
            seen = {"train.accuracy": 90.0}
            schedule.ended(one, record(90.0, 100, metrics=seen, metrics_float=seen))
    assert tested == (report == "chosen")
    assert schedule.chosen()
    with pytest.raises(ValueError, match="evaluates the test split"):
        Target.model_validate({"drop": 0.5, "split": "test", "report": report})


def test_a_divergence_that_nobody_measures_is_said_once(registry: Registry) -> None:
    schedule = TargetSchedule([trial(Stepped())], Target(drop=0.5, divergence=0.01, trials=5), registry)
    drive(schedule, Stepped.KNOB, lambda step: 90 - step, lambda s: int(2000 / s))
    assert ["no divergence" in text for text in schedule.complaints()] == [True]


class Judged(Model, name="judged"):
    """A model that is never loaded. unit, outputs: of its metric and of its network."""

    unit: str = "%"
    outputs: Literal["categorical", "gaussian", "other"] = "categorical"

    def metric(self) -> Metric | None:
        return Metric("share", self.unit) if self.unit else None

    def outputs_are(self) -> Literal["categorical", "gaussian", "other"]:
        return self.outputs


@pytest.mark.parametrize(
    ("model", "split", "max_drop", "points"),
    [
        (Judged(), "train", 0.5, 0.5),
        (Judged(), "train", "2", 2),
        (Judged(), "train", " 1% ", 1),
        (Judged(), "train", 0, 0.1),
        (Judged(), "validation", 0.5, None),
        (Judged(), "test", 0.5, None),
        (Judged(unit="dB"), "train", 0.5, None),
        (Judged(unit=""), "train", 0.5, None),
        (Judged(outputs="other"), "train", 0.5, None),
    ],
)
def test_training_data_alone_is_not_trusted(
    model: Model, split: Split, max_drop: str | float, points: float | None
) -> None:
    expected = None if points is None else pytest.approx(PER_POINT * points)
    assert divergence_beside(model, split, max_drop) == expected


@given(limit=st.integers(3_000, 90_000))
def test_a_target_in_bytes_is_filled_by_the_largest_file_that_fits(limit: int) -> None:
    found = Registry(pluggy.PluginManager("nqbench"))
    found.found["quantizer", "stepped"] = Registered(Stepped, "here", "1")
    schedule = TargetSchedule([trial(Stepped())], Target(bytes=limit, trials=20), found)
    drive(schedule, Stepped.KNOB, lambda step: 90 - step, lambda s: int(2000 / s))
    best = schedule.searches[0].best
    assert best is not None
    assert best.bytes is not None
    assert 0.96 * limit < best.bytes <= limit


@pytest.mark.parametrize(
    ("text", "wanted"),
    [({"drop": "1%"}, 1.0), ({"drop": " 0.5 % "}, 0.5)],
)
def test_a_drop_in_percent_is_a_share_of_the_float_networks_metric(text: dict[str, Any], wanted: float) -> None:
    target = Target.model_validate(text)
    assert (target.drop, target.share) == (None, wanted)
    edge = 90.0 * (1 - wanted / 100)
    assert holds(target, record(edge + 1e-6, 1))
    assert not holds(target, record(edge - 1e-6, 1))


@pytest.mark.parametrize("bad", [{}, {"drop": "1"}, {"drop": "one%"}, {"drop": 1, "bytes": 5}, {"bytes": 0}])
def test_a_target_that_says_nothing_or_two_things_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"drop|bytes"):
        Target.model_validate(bad)
