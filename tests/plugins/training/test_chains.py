"""Trainings one after another, as a trial has them: pairs of all of them, whole and interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nqbench_training.finetune import FineTune
from test_trainings import EVERY, make_result_tensors, pruned_task
from tiny_network import Levels, Tiny
from torch import Tensor

from nqbench.api import QuantizedModel, Task, Training
from nqbench.pipeline.trainings import in_turn

PAIRS = [(a, b) for a in EVERY for b in EVERY]


def run(chain: Sequence[Training], task: Task) -> dict[str, Tensor]:
    context: Any = SimpleNamespace(trial=SimpleNamespace(training=chain), plugin=lambda choice, kind: choice)
    model = in_turn(context, task)
    assert isinstance(model, QuantizedModel)
    return make_result_tensors(model) | {f"network/{n}": t.clone() for n, t in task.module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("chain", PAIRS, ids=lambda chain: "-then-".join(t.name for t in chain))
def test_a_folder_for_checkpoints_changes_no_result(chain: Sequence[Training], tmp_path: Path) -> None:
    """Two trainings of one chain may name their checkpoints alike: the second is no resumption of the first."""
    whole = run(chain, pruned_task(Levels(k=4)))
    kept = run(chain, pruned_task(Levels(k=4), workdir=tmp_path))
    assert same(whole, kept)


def test_the_second_of_two_equal_trainings_goes_on_from_the_first() -> None:
    training = FineTune(epochs=2, lr=0.1, batch_size=8)
    once, twice = (run([training] * n, pruned_task(Levels(k=4))) for n in (1, 2))
    assert not same(once, twice)


@pytest.mark.parametrize("first", EVERY, ids=lambda t: t.name)
@pytest.mark.parametrize("second", [t for t in EVERY if t.name in ("finetune", "learning-compression", "prox-quant")],
                         ids=lambda t: t.name)  # fmt: skip
def test_what_is_interrupted_in_the_second_training_begins_no_first_one(
    first: Training, second: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run([first, second], pruned_task(Levels(k=4)))
    begun: list[str] = []

    class Interrupted(Tiny, name="interrupted"):
        def losses(self, outputs: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
            if begun[-1:] == ["second"]:
                raise KeyboardInterrupt
            return super().losses(outputs, batch)

    def noted(training: Training, name: str) -> Any:
        def train(task: Task, start: QuantizedModel | None) -> QuantizedModel:
            begun.append(name)
            return training.train(task, start)

        return SimpleNamespace(train=train, name=training.name)

    chain = [noted(first, "first"), noted(second, "second")]
    with pytest.raises(KeyboardInterrupt):
        run(chain, pruned_task(Levels(k=4), model=Interrupted(), workdir=tmp_path))
    assert begun == ["first", "second"]
    again = run(chain, pruned_task(Levels(k=4), workdir=tmp_path))
    assert begun == ["first", "second", "second"]
    assert same(whole, again)


def test_a_damaged_result_is_made_again_with_a_warning(tmp_path: Path) -> None:
    chain = [FineTune(epochs=1, lr=0.1, batch_size=8)] * 2
    whole = run(chain, pruned_task(Levels(k=4), workdir=tmp_path))
    kept = tmp_path / "0.safetensors"
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    with pytest.warns(UserWarning, match=r"0\.safetensors.*damaged.*starts over"):
        assert same(whole, run(chain, pruned_task(Levels(k=4), workdir=tmp_path)))
