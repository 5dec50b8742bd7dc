"""Entries for plugins: names, parameters, and the lists that are swept."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nqbench.suite import SuiteError
from nqbench.suite.document import parse
from nqbench.suite.entries import Reader


def parameters(suite, key):
    return [trial.quantizer.parameters[key] for trial in suite.trials()]


def test_lists_of_two_parameters_give_their_product(suite_of):
    suite = suite_of("models: net\nquantizers: {kmeans: {k: [4, 8], init: [linear, random]}}\n")
    pairs = [(t.quantizer.parameters["k"], t.quantizer.parameters["init"]) for t in suite.trials()]
    assert pairs == [(4, "linear"), (4, "random"), (8, "linear"), (8, "random")]


def test_a_list_that_the_parameter_takes_is_one_value(suite_of):
    suite = suite_of("models: net\nquantizers: {kmeans: {fixed: [0, 1]}}\n")
    assert parameters(suite, "fixed") == [[0.0, 1.0]]


def test_a_list_of_lists_sweeps_a_parameter_that_takes_a_list(suite_of):
    suite = suite_of("models: net\nquantizers: {kmeans: {fixed: [[0], [0, 1]]}}\n")
    assert parameters(suite, "fixed") == [[0.0], [0.0, 1.0]]


def test_yaml_1_2_numbers_are_numbers(suite_of):
    suite = suite_of("models: net\nquantizers: [{uniform: {step: 1e-3}}, {kmeans: {k: 1e3}}]\n")
    assert suite.trials()[0].quantizer.json == '{"step":0.001}'
    assert suite.trials()[1].quantizer.parameters["k"] == 1000


def test_defaults_are_written_out_so_that_equal_configurations_are_equal(suite_of):
    suite = suite_of("models: net\nquantizers: [kmeans, {kmeans: {k: 16}}, {kmeans: {}}, {kmeans: }]\n")
    assert len(suite.trials()) == 1


def test_a_list_inside_the_list_of_trainings_is_a_chain(suite_of):
    suite = suite_of(
        "models: net\nquantizers: kmeans\ntrainings:\n  - none\n  - tune\n  - [tune: {epochs: [1, 2]}, batchnorm]\n"
    )
    chains = [[(c.name, c.parameters) for c in trial.training] for trial in suite.trials()]
    assert chains == [
        [],
        [("tune", {"epochs": 1})],
        [("tune", {"epochs": 1}), ("batchnorm", {})],
        [("tune", {"epochs": 2}), ("batchnorm", {})],
    ]


def test_an_error_inside_a_chain_names_its_link(suite_of):
    with pytest.raises(SuiteError, match=r"^s.yaml:3: trainings\[0\]\[1\]: unknown training 'batchnorn'; did you mean"):
        suite_of("models: net\nquantizers: kmeans\ntrainings: [[tune, batchnorn]]\n")


def test_none_stands_for_the_absence_of_a_plugin(suite_of):
    (trial,) = suite_of(
        "models: net\nquantizers: kmeans\npruners: none\nsensitivities: none\ntrainings: [[none]]\n"
    ).trials()
    assert (trial.pruner, trial.sensitivity, trial.training) == (None, None, ())


def test_none_needs_no_plugin_of_that_name(suite_of, fake_registry):
    for kind in ("pruner", "sensitivity", "training"):
        del fake_registry.found[kind, "none"]
    assert len(suite_of("models: net\nquantizers: kmeans\n").trials()) == 1


def test_there_are_no_positions_called_none(suite_of):
    with pytest.raises(SuiteError, match=r"positions: unknown positions 'none'"):
        suite_of("models: net\nquantizers: kmeans\npruners: magnitude\npositions: none\n")


def test_a_choice_makes_the_plugin_again(suite_of, fake_registry):
    (trial,) = suite_of("models: net\nquantizers: {kmeans: {fixed: [0.5], k: 3}}\n").trials()
    plugin = trial.quantizer.make(fake_registry)
    assert (plugin.k, plugin.fixed, plugin.init) == (3, (0.5,), "linear")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the registry is only read
@given(ks=st.lists(st.integers(1, 65536), min_size=1, max_size=6))
def test_a_sweep_gives_every_distinct_value_once_in_order(fake_registry, ks):
    document = parse(f"quantizers: {{kmeans: {{k: {ks}}}}}", "s.yaml")
    found = Reader(document, fake_registry).choices("quantizer", ("quantizers",), [document.data["quantizers"]])
    assert [choice.parameters["k"] for choice in found] == list(dict.fromkeys(ks))
