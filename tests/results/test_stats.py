"""Every statistic against an independent derivation: enumeration, hand calculation, or a closed form."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator
from scipy.stats import binom

from nqbench.api import BadInput
from nqbench.results.pchip import integral, slopes
from nqbench.results.stats import compare_times, holm, mcnemar, rank_counts


def pair(gained: int, lost: int, both: int = 20) -> tuple[np.ndarray, np.ndarray]:
    a = np.array([False] * gained + [True] * lost + [True] * both)
    b = np.array([True] * gained + [False] * lost + [True] * both)
    return a, b


@pytest.mark.parametrize(("gained", "lost"), list(itertools.product(range(6), range(6))))
def test_mcnemar_equals_the_enumeration_of_all_coin_tosses(gained: int, lost: int) -> None:
    n = gained + lost
    extreme = min(gained, lost)
    tails = sum(1 for toss in itertools.product((0, 1), repeat=n) if min(sum(toss), n - sum(toss)) <= extreme)
    found = mcnemar(*pair(gained, lost))
    assert found.p == pytest.approx(float(Fraction(tails, 2**n)), abs=1e-12)
    assert (found.gained, found.lost) == (gained, lost)
    assert found.difference == pytest.approx((gained - lost) / (n + 20))


def test_mcnemar_is_symmetric_and_survives_many_examples() -> None:
    a, b = pair(400, 500, 49_100)
    assert mcnemar(a, b).p == pytest.approx(mcnemar(b, a).p)
    tail = sum(Fraction(math.comb(900, i), 2**900) for i in range(401))
    assert mcnemar(a, b).p == pytest.approx(float(2 * tail), rel=1e-9)


def test_the_interval_of_a_paired_difference_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth, inside = -0.02, 0
    for _ in range(400):
        draw = rng.random(500)
        a, b = draw >= 0.05, ~((draw >= 0.05) & (draw < 0.12)) & ~(draw < 0.0)
        b = np.where(draw < 0.05, True, b)  # 5 % gained, 7 % lost
        found = mcnemar(a, b)
        inside += found.low <= truth <= found.high
    assert inside / 400 > 0.93


def test_other_examples_are_refused() -> None:
    with pytest.raises(BadInput, match="the same examples: 3 and 2"):
        mcnemar(np.ones(3, bool), np.ones(2, bool))


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04: x4 = .02, x3 = .03, x2 = .06, x1 = .04 -> .06 (monotone)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float]) -> None:
    alpha, order, rejected = 0.05, sorted(range(len(p)), key=lambda i: p[i]), set()
    for step, index in enumerate(order):
        if p[index] * (len(p) - step) > alpha:
            break
        rejected.add(index)
    assert {i for i, q in enumerate(holm(p)) if q <= alpha} == rejected


def test_counts_of_ranks_equal_the_enumeration_of_orders() -> None:
    for m, n in ((1, 1), (2, 3), (4, 3), (5, 5)):
        expected = np.zeros(m * n + 1)
        for places in itertools.combinations(range(m + n), m):
            expected[sum(place - i for i, place in enumerate(places))] += 1
        assert rank_counts(m, n).tolist() == expected.tolist()


def test_seven_samples_a_side_are_the_fewest_that_can_reach_p_below_0_002() -> None:
    six = compare_times([1 + i / 100 for i in range(6)], [3 + i / 100 for i in range(6)])
    seven = compare_times([1 + i / 100 for i in range(7)], [3 + i / 100 for i in range(7)])
    assert six.p == pytest.approx(2 / math.comb(12, 6))
    assert seven.p == pytest.approx(2 / math.comb(14, 7))
    assert seven.p < 0.002 < six.p
    assert seven.ratio == pytest.approx(3.03 / 1.03)


def test_the_interval_of_a_speed_ratio_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(400):
        found = compare_times(rng.lognormal(0, 0.1, 8), 1.2 * rng.lognormal(0, 0.1, 8))
        inside += found.low <= 1.2 <= found.high
    assert 0.93 < inside / 400 < 0.99


def test_too_few_samples_give_no_interval() -> None:
    found = compare_times([1.0, 1.1], [1.0, 1.2])
    assert (found.low, found.high) == (0.0, math.inf)


def test_times_that_are_none_are_refused() -> None:
    for a, b in (([], [1.0]), ([0.0], [1.0]), ([1.0], [math.nan])):
        with pytest.raises(BadInput, match="must be positive"):
            compare_times(a, b)


@pytest.mark.parametrize(("gained", "lost"), [(3, 40), (150, 210), (4000, 6000)])
def test_mcnemar_of_many_examples_equals_scipys_binomial(gained: int, lost: int) -> None:
    assert mcnemar(*pair(gained, lost)).p == pytest.approx(2 * binom.cdf(gained, gained + lost, 0.5), rel=1e-9)


@pytest.mark.parametrize("points", range(2, 9))
@pytest.mark.parametrize("monotone", [True, False])
def test_the_monotone_cubic_is_scipys(points: int, monotone: bool) -> None:
    rng = np.random.default_rng(points)
    for _ in range(20):
        x, y = np.sort(rng.random(points)) * 10, rng.normal(size=points)
        y = np.sort(y) if monotone else y
        low, high = np.sort(rng.uniform(x[0], x[-1], 2))
        theirs = PchipInterpolator(x, y)
        np.testing.assert_allclose(slopes(x, y), theirs.derivative()(x), rtol=1e-9, atol=1e-9)
        assert integral(x, y, low, high) == pytest.approx(float(theirs.integrate(low, high)), rel=1e-9, abs=1e-9)
