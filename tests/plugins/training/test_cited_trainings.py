"""Trainings that the papers compare themselves with, each against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from nqbench_training.iterative import Iterative
from nqbench_training.learned_step import Fixed, LearnedStep, levels_of
from nqbench_training.soft_to_hard import Codewords, SoftToHard, cross_entropy_bits
from nqbench_training.soft_weight_sharing import Mixture, SoftWeightSharing, merged, surprisal
from nqbench_training.straight_through import BinaryRelax, ProxQuant, QuantNoise, _Passing
from tiny_network import Levels, make_task
from torch import Tensor

from nqbench.api import Group, Quantized, Quantizer, Source, Task, Training, begin


class Steps(Quantizer, name="steps-for-cited"):
    """A uniform grid of step 0.1 within [-0.2, 0.3]."""

    def quantize(self, source: Source) -> Quantized:
        levels = (source.weights / 0.1).round().clamp(-2, 3)
        return Quantized((levels + 2).int(), 6, source.sizes, {"step": torch.tensor([0.1])}, {"offset": -2}, "grid")


# -- relaxed projections ---------------------------------------------------------------------------------------------
def test_binary_relax_takes_the_loss_at_the_minimizer_of_its_pull() -> None:
    """argmin_x |x - y|^2 / 2 + lam |x - Q(y)|^2 / 2, by search; and at Q(y) itself in the last epochs."""
    method = BinaryRelax(epochs=8, lam=0.7, growth=1.5, exact=0.25)
    q, y = torch.tensor([0.3, -1.0]), torch.tensor([0.9, -0.2])
    for epoch in (0, 3):
        lam = 0.7 * 1.5**epoch
        grid = torch.linspace(-2, 2, 400_001, dtype=torch.float64)[:, None]
        cost = (grid - y).square() + lam * (grid - q).square()
        wanted = grid.reshape(-1)[cost.argmin(0)].float()
        torch.testing.assert_close(method.seen(q, y, epoch), wanted, rtol=0, atol=1e-5)
    assert torch.equal(method.seen(q, y, 6), q)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_prox_is_the_minimizer(norm: str) -> None:
    method = ProxQuant(epochs=1, lam=0.5, norm=norm)  # type: ignore[arg-type]
    q, w = torch.tensor([0.0, 0.0, 1.0, -1.0]), torch.tensor([0.03, -0.4, 1.2, -0.2])
    c = 0.1 * 0.5 * 4
    grid = torch.linspace(-2, 2, 400_001, dtype=torch.float64)[:, None]
    away = (grid - q).abs() if norm == "l1" else (grid - q).square() / 2
    wanted = grid.reshape(-1)[((grid - w).square() / 2 + c * away).argmin(0)].float()
    torch.testing.assert_close(method.moved(q, w, 0.1, 4), wanted, rtol=0, atol=1e-5)


def test_the_prox_is_of_the_distance_to_the_updated_weights_quantization() -> None:
    """A weight that crosses a threshold in a step is drawn to its new level (arXiv:1810.00861, algorithm 1)."""
    task = make_task(quantizer=Levels(k=3))
    method = ProxQuant(epochs=1, lr=0.1, lam=0.5, norm="l2")
    passing = _Passing(method, task)
    passing.begin(0)
    updated = {name: -w for name, w in task.weights().items()}
    task.assign(updated)
    quantized = task.reconstruct(task.quantize(updated))
    passing.step()
    for name, w in updated.items():
        torch.testing.assert_close(task.parameter(name).detach(), (w + 0.05 * quantized[name]) / 1.05)


def test_prox_quant_ends_with_weights_at_their_quantization() -> None:
    task = make_task(quantizer=Levels(k=3))
    ProxQuant(epochs=30, lr=0.02, batch_size=8, lam=2.0).train(task, None)
    again = task.reconstruct(task.quantize(task.weights()))
    for name, w in task.weights().items():
        torch.testing.assert_close(w, again[name], rtol=0, atol=1e-6)


def test_noise_quantizes_whole_blocks_at_its_share() -> None:
    method = QuantNoise(share=0.25, block=5)
    q, w = torch.ones(40_000), torch.zeros(40_000)
    torch.manual_seed(0)
    seen = method.seen(q, w, 0).reshape(-1, 5)
    assert bool(((seen == 0).all(1) | (seen == 1).all(1)).all())
    assert float(seen.mean()) == pytest.approx(0.25, abs=0.02)
    assert bool((QuantNoise(share=1.0, proxy=True).seen(q, q * 3, 0) == 0).all())


# -- learned steps ---------------------------------------------------------------------------------------------------
def test_a_steps_gradient_is_that_of_the_paper() -> None:
    """arXiv:1902.08153, eq. 3: -v/s + round(v/s) inside, -Q_N or Q_P outside; and eq. 5 for the weight."""
    task = make_task(quantizer=Steps())
    (group,) = task.quantize()
    grid = levels_of(group, task)
    upstream = {n: torch.randn(task.parameter(n).shape, generator=torch.Generator().manual_seed(1)) for n in task.names}
    tensors = grid.tensors()
    torch.stack([(tensors[n] * upstream[n]).sum() for n in task.names]).sum().backward()
    wanted = 0.0
    for name in task.names:
        ratio = task.parameter(name).detach().double() / 0.1
        slope = torch.where(ratio <= -2, -2.0, torch.where(ratio >= 3, 3.0, ratio.round() - ratio))
        wanted += float((slope * upstream[name]).sum())
        inside = (ratio > -2) & (ratio < 3)
        gradient = task.parameter(name).grad
        assert gradient is not None
        torch.testing.assert_close(gradient, upstream[name] * inside)
    step = grid.leaves["step"].grad
    assert step is not None
    assert float(step) == pytest.approx(wanted, rel=1e-4)
    assert grid.factor == pytest.approx(1 / math.sqrt(group.quantized.n * 3))
    for name, value in task.reconstruct([group]).items():
        torch.testing.assert_close(tensors[name].detach(), value)


@pytest.mark.parametrize("quantizer", [Steps(), Levels(k=5)])
def test_learned_levels_lower_the_training_loss(quantizer: Quantizer) -> None:
    task = make_task(quantizer=quantizer)
    start = task.quantize()
    result = LearnedStep(epochs=15, lr=0.02, batch_size=8).train(task, None)
    name = "step" if isinstance(quantizer, Steps) else "codebook"
    first, last = start[0].quantized.parameters[name], result.groups[0].quantized.parameters[name]
    assert not torch.equal(first, last)
    assert loss_of(make_task(quantizer=quantizer), task.reconstruct(result.groups)) < loss_of(
        make_task(quantizer=quantizer), task.reconstruct(start)
    )


def test_what_has_no_levels_to_learn_stays_and_is_told() -> None:
    class Two(Quantizer, name="vectors-for-cited"):
        def quantize(self, source: Source) -> Quantized:
            table = torch.tensor([[-0.1, 0.1], [0.1, 0.2]])
            symbols = torch.arange((source.n + 1) // 2, dtype=torch.int32) % 2
            return Quantized(symbols, 2, source.sizes, {"codebook": table})

    task = make_task(quantizer=Two())
    before = task.reconstruct(task.quantize())
    result = LearnedStep(epochs=1, lr=0.01, batch_size=8).train(task, None)
    assert type(levels_of(result.groups[0], task)) is Fixed
    assert set(result.notes) == set(task.names)
    for name, value in task.reconstruct(result.groups).items():
        assert torch.equal(value, before[name])


def loss_of(task: Task, tensors: dict[str, Tensor]) -> float:
    (batch,) = task.batches(batch_size=24)
    return float(task.loss(batch, tensors=tensors).detach())


# -- soft weight sharing ---------------------------------------------------------------------------------------------
def test_the_price_of_weights_is_a_mixtures_likelihood() -> None:
    task = make_task(quantizer=Levels(k=5))
    (group,) = task.quantize()
    method = SoftWeightSharing(zero=0.6, rate=0.3, shape=4.0)
    mixture = Mixture(method, group, task)
    for leaf in mixture.leaves.values():
        leaf.data = 0.3 * torch.randn(leaf.shape, generator=torch.Generator().manual_seed(len(leaf)))
    shares, means = mixture.log_shares().exp(), mixture.means()
    assert float(means[0]) == 0
    assert float(shares[0]) == pytest.approx(0.6)
    assert float(shares.sum()) == pytest.approx(1.0)
    logs = mixture.log_precisions()
    prior = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(shares), torch.distributions.Normal(means, (-0.5 * logs).exp())
    )
    w = torch.cat([task.parameter(n).reshape(-1) for n in task.names])
    gammas = [torch.distributions.Gamma(80.0 - 19, 6.0), *[torch.distributions.Gamma(4.0, 0.3)] * 4]
    hyper = sum(gamma.log_prob(p) for gamma, p in zip(gammas, logs.exp(), strict=True))
    none = sum(gamma.log_prob(torch.ones(())) + gamma.rate for gamma in gammas)  # the constants
    assert float(mixture.cost()) == pytest.approx(float(-prior.log_prob(w).sum() - hyper + none), rel=1e-4)


@pytest.mark.parametrize("n", [1, 100, 40_000])
def test_the_gradients_of_a_mixtures_likelihood_are_those_of_automatic_differentiation(n: int) -> None:
    chance = torch.Generator().manual_seed(n)
    drawn = [torch.randn(size, generator=chance) for size in (n, 5, 5, 5)]
    drawn[1] = torch.log_softmax(drawn[1], 0)
    drawn[3] *= 3

    def plain(w: Tensor, log_shares: Tensor, means: Tensor, logs: Tensor) -> Tensor:
        components = torch.distributions.Normal(means, (-0.5 * logs).exp())
        return -torch.logsumexp(log_shares + components.log_prob(w[:, None]), 1).sum()

    leaves = [value.double().requires_grad_() for value in drawn]
    expected = torch.autograd.grad(plain(*leaves), leaves)
    own = [value.clone().requires_grad_() for value in drawn]
    value = surprisal(*own)
    assert float(value) == pytest.approx(float(plain(*leaves)), rel=1e-5)
    for gradient, wanted in zip(torch.autograd.grad(2 * value, own), expected, strict=True):
        torch.testing.assert_close(gradient, 2 * wanted.float(), rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_components_that_are_the_same_become_one_and_zero_stays_zero() -> None:
    shares = torch.tensor([0.5, 0.1, 0.3, 0.1]).log()
    means, precisions = torch.tensor([0.0, 1.0, 1.1, 0.001]), torch.tensor([2.0, 2.0, 2.0, 2.0])
    owner, new = merged(shares, means, precisions, 0.1)
    assert owner.tolist() == [0, 1, 1, 0]
    torch.testing.assert_close(new, torch.tensor([0.0, (0.1 * 1.0 + 0.3 * 1.1) / 0.4]))
    assert merged(shares, means, precisions, 0.0)[0].tolist() == [0, 1, 2, 3]


def test_components_that_are_merged_by_way_of_a_third_stay_at_zero() -> None:
    """0 and 0.1 are close, 0.1 and 0.2 are, 0 and 0.2 are not."""
    shares, precisions = torch.tensor([0.5, 0.2, 0.3]).log(), torch.zeros(3)
    owner, new = merged(shares, torch.tensor([0.0, 0.2, 0.1]), precisions, 0.02)
    assert owner.tolist() == [0, 0, 0]
    assert new.tolist() == [0.0]


@pytest.mark.parametrize("method", [SoftWeightSharing(epochs=1), SoftToHard(epochs=1, beta=0.1)], ids=lambda m: m.name)
def test_a_network_of_which_a_pruner_left_nothing_can_be_trained(method: Training) -> None:
    task = make_task(quantizer=Levels())
    task.masks = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in task.weights().items()}
    task.assign({name: torch.zeros_like(w) for name, w in task.weights().items()})
    result = method.train(task, None)
    assert all(group.quantized.n == 0 for group in result.groups)
    assert not any(bool(w.any()) for w in task.weights().values())


def test_weights_gather_at_few_values(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(quantizer=Levels(k=9))
    (group,) = task.quantize()
    method = SoftWeightSharing(epochs=40, lr=0.01, batch_size=8, tau=0.5, zero=0.5, means_rate=1.0, mixture_rate=3.0)
    before, unsnapped = task.weights(), dict[str, Tensor]()
    snapped = Mixture.snapped

    def noted(self: Mixture) -> Group:
        unsnapped.update(task.weights())
        return snapped(self)

    monkeypatch.setattr(Mixture, "snapped", noted)
    result = method.train(task, None)
    deployed = torch.cat([t.reshape(-1) for t in task.reconstruct(result.groups).values()])
    assert 0 in deployed
    assert len(deployed.unique()) <= 9
    assert float((deployed == 0).float().mean()) > 0.3
    real = torch.cat([w.reshape(-1) for w in before.values()])
    was = torch.cat([t.reshape(-1) for t in task.reconstruct([group]).values()])
    moved = torch.cat([w.reshape(-1) for w in unsnapped.values()])
    assert float((moved - deployed).square().mean()) < 0.5 * float((real - was).square().mean())


# -- soft to hard ----------------------------------------------------------------------------------------------------
def test_soft_assignments_become_the_nearest_codewords() -> None:
    task = make_task(quantizer=Levels(k=6))
    (group,) = task.quantize()
    book = Codewords(256, group, task)
    book.harden(1e6)
    hard = task.reconstruct([group])
    for name, soft in book.soft(priced=False)[0].items():
        torch.testing.assert_close(soft.detach(), hard[name], rtol=0, atol=1e-4)
    book.harden(1e-6)  # every weight at the codebook's mean
    for soft in book.soft(priced=False)[0].values():
        torch.testing.assert_close(soft.detach(), torch.full_like(soft, float(book.table.mean())), rtol=0, atol=1e-3)


def test_the_price_of_hard_assignments_is_their_entropy() -> None:
    hard = torch.tensor([0, 0, 0, 1, 2, 2, 0, 0])
    phi = torch.nn.functional.one_hot(hard, 3).float()
    p = torch.tensor([5 / 8, 1 / 8, 2 / 8])
    assert float(cross_entropy_bits(phi, hard)) == pytest.approx(float(-(p * p.log2()).sum() * 8))


def test_a_dearer_bit_gives_a_lower_entropy() -> None:
    entropies = []
    for beta in (0.0, 2.0):
        task = make_task(quantizer=Levels(k=8))
        method = SoftToHard(epochs=25, lr=0.02, batch_size=8, beta=beta, growth=1.2)
        (group,) = method.train(task, None).groups
        counts = torch.bincount(group.quantized.symbols).double()
        p = counts / counts.sum()
        entropies.append(float(torch.special.entr(p).sum()) / math.log(2))
    assert entropies[1] < entropies[0] - 0.1


def test_vectors_are_learned_too() -> None:
    table = torch.tensor([[0.0, 0.0], [0.2, -0.1], [-0.2, 0.1], [0.3, 0.3]])

    class Four(Quantizer, name="four-vectors-for-cited"):
        def quantize(self, source: Source) -> Quantized:
            padded = torch.nn.functional.pad(source.weights, (0, source.n % 2)).reshape(-1, 2)
            symbols = torch.cdist(padded, table).argmin(1).int()
            return Quantized(symbols, 4, source.sizes, {"codebook": table})

    task = make_task(quantizer=Four())
    result = SoftToHard(epochs=10, lr=0.02, batch_size=8).train(task, None)
    learned = result.groups[0].quantized
    assert learned.dimension == 2
    assert not torch.equal(learned.parameters["codebook"], table)
    start = make_task(quantizer=Four())
    assert loss_of(start, {**task.reconstruct(result.groups), **result.raw_state}) < loss_of(
        start, start.reconstruct(start.quantize())
    )


# -- layer by layer --------------------------------------------------------------------------------------------------
def test_without_training_it_is_quantization_of_each_layer_alone() -> None:
    task = make_task(quantizer=Levels(k=4), granularity="layer")
    wanted = task.reconstruct(begin(task, None).groups)
    result = Iterative(epochs=0).train(task, None)
    for name, value in task.reconstruct(result.groups).items():
        assert torch.equal(value, wanted[name])


def test_later_layers_make_up_for_earlier_ones() -> None:
    task = make_task(quantizer=Levels(k=3), granularity="layer")
    result = Iterative(epochs=10, lr=5e-3, batch_size=8).train(task, None)
    start = make_task(quantizer=Levels(k=3), granularity="layer")
    assert loss_of(make_task(quantizer=Levels(k=3)), task.reconstruct(result.groups)) < loss_of(
        make_task(quantizer=Levels(k=3)), start.reconstruct(start.quantize())
    )
    assert [group.names for group in result.groups] == [(name,) for name in task.names]
    assert all(isinstance(group, Group) and group.quantized.alphabet == 3 for group in result.groups)
