"""LC pruning against its formula, written out by hand, and its ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nqbench_training.lc_pruning import LearningCompressionPruning, kept_largest
from nqbench_training.magnitude import Magnitude
from tiny_network import make_task

from nqbench.api import Pruned, Task


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))


def loss_of(task: Task, pruned: Pruned) -> float:
    (batch,) = task.batches(batch_size=24)
    return float(task.loss(batch, tensors=dict(pruned.state)).detach())


def test_one_iteration_is_the_paper_s() -> None:
    """Full-batch gradient steps on L + mu/2 |w - theta|^2 from the trained weights, theta their projection."""
    keep, mu, lr, epochs = 0.3, 0.5, 0.1, 3
    pruner = LearningCompressionPruning(
        keep=keep, mu0=mu, lr=lr, first_epochs=epochs, iterations=1, batch_size=24, momentum=0.0
    )
    task = make_task()
    task.module.train()
    theta = kept_largest(task.weights(), keep)
    parameters = dict(task.module.named_parameters())
    for epoch in range(epochs):
        seed = pruner.recipe(0).epoch_seed(epoch)
        (batch,) = task.batches(batch_size=24, shuffle=seed)
        gradients = torch.autograd.grad(task.loss(batch), list(parameters.values()))
        with torch.no_grad():
            for (name, p), g in zip(parameters.items(), gradients, strict=True):
                p -= lr * (g + (mu * (p - theta[name]) if name in theta else 0))
    wanted = kept_largest(task.weights(), keep)
    pruned = pruner.prune(make_task())
    for name, tensor in wanted.items():
        torch.testing.assert_close(pruned.state[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_share_is_exact_and_the_loss_below_that_of_pruning_by_magnitude() -> None:
    fields = {"keep": 0.15, "mu0": 0.05, "growth": 1.3, "iterations": 15}
    pruned = LearningCompressionPruning(**fields, lr=0.02, epochs=4, first_epochs=4, batch_size=8).prune(make_task())  # type: ignore[arg-type]
    n = sum(m.numel() for m in pruned.masks.values())
    assert sum(int(m.sum()) for m in pruned.masks.values()) == round(0.15 * n)
    direct = Magnitude(keep=0.15).prune(make_task())
    assert loss_of(make_task(), pruned) < 0.8 * loss_of(make_task(), direct)


def test_what_is_interrupted_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruner = LearningCompressionPruning(keep=0.3, mu0=0.1, iterations=3, epochs=2, first_epochs=1, batch_size=8)
    whole = pruner.prune(make_task())
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "again"))
    step = LearningCompressionPruning.l_step

    def stopped(self: LearningCompressionPruning, task: Task, j: int, *rest: object) -> None:
        if j == 2:
            raise KeyboardInterrupt
        step(self, task, j, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(LearningCompressionPruning, "l_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        pruner.prune(make_task())
    monkeypatch.setattr(LearningCompressionPruning, "l_step", step)
    again = pruner.prune(make_task())
    for name, tensor in whole.state.items():
        assert torch.equal(tensor, again.state[name]), name


def test_a_damaged_checkpoint_starts_over(tmp_path: Path) -> None:
    pruner = LearningCompressionPruning(keep=0.3, mu0=0.1, iterations=2, epochs=1, first_epochs=1, batch_size=8)
    done, again = tmp_path / "done", tmp_path / "again"
    done.mkdir()
    again.mkdir()
    whole = pruner._made(make_task(), done)
    (again / "lc.safetensors").write_bytes((done / "lc.safetensors").read_bytes()[:-100])
    with pytest.warns(UserWarning, match="the training starts over"):
        found = pruner._made(make_task(), again)
    for name, tensor in whole.state.items():
        assert torch.equal(tensor, found.state[name]), name
