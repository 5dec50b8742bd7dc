"""Posteriors over weights: noise against draws of the weights, divergences against integrals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from line_networks import Fed, Lines, wide_task
from nqbench_training.bayesian_compression import ScaledUnits
from nqbench_training.gaussian_weights import (
    is_local,
    local_names,
    log_normal_kl,
    log_uniform_kl,
    noise,
    normal_kl,
    output_variance,
)
from nqbench_training.information_bottleneck import Gates
from nqbench_training.variational_dropout import GaussianWeights
from torch import Tensor, nn

from nqbench.api import Model, Task


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 3), (4, 5)),
        (nn.Linear(5, 3, bias=False), (4, 2, 5)),
        (nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2), (2, 4, 5, 5)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 2, 5, 5)),
        (nn.Conv1d(2, 3, 2, dilation=2), (2, 2, 7)),
    ],
)
def test_the_noise_of_outputs_is_that_of_weights(layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...]) -> None:
    """Outputs are linear in the weight: their variance is that of its entries by the squared Jacobian."""
    torch.manual_seed(0)
    assert is_local(layer)
    x, variance = torch.randn(shape), torch.rand_like(layer.weight)
    slopes = torch.autograd.functional.jacobian(
        lambda w: torch.func.functional_call(layer, {"weight": w}, (x,)), layer.weight.detach()
    )  # type: ignore[no-untyped-call]
    wanted = (slopes.square() * variance).flatten(-variance.dim()).sum(-1)
    torch.testing.assert_close(output_variance(layer, x, variance), wanted)


def test_a_transposed_convolution_is_drawn_by_its_weight() -> None:
    assert not is_local(nn.ConvTranspose2d(2, 3, 3))


def test_the_divergence_from_a_log_uniform_prior_is_the_integral() -> None:
    """KL = E log |eps| - log(alpha) / 2 + C, eps ~ N(1, alpha); the fit is said to lie within 0.009 of it."""
    logs = np.linspace(-8, 8, 33)
    nodes = np.linspace(-12, 12, 2_000_001)
    density = np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi) * (nodes[1] - nodes[0])
    exact = []
    for log_alpha in logs:
        eps = np.abs(1 + math.exp(log_alpha / 2) * nodes)
        exact.append(float((density * np.log(np.maximum(eps, 1e-12))).sum()) - 0.5 * log_alpha)
    # as alpha grows eps is N(0, alpha): E log |N(0, 1)| = -(gamma + log 2) / 2 is what is left
    limit = -(np.euler_gamma + math.log(2)) / 2
    wanted = torch.tensor(exact) - limit
    assert float((log_uniform_kl(torch.tensor(logs)) - wanted).abs().max()) < 0.02


@pytest.mark.parametrize(("mean", "log_variance", "scale"), [(0.3, -1.0, 1.0), (-1.0, 0.5, 0.2), (0.0, -9.0, 3.0)])
def test_the_divergence_of_a_log_normal_is_the_integral(mean: float, log_variance: float, scale: float) -> None:
    normal = torch.distributions.Normal(mean, math.exp(log_variance / 2))
    nodes = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    logs = mean + math.exp(log_variance / 2) * nodes
    density = torch.exp(-nodes.square() / 2) / math.sqrt(2 * math.pi) * float(nodes[1] - nodes[0])
    # densities of x = exp(logs): that of q over that of Gamma(1/2, scale)
    q = normal.log_prob(logs) - logs
    p = -math.lgamma(0.5) - 0.5 * math.log(scale) - 0.5 * logs - logs.exp() / scale
    wanted = float((density * (q - p)).sum())
    got = float(log_normal_kl(torch.tensor(mean), torch.tensor(log_variance), math.log(scale)))
    assert got == pytest.approx(wanted, abs=2e-4)


def test_the_divergence_of_a_normal_is_pytorchs() -> None:
    mean, log_variance = torch.tensor([0.5, -2.0]), torch.tensor([-3.0, 1.0])
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    wanted = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(normal_kl(mean, log_variance), wanted)


class Attention(nn.Module):
    """Attention between an embedding and a head that has the embedding's weight; ``head`` is registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 6, bias=False)
        self.look = nn.Embedding(6, 4)
        self.look.weight = self.head.weight
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.middle = nn.Linear(4, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.look(tokens)
        return self.head(self.middle(self.attention(rows, rows, rows)[0]) + rows).mean(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["dropout", "jeffreys", "bottleneck"])
def test_a_weight_with_uses_besides_its_layers_call_is_not_taken_for_the_layers_own(kind: str) -> None:
    """Without noise, the network with its means deployed is the one that was trained; and what has a variance has
    noise: the output layer of attention is never called, a tied head's scales would be the embedding's, too."""
    torch.manual_seed(0)
    module = Attention()
    task = Task(Fed(shape=(3,), tokens=True), module, tuple(n for n, p in module.named_parameters() if p.dim() > 1))
    assert local_names(task) == ["middle.weight"]
    posterior: Any = {
        "dropout": lambda: GaussianWeights(task, -40.0),
        "jeffreys": lambda: ScaledUnits(task, "jeffreys", 1.0, -40.0),
        "bottleneck": lambda: Gates(task, -40.0),
    }[kind]()
    batch = (torch.randint(0, 6, (5, 3)), torch.zeros(5))
    with torch.no_grad(), posterior.noisy():
        for name, leaf in posterior.leaves.items():
            if name.endswith("/mean"):
                leaf.normal_(1.0, 0.5)
        trained = task.predict(batch, tensors=posterior.drawn() or None)
        for name, leaf in posterior.leaves.items():
            if not name.endswith("/mean"):
                leaf.fill_(0.0)
                once, again = (task.predict(batch, tensors=posterior.drawn() or None) for _ in range(2))
                assert float((once - again).abs().max()) > 0.01, name
                leaf.fill_(-40.0)
    task.assign(posterior.weights())
    torch.testing.assert_close(task.predict(batch).detach(), trained, rtol=0, atol=2e-3)


def test_posteriors_are_drawn_as_they_say() -> None:
    """Over many passes with noise, each output's mean is that of the deployed weights and its variance as declared:
    one linear layer, so that both are known."""
    for make in (
        lambda task: GaussianWeights(task, -2.0),
        lambda task: ScaledUnits(task, "jeffreys", 1.0, -3.0),
        lambda task: ScaledUnits(task, "horseshoe", 1.0, -3.0),
        lambda task: Gates(task, -2.0),
    ):
        task = wide_task(nn.Linear(6, 4))
        posterior = make(task)
        x = torch.randn(1, 6).expand(40_000, 6)
        torch.manual_seed(0)
        with posterior.noisy(), torch.no_grad():
            out = task.module(x)
        layer = task.layer("0.weight")
        assert isinstance(layer, nn.Linear)
        wanted = nn.functional.linear(x[:1], posterior.weights()["0.weight"], layer.bias)[0]
        torch.testing.assert_close(out.mean(0), wanted, rtol=0.02, atol=0.02)
        variances = posterior.variances()
        if variances:  # of independent weights; a shared scale's covariances cancel for one input alone
            name = "0.weight"
            if isinstance(posterior, GaussianWeights):
                torch.testing.assert_close(out.var(0), (x[0].square() * variances[name]).sum(1), rtol=0.05, atol=0.01)
            else:  # each input has its own scale: so inputs are independent, and no two weights of a row share one
                torch.testing.assert_close(out.var(0), (x[0].square() * variances[name]).sum(1), rtol=0.08, atol=0.02)


def test_a_convolutions_filters_share_their_scale() -> None:
    task = wide_task(nn.Conv2d(2, 3, 3, padding=1))
    task.model = Fed(shape=(2, 5, 5))
    posterior = ScaledUnits(task, "jeffreys", 1.0, -2.0)
    x = torch.randn(1, 2, 5, 5).expand(20_000, 2, 5, 5)
    torch.manual_seed(0)
    with posterior.noisy(), torch.no_grad():
        out = task.module[0](x)  # type: ignore[index]
    layer = task.layer("0.weight")
    wanted = torch.func.functional_call(layer, {"weight": posterior.weights()["0.weight"]}, (x[:1],))[0]
    torch.testing.assert_close(out.mean(0), wanted, rtol=0.05, atol=0.04)
    assert posterior.scores()["0.weight"].reshape(3, -1).std(1).max() == 0


def test_a_weight_that_is_handed_to_the_function_itself_is_not_local() -> None:
    """Its layer is never called, so that noise on the layer's outputs would be none."""

    class HandedOn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(torch.relu(nn.functional.linear(x, self.first.weight, self.first.bias + 1)))
            return out

    module = HandedOn()
    assert local_names(Task(Lines(), module, ("first.weight", "last.weight"))) == ["last.weight"]


def test_noise_of_no_variance_is_next_to_none() -> None:
    assert float(noise(torch.zeros(1000)).abs().max()) < 1e-3


class Doubled(nn.Linear):
    """Twice a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Padded(nn.Conv2d):
    """Pads by itself, as a strided convolution of another framework does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


class Standardized(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight / weight.std(), bias)


@pytest.mark.parametrize(
    "layer", [Doubled(4, 2), Padded(2, 2, 3), Standardized(2, 2, 3)], ids=lambda m: type(m).__name__
)
def test_what_computes_in_its_own_way_is_no_local_layer(layer: nn.Module) -> None:
    assert not is_local(layer)
    replaced = nn.Linear(4, 2)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    assert not is_local(replaced)


def test_a_derived_layer_s_weights_are_drawn() -> None:
    """What the posterior adds to the outputs is the variance of a network whose weights are drawn."""
    task = wide_task(Doubled(6, 4))
    posterior = GaussianWeights(task, -2.0)
    assert "0.weight" in posterior.drawn()
    torch.manual_seed(0)
    x = torch.randn(1, 6)
    with posterior.noisy(), torch.no_grad():
        outputs = torch.cat(
            [torch.func.functional_call(task.module, dict(posterior.drawn()), (x,)) for _ in range(4000)]
        )
    variance = 4 * (x[0].square() * posterior.variances()["0.weight"]).sum(1)
    torch.testing.assert_close(outputs.var(0), variance, rtol=0.15, atol=0.01)


@pytest.mark.parametrize("prior", ["jeffreys", "horseshoe"])
@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(2, 4, 3)], ids=["linear", "convolution"])
def test_a_compressible_bias_has_a_posterior_of_its_own(layer: nn.Module, prior: str) -> None:
    """Its variance is what is left of the outputs' where the input is 0, and stands among the moments."""
    task = wide_task(layer)
    model: Model = task.model if isinstance(layer, nn.Linear) else Fed(shape=(2, 3, 3))
    task = Task(model, task.module, ("0.weight", "0.bias"))
    posterior = ScaledUnits(task, prior, 1e-3, -2.0)
    assert set(posterior.variances()) == {"0.weight", "0.bias"}
    shape = (20_000, 6) if isinstance(layer, nn.Linear) else (20_000, 2, 3, 3)
    torch.manual_seed(0)
    with posterior.noisy(), torch.no_grad():
        out = task.module[0](torch.zeros(shape)).reshape(20_000, 4)  # type: ignore[index]
    torch.testing.assert_close(out.var(0), posterior.variances()["0.bias"], rtol=0.05, atol=0.002)
    torch.testing.assert_close(out.mean(0), task.parameter("0.bias").detach(), rtol=0.02, atol=0.02)
    slope = torch.autograd.grad(posterior.kl(), posterior.leaves["0.weight/bias_log_variance"])[0]
    assert bool((slope < 0).all())  # towards the prior's variance of 1


def test_the_horseshoe_starts_at_its_prior_with_scales_of_one() -> None:
    task = wide_task(nn.Linear(6, 4))
    for tau in (1e-5, 1e-2):
        posterior = ScaledUnits(task, "horseshoe", tau, -9.0)
        torch.testing.assert_close(posterior.scale("0.weight")[0], torch.ones(6), rtol=1e-3, atol=0)
        names = [f"0.weight/{kind}_mean" for kind in ("s_a", "s_b", "a")]
        slopes = torch.autograd.grad(posterior.kl(), [posterior.leaves[name] for name in names])
        for slope in slopes:
            assert float(slope.abs().max()) < 1e-3
        pull = torch.autograd.grad(posterior.kl(), posterior.leaves["0.weight/b_mean"])[0]
        torch.testing.assert_close(pull, torch.full((6,), 0.5), rtol=1e-2, atol=1e-3)
