"""Two networks on the same examples, by any metric; and what a file has to hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from record_factory import make
from scipy.stats import norm

from nqbench.api.errors import BadInput
from nqbench.results.goal import A_HUNDREDTH, HALF_A_POINT, Goal
from nqbench.results.leaderboard import leaderboard
from nqbench.results.paired import bootstrap, paired
from nqbench.results.record import Record, pack_values, unpack_values

LOSSES = np.random.default_rng(0).gamma(2.0, 1.0, 400)


def of_losses(values: np.ndarray, statistic: str = "exp-mean", **changes: object) -> Record:
    value = math.exp(values.mean()) if statistic == "exp-mean" else float(values.mean())
    fields = {"metric_name": "perplexity", "metric_unit": "", "metric_higher_is_better": False, "metric": value}
    fields |= {"metrics": {"perplexity": value}, "metric_float": 7.0, "metrics_float": {"perplexity": 7.0}}
    packed = {"values": pack_values(values), "examples": len(values), "statistic": statistic, "correct": None}
    return make(**{**fields, **packed, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("columns", [1, 2])
def test_values_of_a_record_come_back_to_twelve_bits(columns: int) -> None:
    values = np.random.default_rng(1).normal(size=(50, columns)).squeeze()
    back = unpack_values(pack_values(values), 50)
    assert back.shape == values.shape
    assert np.abs(back / values - 1).max() < 2**-12
    with pytest.raises(BadInput, match="51 examples"):
        unpack_values(pack_values(values), 51)
    with pytest.raises(BadInput, match="cannot be read"):
        unpack_values("AAAA", 3)


def test_the_bootstrap_of_a_mean_is_the_normal_test_of_many_examples() -> None:
    shift = np.random.default_rng(2).normal(0.05, 0.5, 400)
    found = bootstrap([LOSSES], [LOSSES + shift], "mean")
    error = shift.std() / math.sqrt(400)
    assert found.difference == pytest.approx(shift.mean())
    assert found.low == pytest.approx(shift.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(shift.mean() + 1.96 * error, abs=0.15 * error)
    assert found.p == pytest.approx(2 * norm.sf(abs(shift.mean()) / error), abs=0.03)


def test_the_bootstrap_is_the_same_every_time_and_turned_round() -> None:
    other = LOSSES * 1.1
    one, again, back = (
        bootstrap([LOSSES], [other], "mean"),
        bootstrap([LOSSES], [other], "mean"),
        bootstrap([other], [LOSSES], "mean"),
    )
    assert one == again
    assert (one.difference, one.low, one.p) == pytest.approx((-back.difference, -back.high, back.p))


def test_false_alarms_are_as_rare_as_they_should_be() -> None:
    alarms = 0
    for seed in range(120):
        generator = np.random.default_rng(seed)
        pair = generator.normal(size=(2, 60))
        alarms += bootstrap([pair[0]], [pair[1]], "mean", 400).p < 0.05
    assert alarms <= 15  # 6 are expected; P(more than 15) < 0.001


def test_perplexities_are_compared_by_their_losses_and_right_and_wrong_by_mcnemar() -> None:
    worse = paired(of_losses(LOSSES), of_losses(LOSSES + 0.2))
    assert worse is not None
    assert worse.difference == pytest.approx(math.exp((LOSSES + 0.2).mean()) - math.exp(LOSSES.mean()), rel=1e-3)
    assert worse.p < 0.01
    assert worse.low > 0
    same = paired(of_losses(LOSSES), of_losses(LOSSES))
    assert same is not None
    assert same.identical
    shares = paired(make(wrong=20), make(wrong=40))
    assert shares is not None
    assert "examples gained" in shares.told
    assert shares.difference == pytest.approx(-2.0)
    assert paired(make(), of_losses(LOSSES)) is None


@pytest.mark.parametrize(
    ("goal", "wanted"),
    [
        (Goal(drop=1.0), [True, True, False]),
        (Goal(share=1.0), [True, False, False]),  # 0.98 points of 98
        (Goal(metric=96.0), [True, True, True]),
        (Goal(bytes=3200), [False, True, True]),
    ],
)
def test_goals_are_held_by_what_they_say(goal: Goal, wanted: list[bool]) -> None:
    records = [make(k=k, wrong=wrong) for k, wrong in ((8, 25), (4, 30), (2, 40))]
    held = {row.knob_value: row.holds for row in leaderboard(records, goal=goal)}
    assert [held[k] for k in (8, 4, 2)] == wanted


def test_in_so_many_bytes_the_best_metric_leads() -> None:
    records = [make(k=k, wrong=wrong) for k, wrong in ((16, 21), (4, 30), (2, 40))]
    rows = leaderboard(records, goal=Goal(bytes=3200))
    assert [row.knob_value for row in rows] == [4, 2, 16]


def test_a_run_s_goal_is_that_of_its_target() -> None:
    assert Goal.of({"target": {"share": 1.0, "drop": None}}) == Goal(share=1.0)
    assert Goal.of({"target": {"bytes": 100}, "drop": 0.5}) == Goal(bytes=100)
    assert Goal.of({"drop": 0.2}) == Goal(drop=0.2)
    assert Goal.of({}).asked_of("accuracy", "%") == HALF_A_POINT
    assert Goal.of({}).asked_of("Spearman", "") == A_HUNDREDTH
    assert Goal.of({"drop": 0.2}).asked_of("Spearman", "") == Goal(drop=0.2, unit="")
    lower = [of_losses(LOSSES, metric=v, metrics={"perplexity": v}, k=k) for k, v in ((8, 7.05), (4, 7.2))]
    assert [row.holds for row in leaderboard(lower, goal=Goal(share=1.0))] == [True, False]
