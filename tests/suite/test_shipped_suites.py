"""The suites that ship with nqbench are valid against the plugins that ship with it."""

import inspect
import textwrap
from pathlib import Path

import pytest

import nqbench.suite
from nqbench.results.compare import Thresholds
from nqbench.suite import load, shipped
from nqbench.suite.document import parse
from nqbench.suite.find import shipped_folder
from nqbench.suite.published import published_in
from nqbench.suite.spec import SuiteSpec, check_shape


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_suite_loads_and_says_what_it_answers_and_how_long_it_takes(name):
    suite = load(name)
    assert suite.trials()
    assert suite.question
    assert suite.takes
    assert suite.text.startswith("# Question: ")


def test_the_quick_suite_has_the_breadth_that_its_leaderboard_needs():
    trials = load("quickstart").trials()
    settings = {}
    for trial in trials:
        settings.setdefault((trial.granularity, trial.quantizer.name, trial.coder.name), set()).add(
            trial.quantizer.json
        )
    assert {granularity for granularity, _, _ in settings} == {"global", "layer"}
    assert len({quantizer for _, quantizer, _ in settings}) >= 2
    assert len({coder for _, _, coder in settings}) >= 3
    assert len(settings) >= 12
    assert min(len(found) for found in settings.values()) >= 4


def test_a_suite_is_found_by_name_wherever_one_stands(monkeypatch, tmp_path):
    by_path = load(shipped()["quickstart"])
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quickstart.yaml", "suites/quickstart.yaml"):
        assert load(name).trials() == by_path.trials()


def test_a_file_of_that_name_comes_before_the_shipped_suite(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = "models: lenet300\nquantizers: kmeans\n"
    Path("quickstart.yaml").write_text(text)
    assert load("quickstart.yaml").text == text


def test_published_rows_are_no_suite_and_all_valid():
    assert "published" not in shipped()
    rows = published_in(shipped_folder() / "published.yaml")
    assert len(rows) == 47  # 7 + 6 + 6 + 7 + 7 + 3 + 4 + 4 + 3
    # counts of weights are quoted beside files, with no accuracy that a file would have to reach
    assert all((row.accuracy or row.error) is not None or "weights only" in row.method for row in rows)


def test_a_folder_of_results_that_is_called_as_its_suite_does_not_hide_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("quickstart").mkdir()
    assert load("quickstart").name == "quickstart"


def test_the_suite_in_full_of_the_package_s_docstring_shows_every_key():
    text = inspect.getdoc(nqbench.suite).partition("::\n")[2]
    spec = check_shape(parse(textwrap.dedent(text), "docstring"))
    assert spec.model_fields_set == set(SuiteSpec.model_fields)


def test_a_suite_s_thresholds_are_what_a_comparison_reads(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "models: [lenet300: {data: digits}]\nquantizers: kmeans\nthresholds:\n  file_bytes: 0.001\n"
        "  mse: {relative: 0.01, absolute: 1e-9}\n  metrics: {accuracy: {absolute: 0.2}}\n"
        "  seconds: {ratio: 1.5}\n  margin: 0.4\n"
    )
    limits = Thresholds.of({"thresholds": load(path).thresholds.as_settings()})
    assert limits == Thresholds(
        tolerance={"file_bytes": 0.001, "mse": 0.01, "accuracy": 0.0, "weighted_mse": 1e-6, "ratio": 1e-12},
        absolute={"file_bytes": 0.0, "mse": 1e-9, "accuracy": 0.2},
        margin=0.4,
        time_ratio=1.5,
    )
