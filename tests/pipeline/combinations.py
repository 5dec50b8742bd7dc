"""Every quantizer x granularity x training x way of positions that the registry knows of, as the trials of a suite.

A combination that a suite's grid calls possible is one that a file is made of, whatever it is.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from own_networks import BUILDERS, CLASSES, INPUTS, bench_of, choice, with_own
from torch import Tensor, nn

from nqbench.api import BadInput, Plugin, Quantizer
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.trial import Choice, Trial
from nqbench.suite.grid import Expansion, Grid
from nqbench.testing import configurations

ONE, SEVERAL, HALF, BRAIN = "one tensor", "several tensors", "in float16", "in bfloat16"
BUILDERS[ONE] = lambda: nn.Linear(INPUTS, CLASSES)
BUILDERS[SEVERAL] = lambda: nn.Sequential(
    nn.Linear(INPUTS, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1), nn.Linear(1, CLASSES)
)
WIDE = 700
"""Outputs of the first layer of a network in half precision: so many weights that the compiled loops take them."""


class Halved(nn.Module):
    """A network in half precision, of float32 inputs and outputs."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.layers = nn.Sequential(nn.Linear(INPUTS, WIDE), nn.BatchNorm1d(WIDE), nn.ReLU(), nn.Linear(WIDE, CLASSES))
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.to(self.dtype))
        return out.float()


BUILDERS[HALF] = lambda: Halved(torch.float16)
BUILDERS[BRAIN] = lambda: Halved(torch.bfloat16)
SHORT = {"epochs": 1, "first_epochs": 1, "iterations": 1, "samples": 8, "batch_size": 24}
"""What is given of these parameters where a plugin has them: it is the combination that is tried."""
PRUNERS = (None, choice("pruner", "magnitude", keep=0.5, epochs=0))
SENSITIVITIES = {
    "none": None,
    "diagonal": choice("sensitivity", "fisher", samples=8),
    "second-moments": choice("sensitivity", "second-moments", samples=8),
}


def configured(kind: str) -> list[list[Choice]]:
    """Of each of this repository's plugins its configurations, the defaults first; the one that does nothing left out.

    Other libraries' methods, which are there for the speed of theirs, are left out too.
    """
    ours = [entry.cls for entry in with_own().all(kind) if entry.distribution == "nqbench"]
    return [
        [Choice.of(_short(one)) for one in configurations(cls)]
        for cls in ours
        if cls.name != "none" and not hasattr(cls, "library")
    ]


def _short(plugin: Plugin) -> Plugin:
    changes = {name: value for name, value in SHORT.items() if name in type(plugin).model_fields}
    return type(plugin).model_validate({**plugin.model_dump(), **changes})


def trials(network: str) -> Iterator[Trial]:
    """Every configuration of every quantizer, under every sensitivity that it takes, with every configuration of every
    training."""
    chains: list[tuple[Choice, ...]] = [()]
    for each in configured("training"):
        chains += [(one,) for one in each]
    expansion = Expansion(with_own())
    for each in configured("quantizer"):
        takes = sorted(cast(type[Quantizer], with_own().get("quantizer", each[0].name)).takes)
        _add(expansion, network, takes, each, chains)
    yield from expansion.trials


def _add(
    expansion: Expansion,
    network: str,
    forms: Sequence[str],
    quantizers: Sequence[Choice],
    chains: Sequence[tuple[Choice, ...]],
) -> None:
    for pruner in PRUNERS:
        places: list[Choice | None] = [each[0] for each in configured("positions")] if pruner else [None]
        expansion.add(
            Grid(
                [choice("model", "own", network=network)], [pruner], [SENSITIVITIES[form] for form in forms],
                ["global", "layer"], quantizers, chains, places, [choice("coder", "raw")], [], ["auto"], [0],
                ["float16"], [False], False,
            )
        )  # fmt: skip


def failures(decoder: Decoder, made: Sequence[Trial], folder: Path) -> Iterator[str]:
    """A line for each trial that is no file."""
    with bench_of(decoder) as bench:
        for trial in made:
            try:
                bench.run(trial, folder)
            except Exception as error:  # noqa: BLE001 - every one that fails shall be told
                how = "" if isinstance(error, BadInput) else f"{type(error).__name__}: "
                yield f"{told(trial)}: {how}{error}"


AXES = ("quantizer", "training", "sensitivity", "granularity", "pruner", "positions")


def told(trial: Trial) -> str:
    return " ".join(_values(trial))


def _values(trial: Trial) -> list[str]:
    config: dict[str, Any] = trial.config()
    return [f"{config[axis]} {config.get(f'{axis}_params') or ''}".strip() for axis in AXES]


def all_trials() -> list[Trial]:
    return [trial for network in (ONE, SEVERAL, HALF, BRAIN) for trial in trials(network)]


def pairs(trial: Trial) -> set[tuple[tuple[int, str], tuple[int, str]]]:
    """Each two of what the trial is made of, its network among them."""
    return set(itertools.combinations(enumerate([str(trial.model), *_values(trial)]), 2))


def covering(made: Sequence[Trial]) -> list[Trial]:
    """Few of the trials, in which each two things meet that meet in any of them. Those that bring most pairs come first
    into it, so that it is hardly larger than the largest two axes multiplied."""
    bring = [pairs(trial) for trial in made]
    drawn = list(range(len(made)))
    random.Random(0).shuffle(drawn)
    seen: set[tuple[tuple[int, str], tuple[int, str]]] = set()
    chosen = set()
    for least in (10, 6, 4, 3, 2, 1):
        for number in drawn:
            if len(bring[number] - seen) >= least:
                seen |= bring[number]
                chosen.add(number)
    return [made[number] for number in sorted(chosen)]
