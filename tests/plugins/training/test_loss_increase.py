"""Predicted and measured loss increases on a tiny network, against explicit matrices and limits known on paper."""

from __future__ import annotations

import pytest
import torch
from test_sensitivities import explicit_gauss_newton, flat, whole_batch
from tiny_network import Tiny, make_task
from torch import Tensor, nn

from nqbench.api import Task
from nqbench.api.toolkit.curvature import loss_increase


def moved(task: Task, size: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: task.parameter(name).detach() + size * torch.randn(task.parameter(name).shape, generator=generator)
        for name in task.names
    }


def test_the_terms_are_those_of_the_explicit_matrix(task: Task) -> None:
    deployed = moved(task, 0.05)
    d = (flat(task, deployed) - flat(task, task.weights())).double()
    x, y = whole_batch(task)
    loss = nn.functional.cross_entropy(task.module(x), y)
    g = torch.cat([v.reshape(-1) for v in torch.autograd.grad(loss, [task.parameter(n) for n in task.names])])
    matrix = explicit_gauss_newton(task)
    got = loss_increase(task, deployed, 1000)
    assert got["linear"] == pytest.approx(float(g.double() @ d), rel=1e-5)
    assert got["diagonal"] == pytest.approx(float(0.5 * matrix.diagonal() @ d.square()), rel=1e-5)
    assert got["gauss_newton"] == pytest.approx(float(0.5 * d @ matrix @ d), rel=1e-5)
    task.assign(deployed)
    after = nn.functional.cross_entropy(task.module(x), y)
    assert got["measured"] == pytest.approx(float(after - loss), rel=1e-4)


def test_for_a_linear_network_with_squared_error_the_prediction_is_exact() -> None:
    class Flat(Tiny, name="flat"):
        """outputs = W x: the loss is quadratic in W, so linear + Gauss-Newton term is the whole increase."""

        def load(self, device: torch.device) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).eval()

    task = make_task(Flat(kind_of_loss="gaussian"))
    got = loss_increase(task, moved(task, 0.3), 1000)
    assert got["linear"] + got["gauss_newton"] == pytest.approx(got["measured"], rel=1e-4)


def test_an_unchanged_network_has_no_increase(task: Task) -> None:
    assert loss_increase(task, task.weights(), 7) == {
        "linear": 0.0,
        "diagonal": 0.0,
        "gauss_newton": 0.0,
        "measured": 0.0,
    }


class Attending(nn.Module):
    """A whole layer of attention over the rows of an image, which has a fast path in evaluation mode."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "attention":
            self.layer: nn.Module = nn.MultiheadAttention(6, 2, batch_first=True)
        else:
            layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
            self.layer = layer if kind == "layer" else nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x[:, 0]
        out = self.layer(rows, rows, rows)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(rows)
        return self.head(out.mean(1))


@pytest.mark.parametrize("kind", ["attention", "layer", "encoder"])
def test_layers_of_attention_are_predicted_too_and_their_fast_path_is_left_as_it_was(kind: str) -> None:
    class Net(Tiny, name="attending"):
        def load(self, device: torch.device) -> nn.Module:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return Attending(kind).eval()

    task = make_task(Net())
    assert torch.backends.mha.get_fastpath_enabled()
    deployed = moved(task, 0.003)
    got = loss_increase(task, deployed, 1000)
    assert torch.backends.mha.get_fastpath_enabled()
    matrix = explicit_gauss_newton(task)
    d = (flat(task, deployed) - flat(task, task.weights())).double()
    assert got["gauss_newton"] == pytest.approx(float(0.5 * d @ matrix @ d), rel=1e-4)
    assert got["linear"] + got["gauss_newton"] == pytest.approx(got["measured"], rel=0.1, abs=1e-6)
