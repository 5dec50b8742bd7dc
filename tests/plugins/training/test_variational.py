"""What is dropped by a posterior over weights, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from line_networks import Fed, Lines, wide_task
from nqbench_training.bayesian_compression import BayesianCompression, ScaledUnits
from nqbench_training.gaussian_weights import without_effect
from nqbench_training.information_bottleneck import Gates, InformationBottleneck
from nqbench_training.variational import Layers, Variational, least_that_keeps
from nqbench_training.variational_dropout import VariationalDropout
from test_limits_of_trainings import Half
from tiny_network import make_task
from torch import Tensor, nn

from nqbench.api import Pruner, Task
from nqbench.api.toolkit.progress import telling

LONG: Any = {"epochs": 100, "lr": 0.05, "batch_size": 128, "schedule": "cosine"}
PRUNERS: list[type[Pruner]] = [VariationalDropout, BayesianCompression, InformationBottleneck]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))


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


@pytest.mark.parametrize("cls", PRUNERS)
def test_a_posterior_is_trained_once_wherever_it_is_cut(
    cls: type[Pruner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is cut from it is, to the bit, what a training of its own gives."""
    told: Any = {"epochs": 2, "batch_size": 8, "lr": 0.01}
    cuts: list[Any] = [{"keep": 0.5}, {"keep": 0.3, "tune": 1}, {"threshold": 0.5}]
    once = [cls(**told, **cut).prune(make_task()) for cut in cuts[:1]]
    learn = Variational._learn

    def refused(self: Variational, *args: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Variational, "_learn", refused)
    once += [cls(**told, **cut).prune(make_task()) for cut in cuts[1:]]
    with pytest.raises(AssertionError, match="trained again"):
        cls(**told | {"epochs": 3}, **cuts[0]).prune(make_task())
    monkeypatch.setattr(Variational, "_learn", learn)
    for number, (cut, found) in enumerate(zip(cuts, once, strict=True)):
        monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / str(number)))
        own = cls(**told, **cut).prune(make_task())
        for kind in ("state", "masks"):
            for name, tensor in getattr(own, kind).items():
                assert torch.equal(tensor, getattr(found, kind)[name]), (kind, name)
        assert (own.moments or {}).keys() == (found.moments or {}).keys()


@pytest.mark.parametrize("plugin", [*(cls(keep=0.5) for cls in PRUNERS), BayesianCompression(prior="horseshoe")])  # type: ignore[call-arg]
def test_a_network_of_half_precision_learns_variances(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 a step of training would be rounded away."""
    made, make = [], type(plugin).posterior

    def noted(self: Any, task: Task) -> Any:
        made.append(make(self, task))
        return made[-1]

    monkeypatch.setattr(type(plugin), "posterior", noted)
    told = plugin.model_copy(update={"epochs": 5, "batch_size": 8, "lr": 0.003})
    pruned = told.prune(make_task(Half()))
    for name, leaf in made[0].leaves.items():
        assert leaf.dtype == torch.float32
        if name.endswith("log_variance") or type(plugin) is VariationalDropout:
            assert leaf.detach().flatten().unique().numel() > 1 or leaf.numel() == 1, name
            assert float((leaf.detach() - leaf.detach().round(decimals=1)).abs().max()) > 1e-3, name
    for name, mask in pruned.masks.items():
        assert pruned.state[name].dtype == torch.bfloat16
        assert not bool(pruned.state[name][~mask].any())


def test_no_noise_is_left_on_the_network() -> None:
    task = make_task()
    for cls in PRUNERS:
        cls(epochs=1, keep=0.5).prune(task)  # type: ignore[call-arg]
    batch = next(task.batches())
    assert torch.equal(task.predict(batch), task.predict(batch))


def test_the_adam_sensitivity_is_the_posterior_s_with_compressible_biases() -> None:
    torch.manual_seed(0)
    model = Lines()
    module = model.load(torch.device("cpu"))
    task = Task(model, module, tuple(n for n, _ in module.named_parameters()))
    pruned = BayesianCompression(epochs=1, keep=0.5, batch_size=128).prune(task)
    assert pruned.moments is not None
    assert set(pruned.moments) == set(task.names)


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
    told: list[str] = []
    with telling(told.append):
        masks = least_that_keeps(every, wanted, below, ["w"])
    asked = len(tries)
    assert len(told) == asked, "of each that takes a pass it says something"
    assert told[-1].endswith(f"weights, {wanted:,} wanted")
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


def pictures(biases: bool) -> Task:
    """Two convolutions, of one and four channels, and a linear layer, with biases that matter."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)
    ).eval()
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, 0.5, 1.0)
    names = tuple(name for name, p in module.named_parameters() if biases or p.dim() > 1)
    return Task(Fed(shape=(1, 6, 6)), module, names)


@pytest.mark.parametrize("biases", [False, True])
def test_a_filter_that_is_cut_takes_its_bias_with_it_and_what_it_feeds(biases: bool) -> None:
    task = pictures(biases)
    before = task.parameter("0.bias").detach().clone()
    weights = {name: w.clone() for name, w in task.weights().items()}
    posterior = ScaledUnits(task, "jeffreys", 1e-5, -9.0)
    assert posterior.unit_biases() == {"0.weight": "0.bias", "2.weight": "2.bias"}
    layers = Layers.of(task, weights, posterior.unit_biases())
    gone = torch.tensor([1, 3])
    cut = {name: torch.ones_like(weights[name], dtype=torch.bool) for name in posterior.names}
    cut["0.weight"][gone] = False
    masks = layers.with_effect(cut)
    batch = next(task.batches("train"))
    whole = task.predict(batch)
    layers.cut(masks)
    torch.testing.assert_close(task.predict(batch), whole)
    assert set(masks) == set(weights)
    assert not bool(masks["2.weight"][:, gone].any()), "a channel that is the same everywhere costs nothing"
    assert bool(masks["2.weight"][:, [0, 2]].all())
    assert torch.equal(task.parameter("0.bias") == 0, torch.tensor([False, True, False, True]))
    assert torch.equal(task.parameter("0.bias")[[0, 2]], before[[0, 2]])
    if biases:
        assert masks["0.bias"].tolist() == [True, False, True, False]
        assert bool(masks["2.bias"].all())
    # another limit: what the last one cut is there again
    assert all(
        bool(mask.all()) for mask in layers.with_effect({n: torch.ones_like(m) for n, m in cut.items()}).values()
    )


@pytest.mark.parametrize("biases", [False, True])
def test_filters_that_nothing_reads_are_cut_where_they_have_no_gates(biases: bool) -> None:
    task = pictures(biases)
    gates = Gates(task, -6.0)
    assert gates.names == ["2.weight", "5.weight"]
    layers = Layers.of(task, {name: w.clone() for name, w in task.weights().items()}, gates.unit_biases())
    cut = {name: torch.ones_like(task.parameter(name), dtype=torch.bool) for name in gates.names}
    cut["2.weight"][:, [1, 3]] = False
    masks = layers.with_effect(cut)
    assert masks["0.weight"].flatten(1).all(1).tolist() == [True, False, True, False]
    assert not bool(masks["0.weight"][[1, 3]].any())
    assert ("0.bias" in masks) == biases
    if biases:
        assert masks["0.bias"].tolist() == [True, False, True, False]


def test_a_table_that_has_no_score_keeps_rows_that_no_training_example_reads() -> None:
    """They may be read by others."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(50, 3), nn.Flatten(), nn.Linear(12, 1)).eval()
    task = Task(Fed(shape=(4,), tokens=True), module, ("0.weight", "2.weight"))
    layers = Layers.of(task, {name: w.clone() for name, w in task.weights().items()}, {})
    masks = layers.with_effect({"2.weight": torch.ones(1, 12, dtype=torch.bool)})
    assert set(masks) == {"2.weight"}
