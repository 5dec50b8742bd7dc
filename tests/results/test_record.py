"""A record survives every form it takes, and refuses figures that contradict each other."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import failed, make

from nqbench.api import BadInput
from nqbench.pipeline.trial import Choice, Trial
from nqbench.results.record import FINITE, Record, pack_correct, unpack_correct


def test_a_record_survives_json_and_dict() -> None:
    for record in (make(), failed(), make(metrics={"loss": math.inf})):
        assert Record.from_dict(record.to_dict()) == record
        assert Record.from_json(record.to_json()) == record


def test_nan_survives_json() -> None:
    again = Record.from_json(make(metrics={"loss": math.nan}, statistics={"cost": -math.inf}).to_json())
    assert again.ok
    assert math.isnan(again.metrics["loss"])
    assert again.statistics["cost"] == -math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "NaN", "-Infinity"])
@pytest.mark.parametrize("figure", FINITE)
def test_a_figure_that_is_not_finite_makes_a_failed_record_that_says_so(figure: str, value: float | str) -> None:
    record = make(**{figure: value})  # type: ignore[arg-type]
    assert record.status == "failed"
    said = "accuracy" if figure.startswith("metric") else figure
    assert said in str(record.error)
    assert str(float(value)) in str(record.error)
    assert Record.from_json(record.to_json()).to_json() == record.to_json()


def test_a_record_nested_without_end_is_refused_in_one_line() -> None:
    text = make().to_json().replace('"cached":[]', '"cached":' + "[" * 100_000 + "]" * 100_000)
    assert len(text) > 200_000
    with pytest.raises(BadInput, match="not a record") as caught:
        Record.from_json(text)
    assert "\n" not in str(caught.value)


def test_parts_that_do_not_sum_to_the_file_are_refused() -> None:
    good = make().to_dict()
    with pytest.raises(BadInput, match=r"the parts sum to \d+ bytes, the file has 1"):
        Record.from_dict({**good, "file_bytes": 1})


def test_a_good_record_needs_its_size() -> None:
    with pytest.raises(BadInput, match="needs file_bytes"):
        Record.from_dict({**make().to_dict(), "file_bytes": None})


def test_a_newer_schema_is_refused_before_its_unknown_fields() -> None:
    with pytest.raises(BadInput, match="schema version 3; this nqbench reads up to 2"):
        Record.from_dict({**make().to_dict(), "schema_version": 3, "a_field_of_the_future": 1})


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(BadInput, match="not a record: colour"):
        Record.from_dict({**make().to_dict(), "colour": "red"})


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(BadInput, match="not a record"):
        Record.from_json("{")


@given(st.lists(st.booleans(), max_size=200))
def test_correctness_survives_packing(bits: list[bool]) -> None:
    assert unpack_correct(pack_correct(bits), len(bits)).tolist() == bits


def test_correctness_is_packed_from_the_highest_bit() -> None:
    assert base64.b64decode(pack_correct([True, False, False, False, False, False, False, True, True])) == b"\x81\x80"


def test_correctness_of_another_length_is_refused() -> None:
    with pytest.raises(BadInput, match="9 examples takes 2 bytes, not 1"):
        unpack_correct(pack_correct([True]), 9)


@pytest.mark.parametrize(("higher", "expected"), [(True, 1.5), (False, -1.5)])
def test_a_drop_is_positive_where_the_network_got_worse(higher: bool, expected: float) -> None:
    assert make(metric=96.5, metric_higher_is_better=higher).drop == pytest.approx(expected)


def test_hits_are_what_was_packed() -> None:
    hits = make(wrong=3).hits()
    assert hits is not None
    assert np.flatnonzero(~hits).tolist() == [0, 1, 2]


def test_a_record_takes_every_field_of_a_trials_configuration() -> None:
    trial = Trial(
        Choice("model", "net"),
        Choice("quantizer", "uniform", '{"k":4}'),
        Choice("coder", "huffman"),
        training=(Choice("training", "finetune", '{"epochs":1}'), Choice("training", "batchnorm")),
        seed=3,
        loss_increase=True,
    )
    record = Record.for_trial(
        trial.config(), run="r", suite="s", status="failed", key="k", trial=trial.trial, error="no"
    )
    shown = record.to_dict()
    for name, value in trial.config().items():
        if name != "loss_increase":  # there: asked for; here: what came out
            assert shown[name] == value
    assert record.training == "finetune+batchnorm"
    assert record.loss_increase is None
