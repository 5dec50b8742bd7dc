"""A pruner that asks for a sensitivity, through a whole trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from trials import choice, trial

from nqbench.pipeline.workbench import Workbench

Bench = Callable[..., Workbench]


@pytest.mark.parametrize("positions", ["gaps", "zero"])
def test_wanda_prunes_every_row_of_a_trials_network(bench: Bench, tmp_path: Path, positions: str) -> None:
    one = replace(trial(positions=positions), pruner=choice("pruner", "wanda", keep=0.5))
    figures = bench().run(one, tmp_path)
    share = figures["kept"] / figures["weights"]
    assert 0.4 < share < 0.65  # whole weights of short rows
    assert bench().run(one, tmp_path)["decoded_sha256"] == figures["decoded_sha256"]


def test_the_sensitivity_that_a_pruner_asks_is_in_its_key(bench: Bench) -> None:
    def prune_key(sensitivity: str, seed: int) -> str:
        pruner = choice("pruner", "wanda", sensitivity=sensitivity)
        return bench().maker.keys(replace(trial(seed=seed), pruner=pruner)).stages["prune"]

    assert prune_key("second-moments", 1) == prune_key("second-moments", 2)
    assert prune_key("hutchinson", 1) != prune_key("hutchinson", 2)  # that one draws
