"""How checks are listed, excused, skipped and run."""

from __future__ import annotations

from typing import ClassVar

import pytest
from broken_coders import LosesASymbol, SoundCoder
from broken_quantizers import KnobTheWrongWay, Sound
from pydantic import ConfigDict, Field

from nqbench.api import BadInput, DataMissing, Quantized, Quantizer, Source
from nqbench.testing import checks_for, configurations, parametrize, run_checks
from nqbench.testing.check import Failed
from nqbench.testing.other_process import call_in_other_process


class Needy(Quantizer, name="needy"):
    """Its parameter has no default."""

    levels: int
    """Levels."""


class Exemplary(Quantizer, name="exemplary"):
    """A parameter without default has an example, and there is a second configuration."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"levels": 3}, {"levels": 5}]})

    levels: int = Field(examples=[3, 4])
    """Levels."""


class Excused(KnobTheWrongWay, name="excused"):
    """States its own expected failure."""

    expected_failures: ClassVar[dict[str, str]] = {"knob_direction": "its knob is known to turn the wrong way"}


def test_ids_are_unique_and_name_plugin_and_check() -> None:
    ids = [one.id for one in checks_for(Sound)]
    assert len(set(ids)) == len(ids)
    assert "sound-round_trip" in ids


def test_a_class_is_checked_in_its_defaults_and_its_examples_once_each() -> None:
    assert [one.levels for one in configurations(Exemplary)] == [3, 5]  # type: ignore[attr-defined]


def test_a_class_without_defaults_says_how_to_check_it() -> None:
    with pytest.raises(BadInput, match="parameter 'levels' has no default; check an instance"):
        configurations(Needy)


def test_an_instance_is_checked_as_it_is() -> None:
    assert {one.plugin for one in checks_for(Sound(bits=5))} == {Sound(bits=5)}


def test_a_failing_check_stops_no_other() -> None:
    results = [result for _, result in run_checks(LosesASymbol)]
    assert [r.status for r in results if r.check == "lossless"] == ["failed"]
    assert "passed" in {r.status for r in results}
    assert len(results) == len(checks_for(SoundCoder))


def test_an_excused_check_is_expected_to_fail_and_must_not_pass() -> None:
    results = {result.check: result for _, result in run_checks(Excused)}
    assert results["knob_direction"].status == "expected"
    assert results["knob_direction"].reason == "its knob is known to turn the wrong way"
    (passing,) = [b for b in checks_for(Sound, {"round_trip": "no reason"}) if b.check.id == "round_trip"]
    assert passing.result().status == "failed"
    assert "passes, though it is expected to fail" in passing.result().reason


def test_an_excuse_for_an_unknown_check_is_refused() -> None:
    with pytest.raises(BadInput, match="no check of the kind 'quantizer' is called 'roundtrip'"):
        checks_for(Sound, {"roundtrip": "?"})


def test_data_that_are_not_at_hand_skip_a_check() -> None:
    class Homeless(Sound, name="homeless"):
        """Needs a file."""

        def quantize(self, source: Source) -> Quantized:
            raise DataMissing("put the codebook at x.bin")

    (bound,) = [one for one in checks_for(Homeless) if one.check.id == "round_trip"]
    assert (bound.result().status, bound.result().reason) == ("skipped", "DataMissing: put the codebook at x.bin")


def test_parametrize_gives_one_id_a_check_and_marks_the_excused() -> None:
    mark = parametrize(Sound, SoundCoder, expected_failures=None).mark
    assert mark.args[0] == "check"
    ids = [parameter.id for parameter in mark.args[1]]
    assert len(ids) == len(checks_for(Sound)) + len(checks_for(SoundCoder))
    assert ids[0] == "quantizer-sound-described"
    marked = [p.marks[0] for p in parametrize(Excused).mark.args[1] if p.marks]
    assert [(m.name, m.kwargs["strict"]) for m in marked] == [("xfail", True)]


def _die() -> None:
    import os

    os._exit(3)


def test_the_other_process_is_replaced_when_it_dies() -> None:
    with pytest.raises(Failed, match="ends the process that it runs in"):
        call_in_other_process(_die)
    assert call_in_other_process(abs, -2) == 2


def test_an_error_in_the_other_process_is_told_with_its_type() -> None:
    with pytest.raises(Failed, match="in another process: ValueError: invalid literal"):
        call_in_other_process(int, "x")
