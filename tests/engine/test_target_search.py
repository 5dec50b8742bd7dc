"""Searches for operating points as the engine drives them: what they find, spend, say and resume."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from probe_distribution import Log, suite

from nqbench.api.errors import BadInput
from nqbench.engine import Silent, inline, run_suite
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.keys import KeyMaker
from nqbench.pipeline.trial import Choice, Trial
from nqbench.registry import registry
from nqbench.results.goal import HALF_A_POINT, Goal
from nqbench.results.record import Record
from nqbench.results.store import Store

DIGITS = """
    name: at-half-a-point
    models:
      - lenet300: {data: digits}
    quantizers:
      - uniform: {k: null, step: 0.1}
      - kmeans
      - ecsq: {lam: 0.1, unit: variance}
    coders: [huffman]
    target: {drop: 0.5, trials: 7, baseline: kmeans}
"""
PROBE = """
    name: searched
    models: [probe]
    quantizers:
      - levels
      - troubled: {how: raise}
    coders: [plain]
    codecs: [halves]
    target: {drop: 3.0, trials: 8}
"""


pytestmark = pytest.mark.usefixtures("in_process")
search = partial(run_suite, jobs=0)
"""What a search asks next does not depend on who answers."""


class Heard(Silent):
    """What a run told."""

    def __init__(self) -> None:
        self.bound = self.reused = 0
        self.search = False
        self.warnings: list[str] = []

    def started(self, total: int, reused: int, *, search: bool = False, goal: Goal = HALF_A_POINT) -> None:
        self.bound, self.reused, self.search = total, reused, search

    def found(self, reused: int) -> None:
        self.reused += reused

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def method(record: Record) -> str:
    return str(record.quantizer or record.codec)


def smallest(records: list[Record], drop: float) -> dict[str, int]:
    """By brute force: method -> bytes of the smallest file that holds."""
    held: dict[str, int] = {}
    for record in records:
        if record.ok and record.drop is not None and record.drop <= drop + 1e-9:
            held[method(record)] = min(record.file_bytes or 0, held.get(method(record), 1 << 40))
    return held


def test_the_smallest_file_of_each_method_is_found_within_the_trials_stated(tmp_path: Path) -> None:
    heard = Heard()
    result = search(suite(tmp_path / "s.yaml", DIGITS), tmp_path / "out", progress=heard)
    assert result.outcome == "ok"
    assert (heard.search, heard.bound) == (True, 21)
    spent = {name: [r for r in result.records if method(r) == name] for name in ("uniform", "kmeans", "ecsq")}
    assert all(3 <= len(records) <= 7 for records in spent.values())
    assert {record.selected_on for record in result.records} == {"test"}
    best = smallest(list(result.records), 0.5)
    assert set(best) == set(spent)
    (ranked,) = result.report.methods.values()
    assert {row.best.quantizer.partition("(")[0]: row.best.file_bytes for row in ranked} == best
    assert [row.best.file_bytes for row in ranked] == sorted(best.values())
    assert {row.vs_baseline for row in ranked} == {size / best["kmeans"] for size in best.values()}
    assert [row.method for row in ranked if row.is_baseline] == ["kmeans global huffman"]
    assert all(row.holds for row in ranked)
    # the answer is better than the coarse grid that it began with
    for name, records in spent.items():
        assert best[name] < smallest(records[:3], 0.5)[name]
    with Store.read(tmp_path / "out") as store:
        run = store.latest()
        assert run is not None
        assert (run.settings["drop"], run.settings["baseline"]) == (0.5, "kmeans")
        assert run.settings["target"]["split"] == "test"


def test_a_search_goes_on_around_trials_that_fail_and_reports_them(probe: Log, trouble: Path, tmp_path: Path) -> None:
    path, out = suite(tmp_path / "s.yaml", PROBE), tmp_path / "out"
    result = run_suite(path, out, jobs=2)
    assert result.outcome == "failed"
    found = {name: [r for r in result.records if method(r) == name] for name in ("levels", "troubled", "halves")}
    assert len(found["halves"]) == 1  # a codec without a knob is tried as it stands
    assert {record.status for record in found["troubled"]} == {"failed"}
    assert 1 <= len(found["troubled"]) <= 8
    best = smallest(result.records, 3.0)["levels"]
    (ranked,) = result.report.methods.values()
    assert next(row for row in ranked if row.method.startswith("levels")).best.file_bytes == best
    trouble.unlink()
    again = search(path, out)
    assert again.outcome == "ok"
    (ranked,) = again.report.methods.values()
    at = {row.method.partition(" ")[0].partition("(")[0]: row.best.knob_value for row in ranked}
    assert at["troubled"] == at["levels"]  # they are the same levels


def test_a_search_that_was_cut_short_resumes_without_computing_anything_twice(
    probe: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = suite(tmp_path / "s.yaml", PROBE), tmp_path / "out"
    whole = search(path, tmp_path / "whole", only=["quantizer=levels"])
    trials = [record.trial for record in whole.records]
    assert len(trials) > 4
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "another"))
    probe.counts()

    class Stop(Silent):
        left = 4

        def ended(self, record: Record, label: str, *, again: bool = False) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    first = search(path, out, only=["quantizer=levels"], progress=Stop())
    assert (first.outcome, len(first.records)) == ("interrupted", 4)
    assert probe.counts()["quantize"] == 4
    heard = Heard()
    resumed = search(path, out, only=["quantizer=levels"], progress=heard)
    assert resumed.outcome == "ok"
    assert heard.reused == 4
    assert probe.counts()["quantize"] == len(trials) - 4
    assert [record.trial for record in resumed.records] == trials

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("something is computed")

    monkeypatch.setattr(inline, "Worker", refuse)
    again = search(path, out, only=["quantizer=levels"])
    assert [record.to_dict() for record in again.records] == [record.to_dict() for record in resumed.records]
    elsewhere = search(path, tmp_path / "elsewhere", only=["quantizer=levels"])
    assert [record.trial for record in elsewhere.records] == trials
    assert all(record.cached == ["trial"] for record in elsewhere.records)


def test_a_knob_is_found_on_the_method_s_own_weights_and_its_range_covers_every_layer(
    probe: Log, tmp_path: Path
) -> None:
    text = PROBE.replace("drop: 3.0, trials: 8", "drop: 3.0, trials: 3")
    path = suite(tmp_path / "s.yaml", text + "    granularities: [global, layer]\n    pruners: [none, smallest]\n")
    result = search(path, tmp_path / "out", only=["quantizer=levels"])
    assert result.outcome == "ok"
    by_source: dict[Any, list[int]] = {}
    for record in result.records:
        by_source.setdefault((record.granularity, record.pruner), []).append((record.quantizer_params or {})["k"])
    assert len(by_source) == 4
    # the middle of 2 to 64 on a log scale: the search begins there
    assert all(11 in ks for ks in by_source.values()), by_source


def test_records_of_a_suite_and_of_a_search_are_not_confused(probe: Log, tmp_path: Path) -> None:
    out = tmp_path / "out"
    grid = PROBE.replace("target: {drop: 3.0, trials: 8}", "").replace("- levels", "- levels: {k: [11]}")
    search(suite(tmp_path / "grid.yaml", grid), out, only=["quantizer=levels"])
    searched = search(suite(tmp_path / "s.yaml", PROBE), out, only=["quantizer=levels"])
    assert {record.selected_on for record in searched.records} == {"test"}
    again = search(tmp_path / "grid.yaml", out, only=["quantizer=levels"])
    assert {record.selected_on for record in again.records} == {None}
    assert {record.trial for record in again.records} < {record.trial for record in searched.records}


def test_a_search_on_the_validation_split_looks_at_it_alone(probe: Log, tmp_path: Path) -> None:
    target = "target: {drop: 3.0, trials: 8}"
    text = PROBE.replace("[probe]", "[probe: {holdout: true}]")
    path = suite(tmp_path / "v.yaml", text.replace(target, target.replace("}", ", split: validation}")))
    result = search(path, tmp_path / "out", only=["quantizer=levels"])
    assert result.outcome == "ok"
    assert {record.selected_on for record in result.records} == {"validation"}
    for record in result.records:
        assert set(record.metrics) >= set(record.metrics_float) >= {"accuracy", "validation.accuracy"}
        assert record.metrics["accuracy"] == record.metric
    assert any(r.metrics["validation.accuracy"] != r.metrics["accuracy"] for r in result.records)
    held = [r for r in result.records if r.metrics_float["validation.accuracy"] - r.metrics["validation.accuracy"] <= 3]
    (ranked,) = result.report.methods.values()
    assert ranked[0].best.file_bytes == min(record.file_bytes or 0 for record in held)
    assert ranked[0].best.selected_on == "validation"
    restored = search(path, tmp_path / "restored", only=["quantizer=levels"])
    assert [r.metrics for r in restored.records] == [r.metrics for r in result.records]


def test_a_trial_s_key_says_which_split_was_looked_at_beside_the_test_s(probe: Log) -> None:
    def chosen(kind: str, name: str) -> Choice:
        return Choice.of(registry().make(kind, name))

    trial = Trial(chosen("model", "probe"), chosen("quantizer", "levels"), chosen("coder", "plain"))
    maker = KeyMaker(registry(), "cpu", Cache(None))
    plain, test, train, validation = (
        maker.keys(replace(trial, selected_on=split)) for split in (None, "test", "train", "validation")
    )
    assert plain == test
    assert len({plain.trial, train.trial, validation.trial}) == 3
    assert plain.stages["file"] == train.stages["file"] == validation.stages["file"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{drop: 3.0, split: validation}", r"s\.yaml: target\.split: model 'probe' has no validation split"),
        ("{drop: 3.0}", r"s\.yaml: target: model 'probe' has no metric, so there is nothing to search by"),
    ],
)
def test_a_model_that_has_nothing_to_search_by_is_told_in_a_line_before_the_first_trial(
    probe: Log, tmp_path: Path, change: str, message: str
) -> None:
    text = PROBE.replace("{drop: 3.0, trials: 8}", change)
    if "metric" in message:
        text = text.replace("[probe]", "[probe: {data: false}]")
    with pytest.raises(BadInput, match=message) as caught:
        search(suite(tmp_path / "s.yaml", text), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert probe.counts() == {}


def test_a_knob_that_cannot_be_found_is_a_warning_and_the_method_is_tried_as_it_stands(
    probe: Log, tmp_path: Path
) -> None:
    heard = Heard()
    path = suite(tmp_path / "s.yaml", PROBE.replace("- levels", "- knobless"))
    result = search(path, tmp_path / "out", only=["quantizer=knobless"], progress=heard)
    assert [record.status for record in result.records] == ["failed"]
    assert heard.warnings == [
        "the knob of knobless could not be determined, so only one trial is run: "
        "RuntimeError: no knob today (in the stage 'knob')"
    ]
    listed = json.loads((tmp_path / "out" / "records.json").read_text())["records"]
    assert "no knob today" in listed[0]["error"]
