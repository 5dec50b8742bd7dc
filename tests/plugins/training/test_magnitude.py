"""Magnitude pruning: exact counts, thresholds, the cubic ramp, masks held while training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nqbench_training.magnitude import Magnitude, keep_largest
from tiny_network import Tiny, make_task

from nqbench.api import BadInput, Task


def kept(masks: dict[str, torch.Tensor]) -> int:
    return sum(int(m.sum()) for m in masks.values())


def test_a_global_threshold_keeps_the_largest_of_all_tensors(task: Task) -> None:
    pruned = Magnitude(keep=0.25, epochs=0).prune(task)
    everything = torch.cat([w.reshape(-1) for w in make_task().weights().values()]).abs()
    count = round(0.25 * everything.numel())
    border = everything.sort(descending=True).values[count - 1]
    assert kept(pruned.masks) == count
    for name, w in make_task().weights().items():
        assert torch.equal(pruned.masks[name], w.abs() >= border)
        assert torch.equal(pruned.state[name], torch.where(w.abs() >= border, w, 0.0))


def test_shares_hold_layer_by_layer_and_named_tensors_have_their_own(task: Task) -> None:
    pruner = Magnitude(keep=0.5, threshold="layer", layers=(("8.weight", 0.25),), epochs=0)
    masks = pruner.prune(task).masks
    for name in task.names:
        n = task.parameter(name).numel()
        assert int(masks[name].sum()) == round((0.25 if name == "8.weight" else 0.5) * n)


def test_ties_are_broken_by_position() -> None:
    masks = keep_largest({"a": torch.tensor([1.0, -1.0, 2.0]), "b": torch.tensor([1.0, 0.0])}, 0.4)
    assert masks["a"].tolist() == [True, False, True]
    assert masks["b"].tolist() == [False, False]


def test_pruned_weights_stay_zero_while_the_others_train(task: Task) -> None:
    before = task.weights()
    pruned = Magnitude(keep=0.3, epochs=3, lr=0.05, batch_size=8, weight_decay=0.01).prune(task)
    expected = Magnitude(keep=0.3, epochs=0).prune(make_task()).masks
    for name in task.names:
        assert torch.equal(pruned.masks[name], expected[name])
        assert bool((pruned.state[name][~pruned.masks[name]] == 0).all())
        moved = pruned.state[name] != before[name] * pruned.masks[name]
        assert bool(moved[pruned.masks[name]].any())
        assert pruned.moments is not None
        assert bool((pruned.moments[name] >= 0).all())
    # batch norm was in training mode, and the network is handed back in the mode it came in
    assert not torch.equal(pruned.state["1.running_mean"], make_task().module.state_dict()["1.running_mean"])
    assert not task.module.training


def test_the_sparsity_ramps_up_along_the_cubic(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    shares = []
    original = Magnitude.masks

    def spy(self: Magnitude, task: Task, progress: float = 1.0) -> dict[str, torch.Tensor]:
        masks = original(self, task, progress)
        shares.append(1 - kept(masks) / sum(m.numel() for m in masks.values()))
        return masks

    monkeypatch.setattr(Magnitude, "masks", spy)
    Magnitude(keep=0.2, epochs=5, ramp=4, lr=0.01).prune(task)
    n = sum(task.parameter(name).numel() for name in task.names)
    # Zhu and Gupta, equation 1: s_t = s_f + (s_i - s_f) (1 - t / T)^3
    expected = [0.8 + (0 - 0.8) * (1 - t / 4) ** 3 for t in (1, 2, 3, 4)] + [0.8, 0.8]
    assert shares == pytest.approx(expected, abs=0.51 / n)


def test_an_interrupted_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    pruner = Magnitude(keep=0.3, epochs=4, ramp=3, lr=0.05, batch_size=8, optimizer="adam")
    whole = pruner.prune(make_task(workdir=tmp_path / "a"))

    class Interrupted(Tiny, name="interrupted"):
        def losses(self, outputs: torch.Tensor, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
            calls.append(1)
            if len(calls) == 8:  # the second batch of the third epoch
                raise KeyboardInterrupt
            return super().losses(outputs, batch)

    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        pruner.prune(make_task(Interrupted(), workdir=tmp_path / "b"))
    resumed = pruner.prune(make_task(workdir=tmp_path / "b"))
    assert all(torch.equal(whole.state[name], resumed.state[name]) for name in whole.state)
    assert all(torch.equal(whole.masks[name], resumed.masks[name]) for name in whole.masks)
    assert whole.moments is not None
    assert resumed.moments is not None
    assert all(torch.equal(whole.moments[name], resumed.moments[name]) for name in whole.moments)


def test_mistakes_are_told(task: Task) -> None:
    with pytest.raises(BadInput, match="no tensor 'conv9'"):
        Magnitude(keep=0.5, layers=(("conv9", 0.5),), epochs=0).prune(task)
    with pytest.raises(BadInput, match="ramp 3 is longer than the 2 epochs"):
        Magnitude(keep=0.5, ramp=3, epochs=2).prune(task)
