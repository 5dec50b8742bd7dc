"""Comparisons: planted changes are found, absent ones are not, and nothing is called the same without evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from record_factory import EXAMPLES, failed, make, sweep

from nqbench.api import BadInput
from nqbench.results.compare import Comparison, Thresholds, compare
from nqbench.results.exports import Side
from nqbench.results.record import Record, pack_correct
from nqbench.suite.spec import Thresholds as SuiteThresholds


def side(records: Sequence[Record], path: str = "a", suite: str = "synthetic") -> Side:
    return Side(path, suite, records, "run")


def against(old: Sequence[Record], new: Sequence[Record], limits: Thresholds | None = None) -> Comparison:
    return compare(side(old), side(new, "b"), limits)


def verdict(comparison: Comparison, figure: str) -> str:
    (found,) = [change for change in comparison.changes if change.figure == figure]
    return found.verdict


def with_misses(missed: Sequence[int], **fields: object) -> Record:
    correct = np.ones(EXAMPLES, dtype=bool)
    correct[list(missed)] = False
    return make(correct=pack_correct(correct), metric=100.0 * float(correct.mean()), **fields)  # type: ignore[arg-type]


def timed(rng: np.random.Generator, factor: float = 1.0, n: int = 9, **fields: object) -> Record:
    samples = {stage: (factor * 0.01 * rng.lognormal(0, 0.03, n)).tolist() for stage in ("encode", "decode")}
    return make(samples=samples, measured=True, **fields)  # type: ignore[arg-type]


def test_equal_runs_are_the_same_in_everything() -> None:
    result = against(sweep(), sweep())
    assert set(result.trials.values()) == {"same"}
    assert result.exit_code == 0


def test_a_quantizer_made_two_per_cent_worse_is_caught() -> None:
    new = [make(k=k, mse=1.02 * (make(k=k).mse or 0)) for k in (2, 4, 8)]
    result = against([make(k=k) for k in (2, 4, 8)], new)
    assert set(result.trials.values()) == {"worse"}
    assert [c.change for c in result.changes if c.figure == "mse"] == [pytest.approx(0.02)] * 3
    assert result.exit_code == 3


def test_one_byte_is_a_change_unless_a_tolerance_says_otherwise() -> None:
    old, new = make(symbols=5000), make(symbols=5001)
    assert verdict(against([old], [new]), "file_bytes") == "worse"
    assert verdict(against([new], [old]), "file_bytes") == "better"
    limits = Thresholds().with_tolerances(["file_bytes=0.001", "ratio = 0.001"])
    assert set(against([old], [new], limits).trials.values()) == {"same"}


def test_a_ratio_is_worse_where_it_falls() -> None:
    assert verdict(against([make(ratio=10.0)], [make(ratio=9.0)]), "ratio") == "worse"


def test_an_mse_within_the_last_digits_is_the_same() -> None:
    old = make()
    assert verdict(against([old], [make(mse=(old.mse or 0) * (1 + 1e-9))]), "mse") == "same"


def test_accuracy_is_worse_where_the_paired_test_says_so() -> None:
    # 20 examples lost, none gained: p = 2 / 2^20
    result = against([with_misses(range(10))], [with_misses(range(30))])
    assert verdict(result, "accuracy") == "worse"
    assert result.exit_code == 3


def test_accuracy_that_fell_without_evidence_is_inconclusive_and_no_regression() -> None:
    # 9 lost, 3 gained: p = 2 * 299 / 4096 = 0.146; the interval reaches beyond half a point
    result = against([with_misses(range(3))], [with_misses(range(3, 12))])
    assert verdict(result, "accuracy") == "inconclusive"
    assert result.exit_code == 0


def test_accuracy_is_the_same_only_where_the_interval_shows_it() -> None:
    old, new = with_misses([0, 1]), with_misses([1, 2])
    assert verdict(against([old], [new]), "accuracy") == "same"  # +-0.34 points at most
    assert verdict(against([old], [new], Thresholds(margin=0.1)), "accuracy") == "inconclusive"


def test_many_accuracies_are_corrected_for_their_number() -> None:
    # 1 gained, 9 lost: p = 2 * 11 / 1024 = 0.0215 alone; with 5 of them Holm asks for 0.01
    ks = (2, 4, 8, 16, 32)
    pairs = [(with_misses([9], k=k), with_misses(range(9), k=k)) for k in ks]
    assert verdict(against([pairs[0][0]], [pairs[0][1]]), "accuracy") == "worse"
    result = against([old for old, _ in pairs], [new for _, new in pairs])
    found = [change for change in result.changes if change.figure == "accuracy"]
    assert {change.verdict for change in found} == {"inconclusive"}
    assert min(change.p or 0 for change in found) == pytest.approx(5 * 22 / 1024)


def test_a_metric_without_examples_compares_as_it_is() -> None:
    plain = {"correct": None, "examples": None, "metric_name": "perplexity", "metric_higher_is_better": False}
    old, new = make(metric=10.0, **plain), make(metric=10.1, **plain)  # type: ignore[arg-type]
    assert verdict(against([old], [new]), "perplexity") == "worse"
    assert verdict(against([new], [old]), "perplexity") == "better"
    assert verdict(against([old], [old]), "perplexity") == "same"
    broken = make(metric=math.nan, **plain)  # type: ignore[arg-type]
    result = against([old], [broken])
    assert set(result.trials.values()) == {"failed"}
    assert "is nan" in result.changes[0].reason


def test_a_coder_made_three_times_slower_is_caught() -> None:
    rng = np.random.default_rng(0)
    ks = (2, 4, 8, 16, 32)
    result = against([timed(rng, k=k) for k in ks], [timed(rng, 3.0, k=k) for k in ks])
    assert set(result.trials.values()) == {"worse"}


def test_no_change_raises_no_alarm_in_twenty_runs() -> None:
    rng = np.random.default_rng(1)
    old = [timed(rng, k=k) for k in range(2, 22)]
    for _ in range(20):
        result = against(old, [timed(rng, k=k) for k in range(2, 22)])
        assert result.exit_code == 0
        assert "better" not in result.trials.values()


def test_equal_times_are_the_same_and_noisy_ones_inconclusive() -> None:
    rng = np.random.default_rng(2)
    assert verdict(against([timed(rng, n=15)], [timed(rng, n=15)]), "seconds.encode") == "same"
    few = against([timed(rng, n=3)], [timed(rng, 3.0, n=3)])
    assert verdict(few, "seconds.encode") == "inconclusive"  # however large: three samples show nothing
    slight = against([timed(rng, n=15)], [timed(rng, 1.07, n=15)])
    assert verdict(slight, "seconds.encode") != "worse"  # significant, but below the ratio that matters


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"measured": False}, "not measurements"),
        ({"environment": {"hardware": "another", "threads": 1, "device": "cpu"}}, "hardware, threads or device differ"),
    ],
)
def test_times_are_not_compared_across_machines_or_without_measurements(change: dict[str, object], note: str) -> None:
    rng = np.random.default_rng(3)
    new = Record.from_dict({**timed(rng, 3.0).to_dict(), **change})
    result = against([timed(rng)], [new])
    assert not any(c.figure.startswith("seconds") for c in result.changes)
    assert any(note in line for line in result.notes)


def test_failures_new_and_gone_trials_are_said() -> None:
    old = [make(k=2), make(k=4), make(k=8), failed(k=16)]
    new = [failed(k=2), make(k=8), make(k=32), make(k=16)]
    result = against(old, new)
    by_k = {record.trial: (record.quantizer_params or {})["k"] for record in [*old, *new]}
    assert {by_k[trial]: verdict for trial, verdict in result.trials.items()} == {
        2: "failed", 4: "gone", 8: "same", 16: "better", 32: "new",
    }  # fmt: skip
    assert result.exit_code == 2


def test_a_method_is_what_its_gravest_trial_is() -> None:
    old = [make(k=2), make(k=4), make(k=2, quantizer="kmeans")]
    new = [make(k=2), make(k=4, symbols=9999), make(k=2, quantizer="kmeans", symbols=1)]
    assert against(old, new).methods == {
        "net: uniform global huffman": "worse",
        "net: kmeans global huffman": "better",
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (side([make()]), side([make()], "b", "another"), "a is of suite 'synthetic', b of 'another'"),
        (side([make(seed=1)]), side([make(seed=2)], "b"), "different seeds: 1 in a, 2 in b"),
        (side([make(seed=1)]), side([make(seed=s) for s in (1, 2)], "b"), "different seeds: 1 in a, 1, 2 in b"),
        (side([make(k=2)]), side([make(k=4)], "b"), "a and b have no trial in common"),
        (side([]), side([make()], "b"), "a: holds no records"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused_in_one_line(old: Side, new: Side, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        compare(old, new)
    assert "\n" not in str(caught.value)


def test_a_change_within_an_absolute_or_a_relative_tolerance_is_none() -> None:
    old, new = make(symbols=5000), make(symbols=5016)
    for settings, expected in (
        ({"absolute": {"file_bytes": 16}, "tolerance": {"file_bytes": 0.0}}, "same"),
        ({"absolute": {"file_bytes": 15}, "tolerance": {"file_bytes": 0.0}}, "worse"),
        ({"absolute": {"file_bytes": 1}, "tolerance": {"file_bytes": 0.0030}}, "same"),  # 16 / 5580 = 0.00287
        ({"absolute": {"file_bytes": 1}, "tolerance": {"file_bytes": 0.0028}}, "worse"),
    ):
        limits = Thresholds.of({"thresholds": settings})
        assert verdict(against([old], [new], limits), "file_bytes") == expected


def test_a_fall_of_accuracy_within_the_suite_s_tolerance_is_none_however_sure() -> None:
    old, new = with_misses(range(10)), with_misses(range(30))  # two points, p = 2 / 2^20
    for points, expected in ((2.0, "same"), (1.9, "worse")):
        limits = Thresholds.of({"thresholds": {"absolute": {"accuracy": points}}})
        assert verdict(against([old], [new], limits), "accuracy") == expected


def test_thresholds_come_from_the_suite_and_misspelt_ones_are_refused() -> None:
    limits = Thresholds.of({"thresholds": {"time_ratio": 1.5, "tolerance": {"file_bytes": 0.01}}})
    assert (limits.time_ratio, limits.tolerance["file_bytes"], limits.tolerance["mse"]) == (1.5, 0.01, 1e-6)
    with pytest.raises(BadInput, match="unknown threshold 'time_ration'"):
        Thresholds.of({"thresholds": {"time_ration": 2}})
    with pytest.raises(BadInput, match="expected figure=share"):
        Thresholds().with_tolerances(["file_bytes"])


def test_two_runs_judged_by_different_metrics_are_not_compared() -> None:
    """The id of a trial leaves out by what it is judged, so that these two are one."""
    old = make(k=4)
    new = make(
        k=4, metric_name="divergence", metric_unit="nats", metric_higher_is_better=False, metric=0.01, correct=None
    )
    for a, b in ((old, new), (new, old)):
        result = against([a], [b])
        assert verdict(result, "metric") == "inconclusive"
        assert set(result.trials.values()) == {"inconclusive"}


@pytest.mark.parametrize(("after", "found"), [(98.0, "same"), (50.0, "worse"), (99.0, "better")])
def test_points_that_a_search_kept_from_the_test_split_are_compared_where_it_looked(after: float, found: str) -> None:
    def seen(value: float) -> Record:
        looked = {"validation.accuracy": value}
        return make(k=4, metric=None, correct=None, selected_on="validation", metrics=looked, metrics_float=looked)

    assert verdict(against([seen(98.0)], [seen(after)]), "validation.accuracy") == found


def test_a_metric_that_one_side_alone_has_is_said() -> None:
    old, new = make(k=4), make(k=4, metric=None, correct=None)
    for a, b in ((old, new), (new, old)):
        assert verdict(against([a], [b]), "accuracy") == "inconclusive"


MSE = {"metric_name": "mse", "metric_unit": "", "metric_higher_is_better": False, "correct": None}


def test_a_tolerance_for_a_metric_called_mse_is_not_one_for_the_weights_distortion() -> None:
    spec = SuiteThresholds.model_validate({"metrics": {"mse": 0.2}})
    limits = Thresholds.of({"thresholds": spec.as_settings()})
    records = [
        make(metric_name="mse", metric_unit="", metric_higher_is_better=False, metric=value, mse=value, correct=None)
        for value in (1.0, 1.1)
    ]
    found = compare(Side("a", "s", [records[0]], "r"), Side("b", "s", [records[1]], "r"), limits)
    verdicts = {change.figure: change.verdict for change in found.changes}
    assert (verdicts["mse"], verdicts["metric mse"]) == ("worse", "same")


def test_a_network_judged_by_an_mse_of_its_own_has_it_beside_that_of_its_weights() -> None:
    old, new = (make(k=4, metric=value, metrics={"mse": value}, **MSE) for value in (1.0, 1.5))  # type: ignore[arg-type]
    found = against([old], [new])
    assert verdict(found, "mse") == "same"
    assert verdict(found, "metric mse") == "worse"
