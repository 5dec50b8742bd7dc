"""Axes -> trials: which combinations there are, which cannot be, and in which order."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nqbench.pipeline.chain import shares
from nqbench.suite import SuiteError
from nqbench.suite.document import dump

FORMS = {"none": "none", "fisher": "diagonal", "moments": "second-moments"}
TAKES = {
    "uniform": {"none", "diagonal"},
    "kmeans": {"none", "diagonal"},
    "random": {"none", "diagonal"},
    "feedback": {"second-moments"},
}
QUANTIZERS = {"uniform": {"uniform": {"step": 0.1}}, "random": {"kmeans": {"init": "random"}}}


def some(values):
    return st.lists(st.sampled_from(values), min_size=1, max_size=len(values), unique=True)


AXES = st.fixed_dictionaries(
    {
        "pruners": some(["none", "magnitude"]),
        "sensitivities": some(["none", "fisher", "moments"]),
        "granularities": some(["global", "layer"]),
        "quantizers": some(list(TAKES)),
        "trainings": some(["none", "tune"]),
        "positions": some(["zero", "gaps"]),
        "coders": some(["huffman", "lzw"]),
        "seeds": some([0, 1, 2]),
        "unquantized": some(["float32", "float16"]),
    }
)


ORDER = (
    "pruners",
    "sensitivities",
    "granularities",
    "quantizers",
    "trainings",
    "positions",
    "coders",
    "seeds",
    "unquantized",
)


def by_brute_force(axes):
    """The distinct trials of a grid, as plain tuples, from the rules as the guide states them."""
    found = set()
    for pruner, sense, granularity, quantizer, training, place, coder, seed, unquantized in itertools.product(
        *(axes[a] for a in ORDER)
    ):
        if FORMS[sense] in TAKES[quantizer]:
            drawn = seed if quantizer == "random" else None
            place = place if pruner != "none" else None
            found.add((pruner, sense, granularity, quantizer, training, place, coder, drawn, unquantized))
    return found


def as_tuple(trial):
    def name(choice):
        return choice.name if choice else "none"

    quantizer = "random" if trial.quantizer.parameters.get("init") == "random" else trial.quantizer.name
    training = trial.training[0].name if trial.training else "none"
    return (name(trial.pruner), name(trial.sensitivity), trial.granularity, quantizer, training,
            trial.positions.name if trial.positions else None, trial.coder.name, trial.seed,
            trial.unquantized)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(axes=AXES)
def test_a_grid_is_the_product_of_its_axes_less_what_cannot_be(suite_of, fake_registry, axes):
    expected = by_brute_force(axes)
    written = axes | {"models": "net", "quantizers": [QUANTIZERS.get(name, name) for name in axes["quantizers"]]}
    if not expected:
        with pytest.raises(SuiteError, match="no trial is left"):
            suite_of(dump(written))
        return
    suite = suite_of(dump(written))
    trials = suite.trials()
    assert {as_tuple(trial) for trial in trials} == expected
    assert len(trials) == len(expected)
    assert len(trials) + sum(d.count for d in suite.dropped) == len(list(itertools.product(*axes.values())))
    for stage in ("load", "quantize"):  # whoever shares a stage's work stands together
        work = [shares(trial, fake_registry)[stage] for trial in trials]
        assert sum(a != b for a, b in itertools.pairwise(work)) == len(set(work)) - 1


def test_what_was_left_out_is_counted_with_its_reason(suite_of):
    suite = suite_of(
        "models: net\nquantizers: [kmeans, feedback]\nsensitivities: [none, fisher]\npositions: [zero, gaps]\n"
        "seeds: [0, 1, 2]\n"
    )
    assert {d.reason: d.count for d in suite.dropped} == {
        "quantizer 'feedback' takes second-moments, not no sensitivity": 6,
        "quantizer 'feedback' takes second-moments, not sensitivity 'fisher' (diagonal)": 6,
        "nothing is pruned: there are no positions to write": 6,
        "deterministic: no seed changes it, so one trial stands for all": 4,
    }


def test_a_training_stands_beside_the_quantizers_that_it_works_with(suite_of, fake_registry, monkeypatch):
    monkeypatch.setattr(fake_registry.get("training", "tune"), "quantizers", frozenset({"uniform"}), raising=False)
    suite = suite_of(
        "models: net\nquantizers: [kmeans, {uniform: {step: 0.1}}]\ntrainings: [none, tune, [batchnorm, tune]]\n"
    )
    made = [(t.quantizer.name, [c.name for c in t.training]) for t in suite.trials()]
    assert sorted(made) == [
        ("kmeans", []), ("uniform", []), ("uniform", ["batchnorm", "tune"]), ("uniform", ["tune"])
    ]  # fmt: skip
    assert {d.reason: d.count for d in suite.dropped} == {"training 'tune' works with quantizer uniform, not kmeans": 2}


def test_a_method_that_draws_runs_once_a_seed_and_the_rest_once(suite_of):
    trials = suite_of("models: net\nquantizers: [kmeans, {kmeans: {init: random}}]\nseeds: [3, 4]\n").trials()
    assert [(t.quantizer.parameters["init"], t.seed) for t in trials] == [
        ("linear", None),
        ("random", 3),
        ("random", 4),
    ]


def test_a_codec_stands_for_quantizer_and_coder(suite_of):
    trials = suite_of(
        "models: net\ncodecs: {peer: {qp: [-20, -10]}}\npruners: [none, magnitude]\ngranularities: [global, layer]\n"
    ).trials()
    assert [(t.pruner and t.pruner.name, t.codec.parameters["qp"]) for t in trials] == [
        (None, -20), (None, -10), ("magnitude", -20), ("magnitude", -10),
    ]  # fmt: skip
    assert all((t.quantizer, t.coder, t.positions, t.sensitivity) == (None,) * 4 for t in trials)


def test_quantizers_and_codecs_stand_in_one_suite(suite_of):
    trials = suite_of("models: net\nquantizers: kmeans\ncodecs: peer\n").trials()
    assert [(t.quantizer is None, t.codec is None) for t in trials] == [(False, True), (True, False)]


def test_an_include_overrides_axes_and_inherits_the_others(suite_of):
    trials = suite_of(
        "models: net\nquantizers: kmeans\ncoders: [huffman, lzw]\ninclude:\n"
        "  - {quantizers: {uniform: {step: 0.1}}, coders: lzw}\n  - granularities: [layer]\n"
    ).trials()
    assert {(t.quantizer.name, t.granularity, t.coder.name) for t in trials} == {
        ("kmeans", "global", "huffman"), ("kmeans", "global", "lzw"), ("uniform", "global", "lzw"),
        ("kmeans", "layer", "huffman"), ("kmeans", "layer", "lzw"),
    }  # fmt: skip


def test_a_suite_may_be_made_of_includes_alone(suite_of):
    trials = suite_of("models: net\ninclude: [{quantizers: kmeans}, {codecs: peer}]\n").trials()
    assert len(trials) == 2


def test_what_an_include_repeats_is_one_trial(suite_of):
    suite = suite_of("models: net\nquantizers: kmeans\ninclude: {coders: [huffman, lzw]}\n")
    assert len(suite.trials()) == 2
    assert [(d.count, d.reason) for d in suite.dropped] == [(1, "the suite has the same trial already")]


def test_an_include_stands_with_the_trials_whose_work_it_shares(suite_of):
    trials = suite_of(
        "models: [net, {net: {data: mnist}}]\nquantizers: kmeans\ninclude: {coders: lzw}\n"
    ).trials()  # fmt: skip
    assert [(t.model.parameters["data"], t.coder.name) for t in trials] == [
        ("digits", "huffman"), ("digits", "lzw"), ("mnist", "huffman"), ("mnist", "lzw"),
    ]  # fmt: skip


def test_excluded_trials_are_gone_and_counted(suite_of):
    suite = suite_of(
        "models: net\nquantizers: {kmeans: {k: [4, 8, 16]}}\ncoders: [huffman, lzw]\nexclude:\n"
        "  - {quantizer: {kmeans: {k: [4, 8]}}, coder: lzw}\n  - {coder: [lzw, none], granularity: layer}\n"
    )
    assert [(t.quantizer.parameters["k"], t.coder.name) for t in suite.trials()] == [
        (4, "huffman"), (8, "huffman"), (16, "huffman"), (16, "lzw"),
    ]  # fmt: skip
    assert [(d.count, d.reason) for d in suite.dropped] == [
        (2, "excluded by exclude[0]"),
        (0, "excluded by exclude[1]"),
    ]


def test_positions_that_nothing_writes_need_not_be_installed(suite_of, fake_registry):
    del fake_registry.found["positions", "zero"]
    assert suite_of("models: net\nquantizers: kmeans\n").trials()[0].positions is None
    with pytest.raises(SuiteError, match="unknown positions 'zero'"):
        suite_of("models: net\nquantizers: kmeans\npruners: magnitude\n")
