"""Trainings around quantization, each against its formula written out by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from nqbench_quantizers.ecsq import ECSQ
from nqbench_training.alternating import IteratedDirect, LearningCompression
from nqbench_training.batchnorm import BatchNorm
from nqbench_training.finetune import FineTune, members
from nqbench_training.iterative import Iterative
from nqbench_training.learned_step import LearnedStep
from nqbench_training.magnitude import Magnitude
from nqbench_training.sensitivities import Adam, Fisher
from nqbench_training.sequential import Sequential, forward_order
from nqbench_training.soft_to_hard import SoftToHard
from nqbench_training.soft_weight_sharing import SoftWeightSharing
from nqbench_training.straight_through import BinaryRelax, ProxQuant, QuantNoise, StraightThrough
from test_sensitivities import whole_batch
from tiny_network import Levels, Tiny, make_task
from torch import Tensor, nn

from nqbench.api import (
    BadInput,
    Batch,
    Group,
    Model,
    Quantized,
    QuantizedModel,
    Quantizer,
    Sensitivity,
    Source,
    Split,
    Task,
    Training,
)
from nqbench.api.toolkit.curvature import mean_loss

EVERY: list[Training] = [
    FineTune(epochs=2, lr=0.1, batch_size=8),
    BatchNorm(),
    IteratedDirect(iterations=2, lr=0.01, batch_size=8),
    LearningCompression(iterations=3, epochs=1, first_epochs=2, mu0=0.1, batch_size=8, lr=0.02),
    StraightThrough(epochs=2, lr=0.01, batch_size=8),
    BinaryRelax(epochs=2, lr=0.01, batch_size=8),
    ProxQuant(epochs=2, lr=0.01, batch_size=8, lam=0.1),
    QuantNoise(epochs=2, lr=0.01, batch_size=8, share=0.5),
    LearnedStep(epochs=2, lr=0.01, batch_size=8),
    SoftWeightSharing(epochs=2, lr=0.01, batch_size=8),
    SoftToHard(epochs=2, lr=0.01, batch_size=8, beta=0.1),
    Iterative(epochs=2, lr=0.01, batch_size=8),
]


class Pairs(Quantizer, name="pairs"):
    """Vectors of two weights by a grid of step 0.1, optionally dithered: the form of a lattice quantizer."""

    dithered: bool = False

    def quantize(self, source: Source) -> Quantized:
        w = source.weights
        padded = torch.cat([w, w.new_zeros(w.numel() % 2)]).reshape(-1, 2)
        points, symbols = torch.unique((padded / 0.1).round() * 0.1, dim=0, return_inverse=True)
        side = {"seed": 7, "dither_step": 0.1} if self.dithered else {}
        form = "dithered" if self.dithered else "lookup"
        return Quantized(symbols.int(), len(points), source.sizes, {"codebook": points}, side, form)


class Scaled(Quantizer, name="scaled"):
    """{-a, 0, a}: the scale moves, the table does not."""

    def quantize(self, source: Source) -> Quantized:
        a = source.weights.abs().mean()
        symbols = (source.weights / a).round().clamp(-1, 1).int() + 1
        table = torch.tensor([-1.0, 0.0, 1.0])
        return Quantized(symbols, 3, source.sizes, {"scale": a.reshape(1)}, {"codebook": table})


class Binary(Quantizer, name="binary-test"):
    """{-a, a}, a = mean |w|: the best of its kind, arXiv:1707.04319, section 4.2."""

    def quantize(self, source: Source) -> Quantized:
        a = float(source.weights.abs().mean())
        return Quantized.nearest(source, torch.tensor([-a, a]))


def pruned_task(quantizer: Quantizer, **fields: object) -> Task:
    task = make_task(quantizer=quantizer, **fields)
    task.masks = Magnitude(keep=0.6, epochs=0).prune(task).masks
    return task


def weight_gradients(task: Task, deployed: Mapping[str, Tensor]) -> Tensor:
    """dL/dw of the kept weights at the deployed network, whole batch, evaluation mode."""
    task.assign(deployed)
    loss = nn.functional.cross_entropy(task.module(whole_batch(task)[0]), whole_batch(task)[1])
    gradients = torch.autograd.grad(loss, [task.parameter(name) for name in task.names])
    return torch.cat([task.kept(n, g) for n, g in zip(task.names, gradients, strict=True)])


@pytest.mark.parametrize("quantizer", [Levels(k=5), Pairs(), Pairs(dithered=True)])
def test_a_finetuning_step_moves_each_codeword_by_the_mean_gradient_of_its_members(quantizer: Quantizer) -> None:
    task = pruned_task(quantizer)
    (group,) = task.quantize()
    q = group.quantized
    after = FineTune(epochs=1, lr=0.5, batch_size=1000).train(task, None)
    g = weight_gradients(task, task.reconstruct([group]))
    flat = q.parameters["codebook"].reshape(q.alphabet, -1)
    expected, d = flat.clone(), flat.shape[1]
    for k in range(q.alphabet):
        for j in range(d):
            own = [i for i in range(q.n) if int(q.symbols[i // d]) == k and i % d == j]
            if own:  # the padding of the last vector has no weight behind it
                expected[k, j] -= 0.5 * g[own].mean()
    moved = after.groups[0].quantized
    torch.testing.assert_close(moved.parameters["codebook"].reshape(flat.shape), expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(moved.symbols, q.symbols)
    assert dict(moved.side) == dict(q.side)


def test_a_scale_moves_by_its_summed_gradient_over_the_squared_levels() -> None:
    task = pruned_task(Scaled())
    (group,) = task.quantize()
    q = group.quantized
    g = weight_gradients(task, task.reconstruct([group]))
    c = torch.tensor([-1.0, 0.0, 1.0])[q.symbols.long()]
    expected = q.parameters["scale"] - 0.5 * (g @ c) / c.square().sum()
    after = FineTune(epochs=1, lr=0.5, batch_size=1000).train(task, QuantizedModel((group,), task.raw_state()))
    torch.testing.assert_close(after.groups[0].quantized.parameters["scale"], expected)


def test_held_codewords_and_codewords_without_members_stay() -> None:
    task = pruned_task(Levels(k=5))
    (group,) = task.quantize()
    held = torch.tensor([False, False, True, False, False])
    group = Group(group.names, replace(group.quantized, held={"codebook": held}))
    after = FineTune(epochs=3, lr=1.0, momentum=0.9).train(task, QuantizedModel((group,), task.raw_state()))
    before, moved = group.quantized.parameters["codebook"], after.groups[0].quantized.parameters["codebook"]
    assert (before == moved).tolist() == held.tolist()
    lonely = Quantized(torch.zeros(4, dtype=torch.int32), 2, (4,), {"codebook": torch.tensor([1.0, 2.0])})
    assert members(Levels(), Group(("x",), lonely), "codebook").tolist() == [0.25, 0.0]


def test_finetuning_lowers_the_training_loss_and_changes_nothing_else() -> None:
    task = pruned_task(Levels(k=4))
    (group,) = task.quantize()
    raw = task.raw_state()
    before = mean_loss(task, 1000, task.reconstruct([group]))
    after = FineTune(epochs=30, lr=0.5, batch_size=8).train(task, None)
    assert mean_loss(task, 1000, task.reconstruct(after.groups)) < before - 0.01
    assert all(torch.equal(raw[name], after.raw_state[name]) for name in raw)


@pytest.mark.parametrize("training", EVERY, ids=lambda t: t.name)
@pytest.mark.parametrize("quantizer", [Levels(k=4), Pairs()], ids=lambda q: q.name)
@pytest.mark.parametrize("granularity", ["global", "layer"])
def test_pruned_weights_deploy_as_zero_and_every_tensor_is_covered(
    training: Training, quantizer: Quantizer, granularity: str
) -> None:
    task = pruned_task(quantizer, granularity=granularity)
    result = training.train(task, None)
    assert [name for group in result.groups for name in group.names] == list(task.names)
    deployed = task.reconstruct(result.groups)
    for name in task.names:
        assert bool((deployed[name][~task.masks[name]] == 0).all())
    assert set(result.raw_state) | set(task.names) == set(task.module.state_dict())
    assert not any(p.grad is not None for p in task.module.parameters())
    assert not task.module.training


@pytest.mark.parametrize("training", EVERY, ids=lambda t: t.name)
def test_the_same_seed_gives_the_same_bits(training: Training) -> None:
    results = [training.train(pruned_task(Levels(k=4), seed=3), None) for _ in range(2)]
    one, two = (make_result_tensors(r) for r in results)
    assert all(torch.equal(one[name], two[name]) for name in one)


def make_result_tensors(result: QuantizedModel) -> dict[str, Tensor]:
    tensors = dict(result.raw_state)
    for i, group in enumerate(result.groups):
        tensors |= {f"{i}/symbols": group.quantized.symbols}
        tensors |= {f"{i}/{k}": v for k, v in group.quantized.parameters.items()}
    return tensors


@pytest.mark.parametrize("training", [t for t in EVERY if t.name != "batchnorm"], ids=lambda t: t.name)
def test_an_interrupted_training_goes_on_with_the_same_bits(training: Training, tmp_path: Path) -> None:
    calls: list[int] = []

    class Interrupted(Tiny, name="interrupted"):
        def losses(self, outputs: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
            calls.append(1)
            if len(calls) == 5:  # three batches an epoch: in the second epoch
                raise KeyboardInterrupt
            return super().losses(outputs, batch)

    whole = make_result_tensors(training.train(pruned_task(Levels(k=4)), None))
    with pytest.raises(KeyboardInterrupt):
        training.train(pruned_task(Levels(k=4), model=Interrupted(), workdir=tmp_path), None)
    count = len(calls)
    resumed = make_result_tensors(training.train(pruned_task(Levels(k=4), workdir=tmp_path), None))
    assert count == 5
    assert any(tmp_path.iterdir())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_learning_compression_follows_its_formula() -> None:
    """Two iterations written out: plain gradient steps on L + mu/2 |w - Delta - l/mu|^2, C step, multipliers."""
    lc = LearningCompression(
        iterations=2, epochs=1, first_epochs=2, mu0=0.5, growth=2.0, lr=0.05, decay=0.5, momentum=0.0, batch_size=1000
    )
    got = lc.train(make_task(quantizer=Levels(k=3)), None)

    task = make_task(quantizer=Levels(k=3))
    task.module.train()
    x, y = whole_batch(task)
    w = task.weights()
    delta = task.reconstruct(task.quantize(w))
    lagrange = {name: torch.zeros_like(v) for name, v in w.items()}
    parameters = dict(task.module.named_parameters())
    for j, epochs in ((0, 2), (1, 1)):
        mu, lr = 0.5 * 2**j, 0.05 * 0.5**j
        for _ in range(epochs):
            gradients = torch.autograd.grad(nn.functional.cross_entropy(task.module(x), y), list(parameters.values()))
            with torch.no_grad():
                for (name, p), g in zip(parameters.items(), gradients, strict=True):
                    if name in w:
                        g = g + mu * (p - delta[name] - lagrange[name] / mu)
                    p -= lr * g
        w = task.weights()
        groups = task.quantize({name: w[name] - lagrange[name] / mu for name in w})
        delta = task.reconstruct(groups)
        lagrange = {name: lagrange[name] - mu * (w[name] - delta[name]) for name in w}
    for name, value in task.reconstruct(got.groups).items():
        torch.testing.assert_close(value, delta[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got.raw_state["8.bias"], task.raw_state()["8.bias"], rtol=1e-4, atol=1e-6)


def test_the_learning_rate_of_an_l_step_is_clipped_at_one_over_mu(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    monkeypatch.setattr("nqbench_training.alternating.fit_network", lambda task, recipe, **_: rates.append(recipe.lr))
    LearningCompression(iterations=3, mu0=5.0, growth=4.0, lr=0.1, decay=1.0).train(make_task(quantizer=Levels()), None)
    assert rates == pytest.approx([0.1, 1 / 20, 1 / 80])


def test_learning_compression_beats_direct_compression() -> None:
    task = make_task(quantizer=Binary(), granularity="layer")
    direct = task.reconstruct(task.quantize())
    lc = LearningCompression(iterations=20, epochs=5, first_epochs=20, mu0=0.01, growth=1.3, lr=0.05, batch_size=24)
    # batch norm's statistics belong to the real weights, which end where the quantized ones are
    result = BatchNorm().train(task, lc.train(task, None))
    compressed = task.reconstruct(result.groups) | dict(result.raw_state)
    fresh = make_task()
    assert mean_loss(fresh, 1000, compressed) < mean_loss(fresh, 1000, direct) - 0.1


def test_alpha_sets_the_price_of_a_bit_in_the_c_step() -> None:
    seen = []

    class Priced(Levels, name="priced"):
        lam: float = 1.0
        unit: Literal["absolute", "step"] = "step"

        def quantize(self, source: Source) -> Quantized:
            assert self.unit == "absolute"
            seen.append(self.lam)
            return super().quantize(source)

    task = make_task(quantizer=Priced())
    n = sum(task.parameter(name).numel() for name in task.names)
    training = LearningCompression(iterations=2, epochs=1, first_epochs=1, mu0=0.5, growth=2.0, alpha=3.0)
    training.train(task, None)
    assert seen == pytest.approx([2 * 3 / (0.5 * n), 2 * 3 / (0.5 * n), 2 * 3 / (1.0 * n)])
    assert task.quantizer == Priced()
    with pytest.raises(BadInput, match="has no parameter 'lam'"):
        training.train(make_task(quantizer=Levels()), None)


@pytest.mark.parametrize("resense", [False, True])
@pytest.mark.parametrize("training", [IteratedDirect, LearningCompression])
def test_a_sensitivity_is_that_of_the_first_network_unless_sensed_anew(
    training: type[IteratedDirect] | type[LearningCompression], resense: bool
) -> None:
    seen: list[Tensor] = []

    class Squares(Sensitivity, name="squares"):
        def sense(self, task: Task, names: Sequence[str]) -> Mapping[str, Tensor]:
            return {name: task.parameter(name).detach().square() for name in names}

    class Watching(Levels, name="watching"):
        def quantize(self, source: Source) -> Quantized:
            assert source.h is not None
            seen.append(source.h.clone())
            return super().quantize(source)

    task = make_task(quantizer=Watching(), sensitivity=Squares())
    task.sensed = Squares().sense(task, task.names)
    training(iterations=2, epochs=1, lr=0.05, resense=resense).train(task, None)
    first, *later = seen
    assert len(later) == 2
    assert all(torch.equal(first, h) != resense for h in later)


def test_iterated_direct_trains_from_the_quantized_weights_and_quantizes() -> None:
    got = IteratedDirect(iterations=2, lr=0.05, momentum=0.0, batch_size=1000, decay=0.5).train(
        make_task(quantizer=Levels(k=3)), None
    )
    task = make_task(quantizer=Levels(k=3))
    task.module.train()
    x, y = whole_batch(task)
    parameters = dict(task.module.named_parameters())
    for lr in (0.05, 0.025):
        task.assign(task.reconstruct(task.quantize()))
        gradients = torch.autograd.grad(nn.functional.cross_entropy(task.module(x), y), list(parameters.values()))
        with torch.no_grad():
            for p, g in zip(parameters.values(), gradients, strict=True):
                p -= lr * g
    for name, value in task.reconstruct(task.quantize()).items():
        torch.testing.assert_close(task.reconstruct(got.groups)[name], value, rtol=1e-4, atol=1e-6)


def test_straight_through_applies_the_gradient_at_the_quantized_weights_to_the_real_ones() -> None:
    got = StraightThrough(epochs=2, lr=0.05, momentum=0.0, batch_size=1000).train(
        make_task(quantizer=Levels(k=3)), None
    )
    task = make_task(quantizer=Levels(k=3))
    task.module.train()
    x, y = whole_batch(task)
    parameters = dict(task.module.named_parameters())
    for _ in range(2):
        real = task.weights()
        task.assign(task.reconstruct(task.quantize()))
        gradients = torch.autograd.grad(nn.functional.cross_entropy(task.module(x), y), list(parameters.values()))
        task.assign(real)
        with torch.no_grad():
            for p, g in zip(parameters.values(), gradients, strict=True):
                p -= 0.05 * g
    for name, value in task.reconstruct(task.quantize()).items():
        torch.testing.assert_close(task.reconstruct(got.groups)[name], value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got.raw_state["6.bias"], task.raw_state()["6.bias"], rtol=1e-4, atol=1e-6)


def test_straight_through_may_learn_from_the_trained_network() -> None:
    """Its outputs are then nearer to the teacher's than by labels alone."""
    fields = {"epochs": 3, "lr": 0.05, "batch_size": 1000}

    def deployed(distill: float) -> tuple[dict[str, Tensor], Task]:
        task = make_task(quantizer=Levels(k=3))
        result = StraightThrough(distill=distill, **fields).train(task, None)
        return {**task.reconstruct(result.groups), **result.raw_state}, task

    def apart(state: dict[str, Tensor], task: Task) -> float:
        x, _ = whole_batch(task)
        task.module.load_state_dict({**task.module.state_dict(), **state})
        task.module.train()
        taught = make_task().module(x)
        return float(nn.functional.mse_loss(task.module(x), taught).detach())

    assert apart(*deployed(1.0)) < apart(*deployed(0.0))


def test_batchnorm_statistics_become_those_of_the_quantized_network() -> None:
    task = make_task(quantizer=Levels(k=3))
    result = BatchNorm().train(task, None)
    x, _ = whole_batch(task)
    weight = task.reconstruct(result.groups)["0.weight"]
    outputs = nn.functional.conv2d(x, weight, padding=1)
    torch.testing.assert_close(result.raw_state["1.running_mean"], outputs.mean((0, 2, 3)))
    torch.testing.assert_close(result.raw_state["1.running_var"], outputs.var((0, 2, 3)))
    assert torch.equal(result.raw_state["1.weight"], make_task().module[1].weight)
    assert task.module[1].momentum == 0.1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_batchnorm_statistics_in_half_precision_are_the_means_over_batches(
    dtype: Literal["float16", "bfloat16"],
) -> None:
    """An average that is moved by a share of 1 / n stays behind as n grows."""
    task = make_task(Normed(dtype=dtype), quantizer=Levels(k=16))
    result = BatchNorm(samples=4000, batch_size=50).train(task, None)
    weight, bias = task.parameter("0.weight").detach(), task.parameter("0.bias").detach()
    means, variances = [], []
    for x, _ in task.batches("train", batch_size=50):
        outputs = nn.functional.linear(x.to(weight.dtype), weight, bias).double()
        means.append(outputs.mean(0))
        variances.append(outputs.var(0))
    spacing = torch.finfo(weight.dtype).eps
    for name, each in (("1.running_mean", means), ("1.running_var", variances)):
        wanted = torch.stack(each).mean(0)
        torch.testing.assert_close(
            result.raw_state[name].double(), wanted, rtol=spacing, atol=spacing * float(wanted.std())
        )
    assert task.module[1].momentum == 0.1  # type: ignore[index]
    assert not task.module[1]._forward_hooks  # type: ignore[index]


class Normed(Model, name="normed"):
    """A batch norm in half precision, on 4000 images whose scales differ by batch."""

    dtype: Literal["float16", "bfloat16"] = "bfloat16"

    def fingerprint(self) -> str:
        return f"normed-{self.dtype}"

    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64)).to(getattr(torch, self.dtype)).eval()

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(4000 // batch_size):
            scale = 0.5 + torch.rand(1, generator=generator)
            x = scale * torch.randn(batch_size, 8, generator=generator)
            yield x, (x[:, 0] > 0).long()

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        out: Tensor = module(batch[0].to(getattr(torch, self.dtype)))
        return out.float()


def test_sequential_senses_each_tensor_behind_the_quantized_ones() -> None:
    seen: list[tuple[str, bool, bool]] = []

    class Spy(Fisher, name="spy"):
        def sense(self, task: Task, names: Sequence[str]) -> Mapping[str, Tensor]:
            (name,) = names
            index = task.names.index(name)
            levels = [len(torch.unique(task.parameter(n))) for n in task.names]
            seen.append((name, all(k <= 3 for k in levels[:index]), all(k > 3 for k in levels[index:])))
            return super().sense(task, names)

    sensitivity: Sensitivity = Spy()
    task = make_task(quantizer=Levels(k=3), granularity="layer", sensitivity=sensitivity)
    result = Sequential().train(task, None)
    assert seen == [(name, True, True) for name in task.names]
    assert [group.names for group in result.groups] == [(name,) for name in task.names]


def test_sequential_estimates_moments_anew_whatever_training_kept() -> None:
    found = []
    for kept in (None, 1.0):
        task = make_task(quantizer=ECSQ(lam=0.03, unit="variance"), granularity="layer", sensitivity=Adam(batch_size=8))
        moments = None if kept is None else {name: torch.full_like(w, kept) for name, w in task.weights().items()}
        result = Sequential().train(replace(task, moments=moments), None)
        found.append(torch.cat([group.quantized.symbols for group in result.groups]))
    assert torch.equal(*found)
    assert len(found[0].unique()) > 4


def test_forward_order_is_that_of_the_computation() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 3)
            self.first = nn.Linear(72, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x.flatten(1)))

    class Model(Tiny, name="backwards"):
        def load(self, device: torch.device) -> nn.Module:
            return Backwards().eval()

    assert forward_order(make_task(Model())) == ["first.weight", "last.weight"]
