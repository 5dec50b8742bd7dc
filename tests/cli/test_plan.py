"""``nqbench plan``: the trials and the work they share, without running."""

import re

import pytest

from nqbench import cli


@pytest.fixture
def plan(capsys):
    def call(*args):
        assert cli.invoke(["plan", *args]) == cli.OK
        return capsys.readouterr().out

    return call


def runs(text):
    """stage -> (runs, for trials), from the table."""
    return {stage: (int(n), int(of)) for stage, n, of in re.findall(r"^(\w+) +(\d+) +(\d+)$", text, re.MULTILINE)}


def test_the_quick_suite_quantizes_once_for_three_coders(plan):
    text = plan("quickstart")
    assert text.startswith("suite quickstart: 48 trials\n")
    assert runs(text) == {
        "load": (1, 48),
        "prune": (0, 0),
        "sense": (0, 0),
        "quantize": (16, 48),
        "file": (48, 48),
        "evaluate": (16, 48),
    }


def test_a_long_list_is_cut_unless_all_is_asked_for(plan):
    assert "... and 28 more; --all lists them" in plan("quickstart")
    everything = plan("quickstart", "--all")
    assert "more; --all" not in everything
    assert re.search(r"^48 +layer", everything, re.MULTILINE)


def test_only_and_set_change_what_is_planned(plan):
    text = plan("quickstart", "--only", "quantizer=kmeans,granularity=layer", "--only", "coder=huffman,coder=lzw",
                "--set", "quantizers.1.kmeans.k=[2,4]")  # fmt: skip
    assert text.startswith("suite quickstart: 4 of 36 trials\n")
    assert runs(text)["quantize"] == (2, 4)


def test_what_was_left_out_is_said(plan):
    text = plan("quickstart", "--set", "seeds=[0,1,2]")
    assert "left out: 96 combinations: deterministic: no seed changes it, so one trial stands for all" in text


def test_planning_runs_nothing(plan, monkeypatch):
    from nqbench.registry import registry

    def refuse(*args, **kwargs):
        raise AssertionError("plan must not run a plugin")

    for entry in registry().all():
        for method in ("load", "prepare", "fingerprint", "prune", "sense", "quantize", "train", "encode"):
            if hasattr(entry.cls, method):
                monkeypatch.setattr(entry.cls, method, refuse)
    plan("quickstart")


def test_a_search_is_said_to_be_one_with_the_most_trials_it_may_take(plan, tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text(
        "models: [lenet300: {data: digits}]\nquantizers: [uniform, kmeans]\ncoders: [huffman, rans]\n"
        "target: {drop: 0.25, trials: 9}\n"
    )
    text = plan(str(path))
    assert text.startswith("suite search: a search of 4 methods, at most 36 trials\n")
    assert "the smallest file with at most 0.25 points lost on the test split, in at most 9 points a method" in text
    assert plan(str(path), "--only", "coder=rans").startswith(
        "suite search: a search of 2 of 4 methods, at most 18 trials\n"
    )
