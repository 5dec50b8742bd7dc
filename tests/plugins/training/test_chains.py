"""Trainings one after another, as a trial has them: pairs of all of them, whole and interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nqbench_quantizers.ecsq import ECSQ
from nqbench_training.alternating import LearningCompression
from nqbench_training.batchnorm import BatchNorm
from nqbench_training.finetune import FineTune
from nqbench_training.magnitude import Magnitude
from nqbench_training.optimised import install
from nqbench_training.soft_to_hard import SoftToHard
from nqbench_training.surgeon import Surgeon
from pydantic import ValidationError
from test_trainings import EVERY, make_result_tensors, pruned_task
from tiny_network import Levels, Tiny
from torch import Tensor, nn

from nqbench.api import BadInput, Batch, Group, Model, Quantized, QuantizedModel, Source, Split, Task, Training
from nqbench.api.toolkit.groups import load_groups, save_groups
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


@pytest.mark.parametrize("training", EVERY, ids=lambda t: t.name)
def test_a_training_starts_from_what_it_is_given_and_not_from_the_network(training: Training) -> None:
    """``fold`` gives other biases and codewords than the network has."""
    task = pruned_task(Levels(k=4))
    groups, raw = task.quantize(), task.raw_state()
    given = QuantizedModel(groups, {n: t + 1 if n.endswith("bias") else t for n, t in raw.items()})
    small = training.model_copy(update={n: 1e-12 for n in ("lr",) if n in type(training).model_fields})
    after = small.train(task, given)
    for name in ("3.bias", "6.bias", "8.bias"):
        torch.testing.assert_close(after.raw_state[name], raw[name] + 1, rtol=1e-4, atol=1e-4)


def test_a_model_may_give_the_same_module_each_time() -> None:
    class Same(Tiny, name="same"):
        def load(self, device: torch.device) -> nn.Module:
            return _once(self.data_seed)

    task = pruned_task(Levels(k=4), model=Same())
    FineTune(epochs=1, lr=0.1, batch_size=8, distill=0.5).train(task, None)
    assert all(p.requires_grad for p in Same().load(torch.device("cpu")).parameters())


_KNOWN: dict[int, nn.Module] = {}


def _once(seed: int) -> nn.Module:
    return _KNOWN.setdefault(seed, Tiny(data_seed=seed).load(torch.device("cpu")))


def test_soft_to_hard_leaves_held_codewords() -> None:
    class Held(Levels, name="held-levels"):
        def quantize(self, source: Source) -> Quantized:
            q = super().quantize(source)
            return replace(q, held={"codebook": torch.tensor([False, True, False, False])})

    task = pruned_task(Held(k=4))
    fixed = float(task.quantize()[0].quantized.parameters["codebook"][1])
    after = SoftToHard(epochs=3, lr=0.1, batch_size=8, weight_decay=0.1).train(task, None).groups[0].quantized
    held = after.held["codebook"]
    assert after.parameters["codebook"][held].tolist() == [fixed]
    assert held.sum() == 1


def test_the_price_of_learning_compression_is_in_squared_weights_whatever_the_quantizer_s_unit() -> None:
    lc = LearningCompression(iterations=2, epochs=1, first_epochs=1, mu0=0.1, batch_size=8, lr=0.02, alpha=0.01)
    results = [run([lc], pruned_task(ECSQ(lam=0.1, unit=unit))) for unit in ("absolute", "variance")]
    assert same(*results)


@pytest.mark.parametrize("share", [60, -0.1, 0])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValidationError):
        Magnitude(keep=0.5, layers=(("0.weight", share),))


def test_surgeon_says_which_tensor_it_cannot_judge() -> None:
    class Spare(Tiny, name="spare"):
        def load(self, device: torch.device) -> nn.Module:
            class Net(nn.Module):
                def __init__(self, used: nn.Module) -> None:
                    super().__init__()
                    self.used, self.never = used, nn.Linear(3, 3)

                def forward(self, x: Tensor) -> Tensor:
                    out: Tensor = self.used(x)
                    return out

            return Net(super().load(device)).eval()

    task = pruned_task(Levels(k=4), model=Spare())
    with pytest.raises(BadInput, match=r"'never\.weight' is not used in evaluation"):
        Surgeon(keep=0.5, epochs=0).prune(task)


def test_what_may_be_pruned_is_part_of_what_a_stored_network_is() -> None:
    whole = pruned_task(Levels(k=4))
    fewer = pruned_task(Levels(k=4), names=whole.names[:2])
    assert "tensors" not in whole.recipe()
    assert fewer.recipe() == {**whole.recipe(), "tensors": list(whole.names[:2])}


def test_groups_come_back_with_their_arrays_in_order(tmp_path: Path) -> None:
    names = ("scale", "codebook", "another")
    side = {"z": 1, "y": torch.ones(2), "a": 2.0}
    q = Quantized(
        torch.zeros(3, dtype=torch.int32), 2, (3,), {n: torch.ones(2) for n in names}, side, form="plugin",
        held={n: torch.ones(2, dtype=torch.bool) for n in names},
    )  # fmt: skip
    save_groups(tmp_path / "g", [Group(("w",), q)], {})
    back = load_groups(tmp_path / "g", torch.device("cpu"))[0][0].quantized
    assert tuple(back.parameters) == names
    assert tuple(back.held) == names
    assert tuple(back.side) == ("z", "y", "a")


class Tied(Model, name="tied-tiny"):
    """A batch norm between two layers of one weight."""

    def fingerprint(self) -> str:
        return "tied"

    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 6))
        module[3].weight = module[0].weight
        return module.eval()

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(1)
        yield torch.randn(24, 6, generator=generator), torch.randint(0, 6, (24,), generator=generator)


def tied_task() -> Task:
    model = Tied()
    module = model.load(torch.device("cpu"))
    return Task(model, module, ("0.weight",), quantizer=Levels(k=3), granularity="layer")


def test_a_tied_weight_begins_a_training_as_the_one_before_left_it() -> None:
    """Its second name stands beside what is stored, with the values of before it was quantized."""
    task = tied_task()
    tuned = FineTune(epochs=5, lr=0.5, batch_size=8).train(task, None)
    wanted = task.reconstruct(tuned.groups)["0.weight"]
    stored = dict(tuned.raw_state) | {"3.weight": torch.zeros(6, 6)}  # whatever it says
    task = tied_task()
    install(task, QuantizedModel(tuned.groups, stored))
    torch.testing.assert_close(task.parameter("0.weight").detach(), wanted, rtol=0, atol=0)
    # statistics are those of the quantized weight
    task = tied_task()
    found = BatchNorm().train(task, None)
    quantized = task.reconstruct(found.groups)["0.weight"]
    x = next(Tied().batches("train"))[0]
    outputs = nn.functional.linear(x, quantized, task.module[0].bias).detach()  # type: ignore[index]
    torch.testing.assert_close(found.raw_state["1.running_mean"], outputs.mean(0), rtol=1e-3, atol=1e-4)
