"""Ranking: what comes first, what is marked, how seeds are taken together. Expected values are made by hand."""

from __future__ import annotations

import math
from statistics import stdev

import pytest
from record_factory import failed, make, sweep

from nqbench.report.numbers import repeats
from nqbench.results.goal import Goal
from nqbench.results.labels import Labels, configuration_key, knob_value
from nqbench.results.leaderboard import leaderboard
from nqbench.results.methods import methods, with_measured
from nqbench.results.published import Published, published_rows
from nqbench.results.record import Record


def at(symbols: int, wrong: int, **fields: object) -> Record:
    """A record of k = 2 with that many bytes of symbols and wrong answers (the float network: 20 of 1,000)."""
    return make(symbols=symbols, wrong=wrong, **fields)  # type: ignore[arg-type]


def test_files_that_hold_come_first_by_size_then_the_others_by_what_they_lose() -> None:
    records = [
        at(900, 24, k=3),  # loses 0.4
        at(500, 25, k=4),  # loses 0.5: still holds
        at(100, 40, k=5),  # loses 2.0
        at(700, 26, k=6),  # loses 0.6
        at(950, 10, k=7),  # gains
    ]
    rows = leaderboard(records)
    assert [row.knob_value for row in rows] == [4, 3, 7, 6, 5]
    assert [row.holds for row in rows] == [True, True, True, False, False]
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5]
    assert next(row.knob_value for row in leaderboard(records, goal=Goal(drop=2.0))) == 5


def test_the_front_is_marked() -> None:
    records = [at(900, 24, k=3), at(500, 25, k=4), at(600, 30, k=5), at(400, 90, k=6)]
    assert {row.knob_value for row in leaderboard(records) if row.pareto} == {3, 4, 6}


def test_a_metric_where_lower_is_better_is_ranked_the_other_way_up() -> None:
    records = [
        at(500, 20, k=k, metric=value, metric_float=10.0, metric_higher_is_better=False)
        for k, value in ((3, 12.0), (4, 10.1), (5, 9.0))
    ]
    assert [row.knob_value for row in leaderboard(records)][-1] == 3
    assert [row.drop for row in leaderboard(records)][-1] == pytest.approx(2.0)


def test_a_model_without_a_metric_is_ordered_by_size() -> None:
    nothing = {"metric": None, "metric_float": None, "metric_name": None, "metric_delta": None, "correct": None}
    rows = leaderboard([at(900, 20, k=3, mse=0.1, **nothing), at(500, 20, k=4, mse=0.2, **nothing)])
    assert [row.knob_value for row in rows] == [4, 3]
    assert [row.holds for row in rows] == [None, None]
    assert all(row.pareto for row in rows)


def test_a_metric_that_is_no_number_is_not_ranked() -> None:
    rows = leaderboard([at(10, 20, k=3, metric=math.nan), at(900, 999, k=4)])
    assert [row.knob_value for row in rows] == [4]


def test_seeds_are_one_row_with_mean_deviation_and_count() -> None:
    rows = leaderboard([at(500, wrong, k=4, seed=seed) for seed, wrong in enumerate((20, 22, 27))])
    assert len(rows) == 1
    assert rows[0].n == 3
    assert not rows[0].deterministic
    assert rows[0].metric == pytest.approx(97.7)
    assert rows[0].metric_std == pytest.approx(stdev([98.0, 97.8, 97.3]))
    assert rows[0].file_bytes_std == 0


def test_what_has_no_seed_is_deterministic_and_has_no_deviation() -> None:
    (row,) = leaderboard([at(500, 20)])
    assert row.deterministic
    assert row.metric_std is None


def test_failures_have_no_row_and_models_are_ranked_apart() -> None:
    rows = leaderboard([*sweep(), failed(k=64)])
    assert len(rows) == 40
    assert [row.rank for row in rows if row.model == "other"] == list(range(1, 21))


def test_a_label_shows_what_varies_and_the_knob() -> None:
    records = [make(k=k, coder_params={"level": level, "window": 1}) for k in (2, 4) for level in (1, 9)]
    labels = Labels(records)
    assert labels.configuration(records[0]) == "uniform(k=2) global huffman(level=1)"
    assert labels.method(records[0]) == "uniform global huffman(level=1)"
    assert len({labels.configuration(record) for record in records}) == 4


def test_a_label_shows_settings_and_trainings_where_they_vary() -> None:
    plain = make()
    tuned = make(training="finetune+bn", training_params=[{"epochs": 2}, {}], unquantized="float16")
    labels = Labels([plain, tuned])
    assert labels.configuration(tuned) == "uniform(k=16) global finetune+bn huffman unquantized=float16"
    assert labels.configuration(plain) == "uniform(k=16) global huffman unquantized=float32"


def test_the_key_of_a_configuration_leaves_out_seed_and_knob_as_asked() -> None:
    a, b, c = make(k=2, seed=1), make(k=4, seed=1), make(k=2, seed=2)
    assert configuration_key(a) == configuration_key(c) != configuration_key(b)
    assert configuration_key(a, knob=False) == configuration_key(b, knob=False)
    assert configuration_key(a, seed=True) != configuration_key(c, seed=True)
    assert knob_value(a) == 2


def compared(records: list[Record], baseline: str | None = None, drop: float = 0.5) -> dict[str, object]:
    rows = leaderboard(records, goal=Goal(drop=drop))
    return {m.method: m for m in methods(rows, {r.key: r for r in records}, baseline=baseline)}


def test_methods_are_ranked_by_their_smallest_file_that_holds() -> None:
    records = [
        at(900, 20, k=8), at(800, 24, k=4), at(100, 90, k=2),
        at(700, 23, k=8, quantizer="kmeans"), at(600, 26, k=4, quantizer="kmeans"),
        at(50, 500, k=4, quantizer="ternary"),
    ]  # fmt: skip
    found = compared(records)
    assert list(found) == ["kmeans global huffman", "uniform global huffman", "ternary global huffman"]
    kmeans, uniform, ternary = found.values()
    assert (kmeans.best.parts["symbols"], uniform.best.parts["symbols"]) == (700, 800)  # type: ignore[attr-defined]
    assert kmeans.vs_baseline == kmeans.best.file_bytes / uniform.best.file_bytes  # type: ignore[attr-defined]
    assert uniform.is_baseline  # type: ignore[attr-defined]  # the suite named it first
    assert ternary.vs_baseline is None  # type: ignore[attr-defined]
    assert ternary.verdict == "worse"  # type: ignore[attr-defined]
    assert uniform.verdict == "not distinguishable"  # type: ignore[attr-defined]
    assert kmeans.verdict == "leader"  # type: ignore[attr-defined]


@pytest.mark.parametrize("before", [{}, {"sensitivity": "hessian"}, {"pruner": "magnitude", "sensitivity": "adam"}])
@pytest.mark.parametrize("asked", ["kmeans", "kmeans global", "kmeans global huffman"])
def test_a_baseline_is_found_by_its_quantizer_whatever_stands_before_it(before: dict[str, str], asked: str) -> None:
    found = compared(sweep(**before)[:20], baseline=asked)
    (name,) = (name for name, row in found.items() if row.is_baseline)  # type: ignore[attr-defined]
    assert name.endswith("kmeans global huffman")


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_what_fails_at_some_seeds_does_not_hold(bad: int) -> None:
    """Two of three seeds that failed are no reason to lead."""
    records = [failed(k=2, wrong=20, seed=seed) if seed < bad else make(k=2, wrong=20, seed=seed) for seed in range(3)]
    rows = leaderboard([*records, make(k=16, wrong=20, seed=0), failed(k=2, model="other", seed=0)])
    row = next(row for row in rows if row.knob_value == 2)
    assert (row.n, row.failed, row.holds, row.rank) == ((3 - bad), bad, bad == 0, 1 if bad == 0 else 2)
    assert repeats(row.n, row.deterministic, row.failed) == (
        f"{3 - bad} of 3 seeds, {bad} failed" if bad else "3 seeds"
    )


def test_a_baseline_can_be_named() -> None:
    found = compared(sweep()[:20], baseline="kmeans")
    assert [name for name, row in found.items() if row.is_baseline] == ["kmeans global huffman"]  # type: ignore[attr-defined]
    # bzip2's symbols are a tenth larger, everything else is the same
    worse = found["kmeans global bzip2"].bd_rate.change  # type: ignore[attr-defined]
    assert 0.05 < worse < 0.10
    assert found["kmeans global bzip2"].bd_rate_mse == pytest.approx(worse, abs=0.02)  # type: ignore[attr-defined]


def test_published_tables_and_rows_are_read_alike() -> None:
    table = {"paper": "P", "network": "net", "rows": [{"method": "m", "accuracy": 98.0, "ratio": 5}, {"method": "o"}]}
    single = {"paper": "Q", "model": "net", "method": "e", "error": 2.0}
    assert published_rows([table, single]) == [
        Published("net", "m", "P", 5.0, "accuracy", 98.0, unit="%"),
        Published("net", "o", "P", None, "metric", None),
        Published("net", "e", "Q", None, "error", 2.0, unit="%"),
    ]


def test_a_published_row_stands_beside_the_best_measured_one_of_its_accuracy() -> None:
    rows = leaderboard([at(900, 20, k=3, ratio=10.0), at(500, 25, k=4, ratio=20.0), at(400, 90, k=5, ratio=30.0)])
    quoted = [
        Published("net", "a", "P", 16.0, "accuracy", 97.5),
        Published("net", "b", "P", 16.0, "error", 2.2),
        Published("net", "c", "P", 16.0, "accuracy", 99.9),
    ]
    found = with_measured(quoted, rows)
    assert [q.difference for q in found] == [pytest.approx(0.25), pytest.approx(-0.375), None]
    assert found[2].measured is None


def test_a_target_in_the_metric_itself_is_held_by_what_reaches_it() -> None:
    records = [at(500, 25, k=4), at(900, 24, k=3), at(100, 40, k=5)]  # 97.5, 97.6, 96.0
    assert [row.holds for row in leaderboard(records, goal=Goal(metric=97.6))] == [True, False, False]
    assert [row.knob_value for row in leaderboard(records, goal=Goal(metric=96.0))] == [5, 4, 3]
    lower = [
        at(500, 20, k=k, metric=m, metrics={"accuracy": m}, metric_higher_is_better=False)
        for k, m in ((3, 12.0), (4, 9.0))
    ]
    assert [row.knob_value for row in leaderboard(lower, goal=Goal(metric=10.0)) if row.holds] == [4]


def test_what_a_search_looked_at_decides_what_holds_and_the_test_s_figures_are_shown() -> None:
    def on_validation(symbols: int, wrong: int, validation: float, **fields: object) -> Record:
        good = at(symbols, wrong, selected_on="validation", **fields)
        metrics = {**good.metrics, "validation.accuracy": validation}
        return Record.from_dict(
            {**good.to_dict(), "metrics": metrics, "metrics_float": {"accuracy": 98.0, "validation.accuracy": 96.0}}
        )

    records = [on_validation(500, 30, 95.8, k=4), on_validation(400, 20, 95.0, k=3)]
    rows = leaderboard(records)
    assert [(row.knob_value, row.holds, row.metric) for row in rows] == [(4, True, 97.0), (3, False, 98.0)]
    assert [row.holds for row in leaderboard(records, goal=Goal(metric=95.5))] == [True, False]


def test_points_that_fail_although_a_smaller_file_holds_are_counted_a_method() -> None:
    records = [
        *(at(size, wrong, k=k) for k, size, wrong in ((9, 900, 20), (8, 800, 90), (7, 700, 22), (6, 600, 90))),
        *(at(size, wrong, k=k, quantizer="kmeans") for k, size, wrong in ((9, 900, 20), (8, 500, 90))),
    ]
    found = methods(leaderboard(records), {record.key: record for record in records})
    assert {row.method.partition(" ")[0]: row.violations for row in found} == {"uniform": 1, "kmeans": 0}


def test_a_method_s_ratio_stands_beside_the_best_quoted_one_that_holds_the_same_target() -> None:
    quoted = published_rows(
        [
            {
                "paper": "P",
                "network": "net",
                "rows": [
                    {"method": "a", "accuracy": 97.5, "ratio": 20.0},
                    {"method": "b", "error": 2.2, "ratio": 30.0},
                    {"method": "c", "accuracy": 97.4, "ratio": 90.0},
                    {"method": "d", "accuracy": 99.0},
                ],
            }
        ]
    )
    records = [at(500, 25, k=4, ratio=60.0), at(300, 60, k=4, quantizer="kmeans", ratio=99.0)]

    def ratios(**target: float) -> list[float | None]:
        rows = leaderboard(records, goal=Goal(**target))  # type: ignore[arg-type]
        by_key = {record.key: record for record in records}
        return [row.vs_published for row in methods(rows, by_key, published=quoted, goal=Goal(**target))]  # type: ignore[arg-type]

    assert ratios(drop=0.5) == [pytest.approx(2.0), None]  # 60 / 30; kmeans does not hold
    assert ratios(metric=97.4) == [pytest.approx(60 / 90), None]
    assert methods(leaderboard(records), {r.key: r for r in records})[0].vs_published is None


@pytest.mark.parametrize(
    ("fields", "name", "unit", "expected"),
    [
        ({"error": 7.0}, "perplexity", "", None),  # 7 % wrong is no perplexity of 7
        ({"error": 7.0}, "accuracy", "%", 93.0),
        ({"accuracy": 93.0}, "error", "%", 7.0),
        ({"accuracy": 93.0}, "accuracy", "%", 93.0),
        ({"accuracy": 93.0}, "accuracy", "", None),  # a share of 1, perhaps
        ({"accuracy": 93.0}, "top5", "%", None),
        ({"metric": "perplexity", "value": 7.0}, "perplexity", "", 7.0),
        ({"metric": "perplexity", "value": 7.0}, "accuracy", "%", None),
        ({"metric": "psnr", "value": 30.0, "unit": "dB"}, "psnr", "dB", 30.0),
        ({"metric": "psnr", "value": 30.0, "unit": "dB"}, "psnr", "bel", None),
        ({}, "accuracy", "%", None),
    ],
)
def test_a_quoted_figure_is_only_read_as_one_of_its_own_metric(
    fields: dict[str, object], name: str, unit: str, expected: float | None
) -> None:
    (row,) = published_rows([{"model": "net", "method": "m", "ratio": 5.0, **fields}])
    assert row.measured_as(name, unit) == expected
    higher = name != "perplexity"
    measured = at(10, 20, k=3, metric_name=name, metric_unit=unit, metric=expected or 7.0, metric_float=7.0,
                  metric_higher_is_better=higher)  # fmt: skip
    (found,) = with_measured([row], leaderboard([measured]))
    assert (found.measured is not None) == (expected is not None)


def test_equal_bytes_of_a_tested_and_an_untested_point_are_ranked() -> None:
    """Codes of a fixed length: several steps of a search give one size, and the test saw the answer alone."""
    looked = {"validation.accuracy": 98.0}
    fields = {"selected_on": "validation", "metrics": looked, "metrics_float": looked}
    tested = make(k=4, **fields)
    other = make(
        k=5, metric=None, correct=None, parts=tested.parts.model_dump(), file_bytes=tested.file_bytes, **fields
    )
    for rows in (leaderboard([tested, other]), leaderboard([other, tested])):
        assert [row.file_bytes for row in rows] == [tested.file_bytes] * 2
        assert rows[0].drop is not None
    records = [tested, other]
    assert methods(leaderboard(records), {record.key: record for record in records})
