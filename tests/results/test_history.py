"""Change points: planted ones are found where they are, and quiet histories have none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from record_factory import ENVIRONMENT, EXAMPLES, make

from nqbench.report.history import describe, history_page
from nqbench.results.compare import Thresholds
from nqbench.results.history import Series, build, changed, history
from nqbench.results.record import Record, pack_correct
from nqbench.results.store import Run, Store


def nights(records: Sequence[Record]) -> list[tuple[Run, list[Record]]]:
    """One night a record, with revisions r0, r1, ..."""
    runs = [
        Run(f"n{i}", "synthetic", "", {}, (), {"git_revision": f"r{i}"}, f"2026-01-{i + 1:02d}T00:00:00", None, "ok")
        for i in range(len(records))
    ]
    return [(run, [record]) for run, record in zip(runs, records, strict=True)]


def series(records: Sequence[Record], figure: str) -> Series:
    (found,) = [s for s in build(nights(records)) if s.figure == figure]
    return found


def where(found: Series) -> list[tuple[int, str]]:
    return [(step.at, step.verdict) for step in found.steps]


def timed(rng: np.random.Generator, factor: float, **fields: object) -> Record:
    samples = {"encode": (factor * 0.01 * rng.lognormal(0, 0.05, 9)).tolist()}
    return make(samples=samples, measured=True, **fields)  # type: ignore[arg-type]


def test_a_step_in_bytes_is_found_at_its_night_with_its_revisions() -> None:
    found = series([make(symbols=s) for s in (1000, 1000, 1020, 1020, 900)], "file_bytes")
    assert where(found) == [(2, "worse"), (4, "better")]
    assert "between r1 (2026-01-02) and r2 (2026-01-03)" in describe(found)[0]
    assert describe(found)[0].startswith("worse: 1,580 → 1,600 (+1.27 %)")


def test_a_metric_within_the_suite_s_tolerance_has_no_step_however_sure_the_test_is() -> None:
    records = [make(wrong=20), make(wrong=35)]  # the same are wrong, and fifteen more
    for absolute, expected in ((0.0, [(1, "worse")]), (2.0, [])):
        limits = Thresholds(absolute={"accuracy": absolute}) if absolute else Thresholds()
        (found,) = [s for s in build(nights(records), limits) if s.figure == "accuracy"]
        assert where(found) == expected


def test_a_constant_figure_has_no_step() -> None:
    found = series([make()] * 5, "file_bytes")
    assert found.constant
    assert found.steps == ()


def test_an_accuracy_that_flickers_is_no_step_and_one_that_falls_is() -> None:
    def missing(first: int, last: int) -> Record:
        correct = np.ones(EXAMPLES, dtype=bool)
        correct[first:last] = False
        return make(correct=pack_correct(correct), metric=100.0 * float(correct.mean()))

    flicker = [missing(0, 10 + night % 2) for night in range(6)]
    assert where(series(flicker, "accuracy")) == []
    assert where(series([*flicker, missing(0, 60)], "accuracy")) == [(6, "worse")]


def test_a_slowdown_is_found_at_its_night() -> None:
    rng = np.random.default_rng(0)
    for change in (1, 5, 9):
        records = [timed(rng, 3.0 if night >= change else 1.0) for night in range(10)]
        assert where(series(records, "seconds.encode")) == [(change, "worse")]


def test_two_changes_of_speed_are_both_found() -> None:
    rng = np.random.default_rng(1)
    factors = [1.0] * 8 + [2.0] * 8 + [1.0] * 8
    found = series([timed(rng, factor) for factor in factors], "seconds.encode")
    assert where(found) == [(8, "worse"), (16, "better")]


def test_steady_speeds_have_no_change_point() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        assert where(series([timed(rng, 1.0) for _ in range(12)], "seconds.encode")) == []


def test_times_of_other_hardware_are_left_out() -> None:
    rng = np.random.default_rng(3)
    other = [timed(rng, 9.0, environment={**ENVIRONMENT, "hardware": "other"}) for _ in range(4)]
    assert len(series([*other, *(timed(rng, 1.0) for _ in range(3))], "seconds.encode").points) == 3


def test_the_history_of_a_store_covers_what_every_night_says(tmp_path: Path) -> None:
    with Store.write(tmp_path) as store:
        for size, outcome in ((1000, "ok"), (None, "ok"), (500, "interrupted"), (1100, "ok")):
            run = store.start_run("synthetic", keys=[make().key])
            if size is not None:
                store.add(make(run=run, symbols=size))
            store.end_run(run, outcome)
        found = {s.figure: s for s in history(store)}
    assert [p.value - 564 - 16 for p in found["file_bytes"].points] == [1000, 1000, 1100]
    assert where(found["file_bytes"]) == [(2, "worse")]


def test_the_page_names_changes_and_escapes_text() -> None:
    records = [make(symbols=s, coder="<b>") for s in (1000, 1020)]
    found = build(nights(records))
    page = history_page("a <suite>", found)
    assert "a &lt;suite&gt;" in page
    assert "<b>" not in page
    assert page.count("<polyline") == sum(len(group) for group in changed(found).values()) == 2  # bytes and ratio
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("count", [0, 1])
def test_short_histories_have_a_page_too(count: int) -> None:
    found = build(nights([make()] * count)) if count else []
    assert "Nothing." in history_page("s", found)


def test_a_metric_that_is_called_like_a_figure_of_the_file_has_a_series_of_its_own() -> None:
    judged = {"metric_name": "mse", "metric_unit": "", "metric_higher_is_better": False, "correct": None}
    records = [make(metric=value, metrics={"mse": value}, **judged) for value in (1.0, 1.0, 1.5)]  # type: ignore[arg-type]
    assert where(series(records, "metric mse")) == [(2, "worse")]
    assert series(records, "mse").constant
    assert len(series(records, "mse").points) == 3
