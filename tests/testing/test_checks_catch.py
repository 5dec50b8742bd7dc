"""Each conformance check fails for a plugin that breaks what it holds, and says so in a line."""

from __future__ import annotations

import broken_coders as coders
import broken_quantizers as quantizers
import pytest

from nqbench.api import Plugin
from nqbench.testing import checks_for

BROKEN: list[tuple[type[Plugin], str, str]] = [
    (quantizers.MutatesWeights, "inputs_untouched", "in place: weights"),
    (quantizers.DrawsFromTheGlobalGenerator, "deterministic", "symbols differ"),
    (quantizers.HidesItsSeed, "seed_declared", "uses_seed"),
    (quantizers.DependsOnTheProcess, "same_elsewhere", "side 'process' differs"),
    (quantizers.LongSymbols, "round_trip", "symbols are torch.int64"),
    (quantizers.AlphabetTooSmall, "round_trip", "in an alphabet of 7"),
    (quantizers.LosesSizes, "pruned_tensors", "sizes"),
    (quantizers.NeedsTwoAxes, "odd_shapes", "IndexError"),
    (quantizers.OneCodewordTooMany, "written", "codebook of 9 entries for 8 symbols"),
    (quantizers.ComplexSide, "written", "which the container cannot store"),
    (quantizers.DividesByTheSpread, "all_equal", "all weights 0.0"),
    (quantizers.DividesByTheSpread, "one_weight", "one weight of 0.3"),
    (quantizers.NanStatistic, "round_trip", "statistic 'gain' is nan"),
    (quantizers.OwnReconstruction, "base_form", "form 'lookup' reads back otherwise"),
    (quantizers.DetachedParameters, "differentiable", "not differentiable in 'codebook'"),
    (quantizers.WrongGradient, "differentiable", "by finite differences"),
    (quantizers.DeadParameter, "differentiable", "'bias'"),
    (quantizers.KnobTheWrongWay, "knob_direction", "more_bytes='down'"),
    (quantizers.KnobOutOfRange, "knob_field", "less than or equal to 12"),
    (quantizers.LyingAboutSensitivity, "sensitivity_forms", "NotImplementedError"),
    (quantizers.SumsSensitivity, "unit_sensitivity", "with h = 1"),
    (quantizers.FailsWhenWarm, "warm_start", "step"),
    (quantizers.CrowdedAlphabet, "extreme_scales", "weights near 1e+06"),
    (quantizers.Undescribed, "described", "'speed'"),
    (quantizers.Thawed, "frozen", "keep the model frozen"),
    (quantizers.LosesItsJson, "json_round_trip", "JSON"),
    (quantizers.local_class(), "pickles_to_a_worker", "local"),
    (coders.LosesASymbol, "lossless", "comes back wrong"),
    (coders.BytesOnly, "lossless", "too many symbols"),
    (coders.WrongType, "lossless", "int64, not int32"),
    (coders.SortsInPlace, "encoding_is_pure", "in place"),
    (coders.Salted, "encoding_is_pure", "other bytes"),
    (coders.KeepsTheTableItself, "decodes_elsewhere", "unknown stream"),
    (coders.CrashesOnGarbage, "truncation", "raises error"),
    (coders.CrashesOnGarbage, "flipped_bits", "not CorruptFile"),
    (coders.CrashesOnGarbage, "garbage", "not CorruptFile"),
    (coders.AbortsOnGarbage, "garbage", "ends the process that it runs in"),
    (coders.TrustsItsLength, "bounded_memory", "MiB to decode 16"),
    (coders.TrustsItsSymbols, "wrong_specification", "outside [0,"),
    (coders.InfiniteRate, "rate", "not finite"),
    (coders.RateInBytes, "rate_tells_the_bytes", "the payload has"),
]


@pytest.mark.parametrize(("broken", "check", "reason"), BROKEN, ids=lambda v: getattr(v, "name", None))
def test_a_broken_plugin_fails_the_check_that_is_meant_for_it(broken: type[Plugin], check: str, reason: str) -> None:
    (bound,) = [one for one in checks_for(broken) if one.check.id == check]
    result = bound.result()
    assert (result.status, reason in result.reason) == ("failed", True), result
    assert "\n" not in result.reason


@pytest.mark.parametrize(
    "sound", [quantizers.Sound, quantizers.RefusesOddShapes, coders.SoundCoder], ids=lambda cls: cls.name
)
def test_the_sound_plugin_that_the_broken_ones_are_made_from_passes_everything(sound: type[Plugin]) -> None:
    results = [one.result() for one in checks_for(sound)]
    assert len(results) > 12
    assert [result for result in results if result.status != "passed"] == []
