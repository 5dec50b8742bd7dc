"""Posteriors over weights: noise against draws of the weights, divergences against integrals, what is dropped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nqbench_training.bayesian_compression import BayesianCompression, ScaledUnits
from nqbench_training.gaussian_weights import (
    is_local,
    local_names,
    log_normal_kl,
    log_uniform_kl,
    noise,
    normal_kl,
    output_variance,
    without_effect,
)
from nqbench_training.information_bottleneck import Gates, InformationBottleneck
from nqbench_training.variational import Variational, least_that_keeps
from nqbench_training.variational_dropout import GaussianWeights, VariationalDropout
from tiny_network import make_task
from torch import Tensor, nn

from nqbench.api import Batch, Model, Pruner, Split, Task

LONG: Any = {"epochs": 100, "lr": 0.05, "batch_size": 128, "schedule": "cosine"}
PRUNERS: list[type[Pruner]] = [VariationalDropout, BayesianCompression, InformationBottleneck]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))


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
    got = float(log_normal_kl(torch.tensor(mean), torch.tensor(log_variance), scale))
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


class Lines(Model, name="lines-for-variational"):
    """y = x_1 - 2 x_2 with six inputs, of which the others say nothing; or any other module."""

    wanted: tuple[float, ...] = (1.0, -2.0, 0.0, 0.0, 0.0, 0.0)

    def fingerprint(self) -> str:
        return "lines"

    def load(self, device: torch.device) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)).to(device).eval()

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        x = torch.randn(512, 6, generator=torch.Generator().manual_seed(0))
        y = x @ torch.tensor(self.wanted)
        order = torch.arange(512)
        if shuffle is not None:
            order = torch.randperm(512, generator=torch.Generator().manual_seed(shuffle))
        for part in order.split(batch_size):
            yield x[part], y[part]

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return 50 * (outputs[:, 0] - batch[1]).square()


class Fed(Lines, name="fed-for-variational"):
    """Inputs that fit another module."""

    shape: tuple[int, ...]
    tokens: bool = False

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        size = (min(batch_size, 8), *self.shape)
        yield torch.randint(0, 6, size) if self.tokens else torch.randn(size), torch.zeros(size[0])


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


def wide_task(*layers: nn.Module) -> Task:
    module = nn.Sequential(*layers)
    names = tuple(n for n, p in module.named_parameters() if p.dim() > 1)
    return Task(Lines(), module, names)


@pytest.mark.parametrize(
    "pruner",
    [
        VariationalDropout(**LONG | {"epochs": 120, "batch_size": 64}, log_variance=-6),
        BayesianCompression(**LONG, threshold=-2.0, log_variance=-6),
        BayesianCompression(**LONG, prior="horseshoe", threshold=0.6, tau=1e-3, log_variance=-6),
        InformationBottleneck(**LONG),
    ],
    ids=lambda p: p.name + getattr(p, "prior", ""),
)
def test_inputs_that_say_nothing_are_dropped_and_the_others_stay(pruner: Pruner) -> None:
    model = Lines()
    module = model.load(torch.device("cpu"))
    task = Task(model, module, model.compressible(module))
    pruned = pruner.prune(task)
    columns = pruned.masks["0.weight"].any(0)
    assert columns[:2].all()
    assert float(pruned.masks["0.weight"][:, 2:].float().mean()) <= 0.1  # of 32 weights
    batch = next(task.batches(batch_size=512))
    assert float(task.loss(batch).detach()) < 0.05 * 50 * 5  # 5: the variance of y


def test_weights_without_effect_are_found_by_structure_and_by_data() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    with torch.no_grad():
        module[2].weight[:, 1] = 0  # nobody reads unit 1 of the first layer
        module[4].weight[:, 2] = 0  # nor unit 2 of the second
        module[0].bias[3] = -1e6  # never active
        module[0].bias[0] = module[0].bias[2] = 10.0
    task = wide_task(*module)
    before = task.predict(next(task.batches())).detach()
    idle = without_effect(task)
    assert idle["0.weight"].all(1).tolist() == [False, True, False, True]
    assert idle["2.weight"].all(1).tolist() == [False, False, True]
    assert bool(idle["2.weight"][:, 3].all())
    task.assign({name: task.parameter(name) * ~mask for name, mask in idle.items()})
    assert torch.equal(task.predict(next(task.batches())), before)
    assert module[2].training  # as it was


def test_of_a_network_that_is_all_noise_the_largest_weight_stays() -> None:
    task = make_task()
    pruned = VariationalDropout(epochs=1, batch_size=8, lr=1e-6, threshold=-1e3).prune(task)
    largest = max(float(w.abs().max()) for w in make_task().weights().values())
    assert sum(int(mask.sum()) for mask in pruned.masks.values()) == 1
    kept = torch.cat([pruned.state[name][mask] for name, mask in pruned.masks.items()])
    assert float(kept.abs()) == pytest.approx(largest, abs=1e-3)


class Product(nn.Module):
    """A linear layer, and a weight of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Bilinear(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)[:, :1], x[:, :1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("cls", [BayesianCompression, InformationBottleneck])
def test_what_has_no_score_stays_whatever_is_pruned(cls: type[Pruner]) -> None:
    torch.manual_seed(0)
    task = Task(Lines(), Product(), ("first.weight", "second.weight"))
    pruned = cls(epochs=1, threshold=-1e3).prune(task)  # type: ignore[call-arg]
    assert not bool(pruned.masks["first.weight"].any())
    assert "second.weight" not in pruned.masks
    assert bool(pruned.state["second.weight"].all())


@pytest.mark.parametrize("cls", [BayesianCompression, InformationBottleneck])
def test_biases_of_units_that_reach_no_output_are_pruned(cls: type[Pruner]) -> None:
    """Where biases are compressible: all weights of the second layer are pruned, and with them what feeds it."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    task = Task(Lines(), module, tuple(n for n, _ in module.named_parameters()))
    pruned = cls(epochs=1, threshold=-1e3).prune(task)  # type: ignore[call-arg]
    assert not bool(pruned.masks["0.bias"].any())
    assert not bool(pruned.state["0.bias"].any())
    assert bool(pruned.masks["2.bias"].all())


@pytest.mark.parametrize("cls", PRUNERS)
def test_a_share_is_kept_and_moments_are_squared_precisions(cls: type[Pruner]) -> None:
    task = make_task()
    pruned = cls(epochs=2, keep=0.4, batch_size=8).prune(task)  # type: ignore[call-arg]
    kept = sum(int(m.sum()) for m in pruned.masks.values())
    of = sum(m.numel() for m in pruned.masks.values())
    assert 0 < kept <= round(0.4 * of) + 40  # scores of units are equal, and what has no effect goes too
    if cls is not InformationBottleneck:
        assert pruned.moments is not None
        assert all(bool((m > 0).all()) for m in pruned.moments.values())


def test_what_is_interrupted_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruner = VariationalDropout(epochs=3, lr=0.01, batch_size=8, keep=0.5, tune=1)
    whole = pruner.prune(make_task())
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "again"))
    learn = Variational._learn

    def stopped(self: Variational, *args: object) -> None:
        learn(self, *args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(Variational, "_learn", stopped)
    with pytest.raises(KeyboardInterrupt):
        pruner.prune(make_task())
    monkeypatch.setattr(Variational, "_learn", learn)
    again = pruner.prune(make_task())
    for name, tensor in whole.state.items():
        assert torch.equal(tensor, again.state[name]), name


def test_no_noise_is_left_on_the_network() -> None:
    task = make_task()
    for cls in PRUNERS:
        cls(epochs=1, keep=0.5).prune(task)  # type: ignore[call-arg]
    batch = next(task.batches())
    assert torch.equal(task.predict(batch), task.predict(batch))


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


def test_the_adam_sensitivity_is_the_posterior_s_with_compressible_biases() -> None:
    torch.manual_seed(0)
    model = Lines()
    module = model.load(torch.device("cpu"))
    task = Task(model, module, tuple(n for n, _ in module.named_parameters()))
    pruned = BayesianCompression(epochs=1, keep=0.5, batch_size=128).prune(task)
    assert pruned.moments is not None
    assert set(pruned.moments) == set(task.names)


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


def test_the_horseshoe_survives_sgd() -> None:
    model = Lines()
    module = model.load(torch.device("cpu"))
    task = Task(model, module, model.compressible(module))
    pruned = BayesianCompression(epochs=2, prior="horseshoe", keep=0.5, lr=0.01, optimizer="sgd").prune(task)
    assert sum(int(m.sum()) for m in pruned.masks.values()) > 10


def test_one_epoch_has_its_share_of_the_divergence() -> None:
    found = []
    for weight in (0.0, 100.0):
        task = make_task()
        found.append(VariationalDropout(epochs=1, lr=0.01, batch_size=8, keep=0.5, weight=weight).prune(task).state)
    assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("keep", [0.02, 0.1, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("missing", [0.0, 0.5, 0.95])
def test_the_lowest_limit_that_leaves_a_share_with_effect(keep: float, missing: float) -> None:
    """Against trying all limits; a tenth of the scores is equal to another, and what has no effect falls with the
    limit."""
    draw = torch.Generator().manual_seed(0)
    scores = (torch.rand(4000, generator=draw) * 1000).round()
    tries: list[float] = []

    def below(limit: float) -> dict[str, Tensor]:
        tries.append(limit)
        mask = scores <= limit
        count = int(mask.sum())
        gone = round(missing * count * (1 - count / 4000))  # the fewer are left the larger the part without effect
        mask[mask.nonzero()[:gone, 0]] = False
        return {"w": mask, "bias": torch.ones(50, dtype=torch.bool)}

    every = scores.sort().values
    wanted = round(keep * 4000)
    masks = least_that_keeps(every, wanted, below, ["w"])
    asked = len(tries)
    left = int(masks["w"].sum())
    possible = [int(below(float(limit))["w"].sum()) for limit in every.unique()]
    least = min(count for count in possible if count >= wanted)
    assert least <= left <= max(least, 1.01 * wanted)
    assert asked <= 25


def test_all_are_kept_where_no_limit_leaves_the_share() -> None:
    every = torch.arange(10.0)
    masks = least_that_keeps(every, 9, lambda limit: {"w": (every <= limit) & (every > 4)}, ["w"])
    assert int(masks["w"].sum()) == 5


@pytest.mark.parametrize("cls", [BayesianCompression, InformationBottleneck])
def test_the_share_that_is_kept_has_an_effect(cls: type[Pruner]) -> None:
    """Of a network whose units are pruned one of whose layers feeds the next."""
    torch.manual_seed(0)
    model = Lines()
    module = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1)).eval()
    task = Task(model, module, model.compressible(module))
    pruned = cls(epochs=3, keep=0.3, lr=0.05, batch_size=64).prune(task)  # type: ignore[call-arg]
    total = sum(m.numel() for m in pruned.masks.values())
    kept = sum(int(m.sum()) for m in pruned.masks.values())
    assert 0.3 * total <= kept <= 0.4 * total
    idle = without_effect(task)
    assert not any(bool((idle[name] & mask).any()) for name, mask in pruned.masks.items())
