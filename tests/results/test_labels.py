"""One labeller for plan, progress and reports: what differs is shown, and different trials never look alike."""

from __future__ import annotations

import pytest
from record_factory import make

from nqbench.results.labels import Labels
from nqbench.results.record import Record
from nqbench.suite import load, shipped

MODULES = [{"module": {"network": f"{name}:network", "folder": folder}} for name in "ab" for folder in ("x", "y")]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_no_two_trials_of_a_shipped_suite_have_one_label(name: str) -> None:
    planned = [Record.planned(trial.config()) for trial in load(name).trials()]
    labels = Labels(planned)
    assert len({labels.trial(record) for record in planned}) == len(planned)


def test_several_networks_of_a_users_are_told_apart_everywhere() -> None:
    records = [make(model="module", k=k, model_params=m["module"]) for m in MODULES for k in (2, 4)]
    labels = Labels(records)
    assert {labels.plugin(record, "model") for record in records} == {
        f"module(network={name}:network, folder={folder})" for name in "ab" for folder in "xy"
    }
    assert len({labels.trial(record) for record in records}) == len(records)


def test_values_that_are_equal_to_six_digits_are_told_by_more() -> None:
    steps = [0.1, 0.1000001, 0.10000010000000002, 0.3]
    records = [make(quantizer="uniform", quantizer_params={"step": step}, knob="step") for step in steps]
    labels = Labels(records[:1])
    assert labels.plugin(records[0], "quantizer") == "uniform(step=0.1)"
    labels.add(records[1:2])
    assert [labels.plugin(r, "quantizer") for r in records[:2]] == ["uniform(step=0.1)", "uniform(step=0.1000001)"]
    labels.add(records[2:])
    assert len({labels.plugin(record, "quantizer") for record in records}) == 4
    lists = [make(quantizer="uniform", quantizer_params={"step": [0.5, step]}) for step in steps]
    assert len({Labels(lists).plugin(record, "quantizer") for record in lists}) == 4


def test_seeds_positions_and_what_a_search_comes_to_later_are_told() -> None:
    records = [make(k=2, seed=seed, positions=positions) for seed in (0, 1) for positions in ("zero", "gaps")]
    labels = Labels(records)
    assert [labels.trial(record)[-6:] for record in records] == ["seed=0", "seed=0", "seed=1", "seed=1"]
    assert len({labels.trial(record) for record in records}) == 4
    step = make(k=2, seed=0, positions="zero", quantizer_params={"k": 2, "zero": "free"})
    labels.add([step])
    assert "zero=free" in labels.trial(step)
    assert "zero=center" in labels.trial(records[0])
