"""What gets a little worse each night is told, once, in the night in which the sum of it shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from record_factory import make
from test_history import nights, series, where

from nqbench.report.history import describe
from nqbench.results.compare import Comparison, Thresholds, compare
from nqbench.results.exports import Side
from nqbench.results.history import build, with_slow
from nqbench.results.record import Record


def told(records: list[Record], limits: Thresholds | None = None) -> Comparison:
    """The comparison of the last night with the one before, as ``nqbench nightly`` tells it."""
    sides = [Side("a", "synthetic", [records[-2]]), Side("b", "synthetic", [records[-1]])]
    found = compare(*sides, limits)
    return replace(found, changes=with_slow(found.changes, build(nights(records), limits), f"n{len(records) - 1}"))


def test_three_more_wrong_answers_a_night_are_a_loss_in_the_end() -> None:
    records = [make(k=4, wrong=20 + 3 * night) for night in range(20)]
    found = series(records, "accuracy")
    assert found.steps
    assert {step.verdict for step in found.steps} == {"worse"}
    first = found.steps[0]
    assert (first.since, first.before) == (0, 98.0)
    assert first.at > 2
    codes = [told(records[: night + 1]).exit_code for night in range(1, 20)]
    assert 3 in codes
    assert codes.count(3) < 6  # not every night from then on
    alarm = told(records[: codes.index(3) + 2])
    (change,) = [change for change in alarm.changes if change.figure == "accuracy"]
    assert (change.verdict, change.baseline) == ("worse", 98.0)
    assert change.reason == "slowly, since run n0 (2026-01-01)"


def test_bytes_within_a_tolerance_a_night_add_up() -> None:
    limits = Thresholds(tolerance={"file_bytes": 0.01, "ratio": 0.01})
    records = [make(k=4, symbols=2000 + 15 * night) for night in range(4)]
    (found,) = [s for s in build(nights(records), limits) if s.figure == "file_bytes"]
    assert where(found) == [(2, "worse")]
    assert "between r0 (2026-01-01) and r2 (2026-01-03)" in describe(found)[0]
    assert [told(records[: night + 1], limits).exit_code for night in (1, 2, 3)] == [0, 3, 0]
    (change,) = [change for change in told(records[:3], limits).changes if change.figure == "file_bytes"]
    assert change.change == pytest.approx(records[2].file_bytes / records[0].file_bytes - 1)  # type: ignore[operator]


def test_what_falls_and_comes_back_within_the_tolerance_is_no_change() -> None:
    limits = Thresholds(tolerance={"file_bytes": 0.01})
    records = [make(k=4, symbols=size) for size in (2000, 2015, 1990, 2012, 2000)]
    (found,) = [s for s in build(nights(records), limits) if s.figure == "file_bytes"]
    assert found.steps == ()
