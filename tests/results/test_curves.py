"""Fits against the least-squares problem that they solve, delta rates against integrals, intervals by coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from record_factory import EXAMPLES, make
from scipy.interpolate import PchipInterpolator

from nqbench.results.curves import bd_rate, estimate, isotonic, size_change
from nqbench.results.goal import Goal
from nqbench.results.leaderboard import leaderboard
from nqbench.results.methods import MethodRow, methods
from nqbench.results.pchip import value
from nqbench.results.record import Record, pack_correct, pack_values
from nqbench.results.redrawn import Redrawn

CURVE = [(1000.0, 90.0), (2000.0, 95.0), (4000.0, 97.0), (8000.0, 98.0)]


def test_the_delta_rate_of_a_curve_moved_by_a_factor_is_that_factor() -> None:
    for factor in (0.5, 0.8, 1.0, 1.37):
        assert bd_rate(CURVE, [(size * factor, q) for size, q in CURVE]) == pytest.approx(factor - 1)


def test_the_delta_rate_of_two_exponentials_is_the_integral_of_their_exponents() -> None:
    # ln bytes = 2 + 0.5 q on [0, 4] and 1.6 + 0.7 q on [1, 6]: mean difference on [1, 4] = -0.4 + 0.2 * 2.5
    anchor = [(math.exp(2 + 0.5 * q), q) for q in (0.0, 1.5, 3.0, 4.0)]
    test = [(math.exp(1.6 + 0.7 * q), q) for q in (1.0, 2.0, 5.0, 6.0)]
    assert bd_rate(anchor, test) == pytest.approx(math.exp(-0.4 + 0.2 * 2.5) - 1)


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 100)), min_size=4, max_size=12))
@example([(1.0, 0.0), (2.0, 3.781814684484576e-145), (3.0, 91.0)])
@example([(1.0, 50.0), (2.0, math.nextafter(50.0, 100.0)), (3.0, 91.0), (4.0, math.nextafter(91.0, 100.0))])
@settings(max_examples=50)
def test_exchanging_the_curves_inverts_the_factor(points: list[tuple[float, float]]) -> None:
    there, back = bd_rate(CURVE, points), bd_rate(points, CURVE)
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        assert (1 + there) * (1 + back) == pytest.approx(1)


def test_a_floor_leaves_lower_qualities_out() -> None:
    # ln bytes = 2 + 0.5 q and 1.6 + 0.7 q on [0, 4]: the mean difference on [2, 4] is -0.4 + 0.2 * 3
    anchor = [(math.exp(2 + 0.5 * q), q) for q in (0.0, 2.0, 4.0)]
    test = [(math.exp(1.6 + 0.7 * q), q) for q in (0.0, 1.0, 4.0)]
    assert bd_rate(anchor, test, floor=2.0) == pytest.approx(math.exp(-0.4 + 0.2 * 3) - 1)
    assert bd_rate(anchor, test, floor=4.0) is None


def test_curves_that_share_no_quality_have_no_delta_rate() -> None:
    assert bd_rate(CURVE, [(10.0, 1.0), (20.0, 2.0)]) is None
    assert bd_rate(CURVE, CURVE[:1]) is None
    assert bd_rate([], CURVE) is None


# -- the isotonic fit ------------------------------------------------------------------------------------------------
def brute_force(qualities: list[float]) -> list[float]:
    """The non-decreasing sequence of least squares: the best of all ways to cut the points into runs of one mean."""
    n = len(qualities)
    best, least = qualities, math.inf
    for cuts in itertools.product([False, True], repeat=n - 1):
        runs: list[list[float]] = [[qualities[0]]]
        for cut, quality in zip(cuts, qualities[1:], strict=True):
            if cut:
                runs.append([])
            runs[-1].append(quality)
        fit = [sum(run) / len(run) for run in runs for _ in run]
        error = sum((a - b) ** 2 for a, b in zip(fit, qualities, strict=True))
        if all(a <= b + 1e-12 for a, b in itertools.pairwise(fit)) and error < least - 1e-12:
            best, least = fit, error
    return best


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8))
@settings(max_examples=60)
def test_the_fit_is_the_non_decreasing_curve_of_least_squares(qualities: list[int]) -> None:
    wanted = brute_force([float(q) for q in qualities])
    fit = isotonic([(2.0**i, float(q)) for i, q in enumerate(qualities)])
    places: dict[float, list[int]] = {}
    for index, quality in enumerate(wanted):
        places.setdefault(round(quality, 9), []).append(index)
    assert [q for _, q in fit] == pytest.approx(sorted(places))
    # a run of one quality stands at the mean of its log sizes
    assert [math.log2(s) for s, _ in fit] == pytest.approx([np.mean(places[q]) for q in sorted(places)])


def test_a_curve_that_rises_is_its_own_fit_in_any_order() -> None:
    assert isotonic(CURVE[::-1]) == [(pytest.approx(size), quality) for size, quality in CURVE]


def test_points_of_one_size_count_as_their_mean_and_no_number_not_at_all() -> None:
    found = isotonic([(4.0, 1.0), (4.0, 3.0), (9.0, math.nan), (16.0, 5.0)])
    assert found == [(pytest.approx(4.0), 2.0), (pytest.approx(16.0), 5.0)]
    assert isotonic([]) == []


def test_a_lucky_point_alone_is_not_what_is_compared() -> None:
    """One point three tenths above its curve: by the front the method would be smaller than itself."""
    lucky = [(size, q + 1.0 * (size == 2000.0)) for size, q in [*CURVE, (2200.0, 95.2), (2400.0, 95.4)]]
    plain = [*CURVE, (2200.0, 95.2), (2400.0, 95.4)]
    rate = bd_rate(plain, lucky, floor=94.0)
    assert rate is not None
    assert -0.05 < rate < 0.0


# -- at one quality --------------------------------------------------------------------------------------------------
def test_the_size_at_a_quality_is_interpolated_in_its_logarithm() -> None:
    x, y = np.array([90.0, 95.0, 97.0, 98.0]), np.log([1000.0, 2000.0, 4000.0, 8000.0])
    theirs = PchipInterpolator(x, y)
    for at in (90.0, 91.3, 95.0, 96.9, 98.0):
        assert value(x, y, at) == pytest.approx(float(theirs(at)), rel=1e-12)
    assert size_change(CURVE, [(0.7 * size, q) for size, q in CURVE], 96.1) == pytest.approx(-0.3)


@pytest.mark.parametrize("quality", [89.9, 98.1])
def test_a_quality_that_a_curve_does_not_reach_has_no_size(quality: float) -> None:
    assert size_change(CURVE, CURVE, quality) is None
    assert size_change(CURVE[:1], CURVE, 95.0) is None


# -- intervals -------------------------------------------------------------------------------------------------------
def test_an_interval_is_of_the_resamples_figures() -> None:
    moved = np.linspace(-1, 1, 201)  # qualities all moved alike: the change of size follows by its formula
    anchor = [(math.exp(q), q) for q in (0.0, 5.0, 10.0)]
    test = [(math.exp(q - 1), q) for q in (0.0, 5.0, 10.0)]
    ours = np.tile([0.0, 5.0, 10.0], (201, 1))
    found = estimate(anchor, test, lambda a, b: size_change(a, b, 5.0), (ours, ours + moved[:, None]))
    assert found is not None
    assert found.change == pytest.approx(math.exp(-1) - 1)
    # a curve that is better by m has the size of quality 5 - m at quality 5
    ends = np.quantile(np.exp(-1 - moved) - 1, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(ends))


def test_there_is_no_interval_where_resamples_often_miss_the_quality() -> None:
    ours = np.tile([90.0, 95.0, 97.0, 98.0], (40, 1))
    theirs = ours.copy()
    theirs[:5] -= 4  # 98 is out of reach in an eighth of them
    found = estimate(CURVE, CURVE, lambda a, b: size_change(a, b, 97.5), (ours, theirs))
    assert found is not None
    assert not found.known


def curve(
    rng: np.random.Generator, quantizer: str, factor: float, seeds: tuple[int | None, ...] = (None,)
) -> list[Record]:
    """Five sizes; each of the 1,000 examples is right with a probability by its difficulty and the size."""
    records = []
    difficulty = np.linspace(0, 1, EXAMPLES)
    for k in (2, 4, 8, 16, 32):
        for seed in seeds:
            hits = rng.random(EXAMPLES) < 1 - 0.9 * difficulty / math.log2(2 * k)
            metric = 100.0 * float(hits.mean())
            size = round(1000 * factor * math.log2(k))
            records.append(
                make(
                    k=k, quantizer=quantizer, symbols=size, seed=seed, metric=metric, metric_delta=metric - 98.0,
                    correct=pack_correct(hits), metrics={"accuracy": metric},
                )
            )  # fmt: skip
    return records


def compared(records: list[Record], goal: Goal) -> dict[str, MethodRow]:
    rows = leaderboard(records, goal=goal)
    return {row.method.split()[0]: row for row in methods(rows, {r.key: r for r in records}, goal=goal)}


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """The true change at equal metric is that of the symbols; the other parts of a file are the same for both."""
    goal, inside, known = Goal(drop=25.0), 0, 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        found = compared([*curve(rng, "kmeans", 1.0), *curve(rng, "uniform", 0.8)], goal)["uniform"].bd_rate
        assert found is not None
        assert found.low < found.change < found.high
        known += found.known
        inside += found.low - 0.02 <= -0.17 <= found.high + 0.02
    assert known == 8
    assert inside >= 7


@pytest.mark.parametrize("kept", ["right", "wrong"])
def test_an_error_has_the_intervals_of_the_accuracy(kept: str) -> None:
    """Whichever answers a record keeps: the wrong ones, or, as before, the right ones."""
    rng = np.random.default_rng(1)
    records = [*curve(rng, "kmeans", 1.0), *curve(rng, "uniform", 0.8)]
    mirrored = []
    for record in records:
        hits = record.hits()
        assert hits is not None
        assert record.metric is not None
        fields = {
            "metric_name": "error", "metric_higher_is_better": False, "metric": 100 - record.metric,
            "metric_float": 2.0, "metric_delta": 98.0 - record.metric, "metrics": {"error": 100 - record.metric},
            "metrics_float": {"error": 2.0}, "correct": pack_correct(~hits if kept == "wrong" else hits),
        }  # fmt: skip
        mirrored.append(Record.from_dict(record.to_dict() | fields))
    found = [compared(each, Goal(drop=25.0))["uniform"].bd_rate for each in (records, mirrored)]
    assert found[0] is not None
    assert found[1] is not None
    for name in ("change", "low", "high"):
        assert getattr(found[1], name) == pytest.approx(getattr(found[0], name), abs=1e-9)


def test_seeds_widen_what_examples_alone_would_give() -> None:
    rng = np.random.default_rng(3)
    records = [*curve(rng, "kmeans", 1.0, (0, 1, 2)), *curve(rng, "uniform", 0.8, (0, 1, 2))]
    rows = leaderboard(records, goal=Goal(drop=25.0))
    assert all(row.n == 3 for row in rows)
    drawn = Redrawn(rows, {r.key: r for r in records}).of(rows)
    assert drawn is not None
    pooled = []
    for row in rows:
        hits = [next(r for r in records if r.key == key).hits() for key in row.keys]
        pooled.append(np.mean([100 * h.mean() for h in hits if h is not None]))
    np.testing.assert_allclose(drawn.mean(0) + 98.0, pooled, atol=0.35)
    one = Redrawn(leaderboard(records[::3], goal=Goal(drop=25.0)), {r.key: r for r in records})
    assert one.of([]) is not None


def test_rows_without_examples_have_a_figure_without_an_interval() -> None:
    rng = np.random.default_rng(0)
    records = [*curve(rng, "kmeans", 1.0), *curve(rng, "uniform", 0.8)]
    records[3] = Record.from_dict(records[3].to_dict() | {"correct": None})
    found = compared(records, Goal(drop=25.0))["uniform"]
    assert found.bd_rate is not None
    assert not found.bd_rate.known
    assert found.to_dict()["bd_rate_low"] is None


def test_other_metrics_are_drawn_from_their_values() -> None:
    """A perplexity, where less is better: the network of half the loss is better in every resample."""
    rng = np.random.default_rng(0)
    records = []
    for quantizer, factor in (("kmeans", 1.0), ("uniform", 0.9)):
        for k in (2, 4, 8, 16):
            losses = rng.gamma(2.0, 1 / k, EXAMPLES)
            metric = math.exp(float(losses.mean()))
            records.append(
                make(
                    k=k, quantizer=quantizer, symbols=round(1000 * factor * math.log2(k)), metric_name="perplexity",
                    metric_unit="", metric_higher_is_better=False, metric_float=1.0, metric=metric,
                    metric_delta=metric - 1.0, metrics={"perplexity": metric}, correct=None,
                    values=pack_values(losses), statistic="exp-mean",
                )
            )  # fmt: skip
    found = compared(records, Goal(drop=1.0))["uniform"]
    assert found.bd_rate is not None
    assert found.bd_rate.low < found.bd_rate.change < found.bd_rate.high < 0


def test_a_divergence_is_drawn_as_it_is_since_the_float_network_has_none_on_any_example() -> None:
    """A network that hardly diverges stays so in every resample, however much others move."""
    rng = np.random.default_rng(0)
    records, losses = [], {}
    for k in (2, 4, 8, 16):
        values = rng.gamma(0.1, 10.0 / k**3, EXAMPLES).astype(np.float32)
        mean = float(values.mean())
        record = make(
            k=k, metric_name="divergence", metric_unit="nats", metric_higher_is_better=False, metric_float=0.0,
            metric=mean, metric_delta=mean, metrics={"divergence": mean}, correct=None, values=pack_values(values),
            statistic="mean",
        )  # fmt: skip
        records.append(record)
        losses[record.key] = values
    rows = leaderboard(records, goal=Goal(drop=10.0))
    drawn = Redrawn(rows, {r.key: r for r in records}).of(rows)
    assert drawn is not None
    assert bool((drawn < 0).all())
    for row, qualities in zip(rows, drawn.T, strict=True):
        values = losses[row.keys[0]].astype(np.float64)
        assert qualities.mean() == pytest.approx(-values.mean(), rel=0.05)
        assert qualities.std() == pytest.approx(values.std() / math.sqrt(EXAMPLES), rel=0.2)
