"""What a search takes for one method: seeds, values of the knob, values that a plugin refuses, trials that fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pluggy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, field_validator

from nqbench.api import Coder, Knob, Model, Quantizer
from nqbench.pipeline.trial import Choice, Trial
from nqbench.registry import Registered, Registry
from nqbench.suite.search import TargetSchedule
from nqbench.suite.spec import Target


class Still(Model, name="still"):
    """A model that is never loaded."""


class Coarse(Quantizer, name="coarse"):
    """Knob: k, but no value of 20 to 40 will do."""

    k: int = Field(8, ge=1)
    KNOB: ClassVar[Knob] = Knob("k", 1, 100, scale="linear", integer=True)

    @field_validator("k")
    @classmethod
    def _picky(cls, k: int) -> int:
        if 20 <= k <= 40:
            raise ValueError("k must be outside 20 to 40")
        return k


class Silent(Coder, name="silent"):
    """Nothing."""


REGISTRY = Registry(pluggy.PluginManager("nqbench"))
for plugin in (Still, Coarse, Silent):
    REGISTRY.found[plugin.kind, plugin.name] = Registered(plugin, "here", "1")
METHOD = Trial(Choice.of(Still()), quantizer=Choice.of(Coarse()), coder=Choice.of(Silent()))

Outcome = Callable[[Trial, int], dict[str, Any]]


def ended(accuracy: float, size: int, status: str = "ok") -> dict[str, Any]:
    return {
        "status": status, "metric_name": "accuracy", "metric": accuracy, "metric_float": 90.0, "file_bytes": size,
        "metrics": {}, "metrics_float": {},
    }  # fmt: skip


def level(trial: Trial) -> int:
    assert trial.quantizer is not None
    return int(trial.quantizer.parameters["k"])


def drive(schedule: TargetSchedule, outcome: Outcome, knob: Knob = Coarse.KNOB) -> list[Trial]:
    """Every trial that the schedule handed out, in order."""
    ran: list[Trial] = []
    while not schedule.finished():
        questions, before = schedule.questions(), len(ran)
        for question in questions:
            schedule.answered(question, knob)
        for trial in schedule.ready():
            ran.append(trial)
            schedule.ended(trial, outcome(trial, level(trial)))
        assert questions or len(ran) > before or schedule.finished(), "the schedule stalls"
    assert len(ran) == len(set(ran))
    return ran


def test_the_seeds_of_a_method_share_its_points_and_hold_on_average() -> None:
    methods = [replace(METHOD, seed=seed) for seed in (0, 1)]
    schedule = TargetSchedule(methods, Target(drop=0.5, trials=10), REGISTRY)
    assert schedule.upper_bound() == 20

    def outcome(trial: Trial, k: int) -> dict[str, Any]:
        # seed 0 never loses anything; seed 1 loses 2 points below 60 and 0.9 below 70
        lost = 0.0 if trial.seed == 0 else 2.0 if k < 60 else 0.9 if k < 70 else 0.0
        return ended(90.0 - lost, 10 * k + (trial.seed or 0))

    ran = drive(schedule, outcome)
    assert len(ran) <= 20
    assert {trial.seed: [level(t) for t in ran if t.seed == trial.seed] for trial in ran}[0] == [
        level(t) for t in ran if t.seed == 1
    ]
    best = schedule.searches[0].best
    assert best is not None
    assert (best.value, best.bytes) == (60, 600.5)


def test_trials_say_which_split_the_search_looks_at() -> None:
    schedule = TargetSchedule([METHOD], Target(drop=0.5, split="validation"), REGISTRY)
    ran = drive(schedule, lambda trial, k: ended(90.0, k))
    assert {trial.selected_on for trial in ran} == {"validation"}
    assert {trial.config()["selected_on"] for trial in ran} == {"validation"}
    assert ran[0].trial == replace(ran[0], selected_on=None).trial  # one configuration, whoever asks for it


def test_values_that_the_plugin_refuses_are_left_out_with_a_word_and_the_search_goes_on() -> None:
    schedule = TargetSchedule([METHOD], Target(drop=0.5, trials=12), REGISTRY)
    told: list[str] = []

    def outcome(trial: Trial, k: int) -> dict[str, Any]:
        told.extend(schedule.complaints())
        return ended(90.0 if k >= 10 else 80.0, k)

    ran = drive(schedule, outcome)
    assert all(not 20 <= level(trial) <= 40 for trial in ran)
    assert schedule.searches[0].best is not None
    assert schedule.searches[0].best.value <= 15
    assert any(line.startswith("k=38 is left out of the search: ") for line in told)
    assert schedule.searches[0].violations == 0


@given(
    edge=st.integers(1, 100),
    broken=st.sets(st.integers(41, 100), max_size=30),
    trials=st.integers(1, 16),
)
def test_failed_trials_neither_stall_a_search_nor_count_as_violations(edge: int, broken: set[int], trials: int) -> None:
    schedule = TargetSchedule([METHOD], Target(drop=0.5, trials=trials), REGISTRY)
    seen: dict[int, bool] = {}

    def outcome(trial: Trial, k: int) -> dict[str, Any]:
        seen[k] = k >= edge and k not in broken
        return ended(90.0 if k >= edge else 80.0, k, "crashed" if k in broken else "ok")

    ran = drive(schedule, outcome)
    assert len(ran) <= trials
    held = [k for k, holds in seen.items() if holds]
    best = schedule.searches[0].best
    assert (None if best is None else best.value) == min(held, default=None)  # bytes are k
    assert schedule.searches[0].violations == 0


def test_a_largest_file_that_fails_does_not_end_the_search() -> None:
    """The largest k crash, as too large a codebook may; what holds lies between them and the rest."""
    schedule = TargetSchedule([METHOD], Target(drop=0.5, trials=14), REGISTRY)
    drive(schedule, lambda trial, k: ended(90.0 if k >= 72 else 80.0, k, "crashed" if k > 90 else "ok"))
    assert schedule.searches[0].best is not None
    assert schedule.searches[0].best.value == 72


def test_two_values_that_a_plugin_takes_for_one_are_one_trial() -> None:
    class Rounded(Quantizer, name="rounded"):
        """Knob: step, kept in tenths."""

        step: float = 0.5

        @field_validator("step")
        @classmethod
        def _tenths(cls, step: float) -> float:
            return round(step, 1)

    registry = Registry(pluggy.PluginManager("nqbench"))
    registry.found["quantizer", "rounded"] = Registered(Rounded, "here", "1")
    method = replace(METHOD, quantizer=Choice.of(Rounded()))
    schedule = TargetSchedule([method], Target(drop=0.5, trials=12), registry)
    ran = 0
    for question in schedule.questions():
        schedule.answered(question, Knob("step", 0.1, 1.0, scale="linear", more_bytes="down"))
    while trials := schedule.ready():
        for trial in trials:
            ran += 1
            assert trial.quantizer is not None
            step = trial.quantizer.parameters["step"]
            schedule.ended(trial, ended(90.0 if step < 0.65 else 80.0, int(100 / step)))
    assert schedule.finished()
    assert ran <= 10
    assert schedule.searches[0].best is not None
    assert schedule.searches[0].best.bytes == int(100 / 0.6)


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_a_small_budget_is_kept(trials: int) -> None:
    schedule = TargetSchedule([METHOD], Target(drop=0.5, trials=trials), REGISTRY)
    assert len(drive(schedule, lambda trial, k: ended(90.0 if k > 50 else 0.0, k))) == trials
