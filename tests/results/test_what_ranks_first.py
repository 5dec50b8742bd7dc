"""Conclusions that a reader draws: which method leads, by how much, and whether anybody can know."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from record_factory import EXAMPLES, failed, make

from nqbench.report.comparison import amount
from nqbench.report.data import ReportData
from nqbench.report.figures import figures
from nqbench.report.payload import datasets
from nqbench.report.text import summary
from nqbench.results.compare import compare
from nqbench.results.exports import Side
from nqbench.results.goal import Goal
from nqbench.results.leaderboard import Row, interval, leaderboard
from nqbench.results.methods import MethodRow, methods, with_measured
from nqbench.results.paired import paired
from nqbench.results.published import Published
from nqbench.results.record import Record, pack_correct


def ranked(records: Sequence[Record], goal: Goal | None = None, **options: object) -> list[MethodRow]:
    rows = leaderboard(records, **({"goal": goal} if goal else {}))  # type: ignore[arg-type]
    by_key = {record.key: record for record in records}
    return methods(rows, by_key, **({"goal": goal} if goal else {}), **options)  # type: ignore[arg-type]


def named(row: Row) -> str:
    return row.quantizer.partition("(")[0]


def test_in_so_many_bytes_methods_rank_as_rows_do() -> None:
    goal = Goal(bytes=3200)
    records = [
        make(quantizer="uniform", k=2, wrong=120), make(quantizer="kmeans", k=4, wrong=25),
        make(quantizer="gptq", k=16, wrong=20), make(quantizer="ecsq", k=8, wrong=20),
    ]  # fmt: skip
    found = ranked(records, goal)
    first = {}
    for row in leaderboard(records, goal=goal):
        first.setdefault(row.method, row.rank)
    assert [row.method for row in found] == list(first)
    assert [named(row.best) for row in found] == ["kmeans", "uniform", "ecsq", "gptq"]
    data = ReportData("s", records, goal=goal)
    drawn = next(figure for figure in figures(data, datasets(data)) if "rate-accuracy" in figure.name)
    assert "worse" not in str(drawn.spec)  # nobody asked for a level


def answers(wrong: Sequence[int]) -> str:
    right = np.ones(EXAMPLES, dtype=bool)
    right[list(wrong)] = False
    return pack_correct(right)


def seeds(quantizer: str, wrong: Sequence[int]) -> list[Record]:
    return [make(quantizer=quantizer, k=8, wrong=w, seed=seed, ratio=None) for seed, w in enumerate(wrong)]


def test_methods_of_several_seeds_are_compared_over_all_of_them_in_any_order() -> None:
    """Equal in the mean, each better in one of the seeds that come first."""
    records = [*seeds("uniform", (40, 20, 20)), *seeds("kmeans", (20, 20, 40))]
    for order in range(6):
        random.Random(order).shuffle(records)
        leader, other = ranked(records)
        assert leader.best.metric == pytest.approx(other.best.metric)
        assert other.verdict == "not distinguishable"
        assert other.p is not None
        assert other.p > 0.5


def test_seeds_that_are_apart_are_no_proof_and_seeds_that_agree_are() -> None:
    """Means of 96 and 97 %: of seeds that differ by more the difference is none, of seeds that agree it is."""
    apart = ranked([*seeds("uniform", (10, 30, 50)), *seeds("kmeans", (15, 40, 65))], Goal(drop=10.0))
    assert apart[1].verdict == "not distinguishable"
    agree = ranked([*seeds("uniform", (29, 30, 31)), *seeds("kmeans", (49, 50, 51))], Goal(drop=10.0))
    assert {named(row.best): row.verdict for row in agree} == {"uniform": "leader", "kmeans": "worse"}
    assert agree[1].p is not None
    assert agree[1].p < 0.01


def test_the_ratio_of_a_row_is_that_of_its_bytes() -> None:
    group = [make(k=8, symbols=size, seed=seed) for seed, size in enumerate((1000, 4000, 7000))]
    (row,) = leaderboard(group)
    whole = [record.ratio * record.file_bytes for record in group]  # type: ignore[operator]
    assert row.ratio == pytest.approx(whole[0] / row.file_bytes)
    data = ReportData("s", group)
    assert data.float_bytes("net") == pytest.approx(whole[0])


@pytest.mark.parametrize("statistics", [None, 0, 200])
def test_the_float_networks_size_follows_from_the_bytes_that_a_ratio_counts(statistics: int | None) -> None:
    """A record that does not say which buffers are batch norms' is of when ratios left out all of them."""
    parts = {"header": 100, "symbols": 1000, "raw_buffers": 500}
    ratio = 40_000 / (1600 - (500 if statistics is None else statistics))
    record = make(parts=parts, file_bytes=1600, ratio=ratio, batchnorm_bytes=statistics)
    assert ReportData("s", [record]).float_bytes("net") == pytest.approx(40_000)


def test_a_row_of_which_seeds_failed_is_on_no_front_and_answers_no_paper() -> None:
    good = [make(quantizer="uniform", k=8, wrong=22, seed=seed) for seed in range(3)]
    lucky = [make(quantizer="gptq", k=4, wrong=20, seed=0), *(failed(quantizer="gptq", k=4, seed=s) for s in (1, 2))]
    rows = leaderboard([*good, *lucky])
    assert {named(row): row.pareto for row in rows} == {"uniform": True, "gptq": False}
    quoted = Published("net", "theirs", "a paper", 5.0, "accuracy", 97.0, "", "%")
    (found,) = with_measured([quoted], rows)
    assert found.measured is not None
    assert named(found.measured) == "uniform"


def pruned(keep: float, k: int, **changes: object) -> Record:
    fields = {"pruner": "magnitude", "pruner_params": {"keep": keep}, "granularity": "layer"}
    return make(k=k, symbols=int(400 * keep * k), **{**fields, **changes})  # type: ignore[arg-type]


def test_an_mse_of_the_kept_weights_compares_nothing_that_keeps_other_weights() -> None:
    dense = [make(k=k) for k in (2, 4, 8, 16)]
    sparse = [pruned(0.5, k) for k in (2, 4, 8, 16)]
    other = [make(k=k, quantizer="kmeans", symbols=900 * k) for k in (2, 4, 8, 16)]
    found = {(row.best.pruner, named(row.best)): row.bd_rate_mse for row in ranked([*dense, *sparse, *other])}
    assert found["", "kmeans"] is not None
    assert [value for (pruner, _), value in found.items() if pruner] == [None]
    blind = {"metric_name": None, "metric": None, "metric_float": None, "metric_delta": None, "correct": None}
    rows = leaderboard([*(make(k=k, **blind) for k in (4, 8)), *(pruned(0.5, k, **blind) for k in (4, 8))])
    assert all(row.pareto for row in rows)  # two fronts: neither method is dominated by the other


def test_an_old_record_of_an_error_kept_the_right_answers() -> None:
    fields = {"metric_name": "error", "metric_higher_is_better": False, "metric_float": 2.0, "metrics_float": {}}

    def error(wrong: int, *, old: bool) -> Record:
        kept = answers(range(wrong))
        bits = kept if old else answers(range(wrong, EXAMPLES))
        return make(k=8, wrong=wrong, metric=wrong / 10, correct=bits, metrics={"error": wrong / 10}, **fields)

    for old in (False, True):
        same = paired(error(30, old=old), error(30, old=not old))
        assert same is not None
        assert same.identical
        for other in (False, True):
            better = paired(error(80, old=old), error(30, old=other))
            assert better is not None
            assert better.difference == pytest.approx(-5.0)  # the error fell
        low, high = interval(error(30, old=old))
        assert low is not None
        assert high is not None
        assert low < 3.0 < high


def of_f1(value: float, **changes: object) -> Record:
    fields = {"metric_name": "F1", "metric_unit": "", "metric": value, "metric_float": 0.91, "correct": None}
    metrics = {"metrics": {"F1": value}, "metrics_float": {"F1": 0.91}, "metric_delta": value - 0.91}
    return make(**{**fields, **metrics, **changes})  # type: ignore[arg-type]


def test_what_is_no_percentage_is_not_told_in_points() -> None:
    data = ReportData("s", [of_f1(0.9, k=8), of_f1(0.6, k=4)], goal=Goal(drop=0.05))
    assert data.told == "lose at most 0.05"
    assert [row.holds for row in data.rows] == [True, False]
    drawn = next(figure for figure in figures(data, datasets(data)) if "rate-accuracy" in figure.name)
    assert "points worse" not in str(drawn.spec)
    assert "0.05 worse" in str(drawn.spec)
    found = compare(Side("a", "synthetic", [of_f1(0.9)]), Side("b", "synthetic", [of_f1(0.6)]))
    assert [amount(change) for change in found.changes if change.figure == "F1"] == ["-0.300"]
    nats = {"metric_name": "divergence", "metric_unit": "nats", "metric_higher_is_better": False, "correct": None}
    near, far = (make(**nats, metric=v, metrics={"divergence": v}, metric_float=0.0) for v in (0.002, 0.004))
    found = compare(Side("a", "synthetic", [near]), Side("b", "synthetic", [far]))
    assert [amount(change) for change in found.changes if change.figure == "divergence"] == ["+0.00200 nats"]


def test_what_was_asked_for_and_is_not_there_is_told() -> None:
    records = [make(quantizer="uniform", k=8), make(quantizer="gptq", k=4)]
    data = ReportData("s", [*records, failed(quantizer="kmeans")], baseline="kmeans")
    assert not any(row.is_baseline or row.vs_baseline or row.bd_rate for row in data.methods["net"])
    assert "No row of net is of the baseline 'kmeans'." in summary(data)
    assert "No row" not in summary(ReportData("s", records, baseline="gptq"))
    wanted = ReportData("s", records, goal=Goal(drop=0.5, divergence=0.001))
    assert "not every record has a divergence" in summary(wanted)
    searched = [make(k=8, selected_on="validation", metrics={"validation.accuracy": 98.0, "accuracy": 95.0})]
    assert "was asked on the validation split" in summary(ReportData("s", searched))
