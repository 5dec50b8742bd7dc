"""What trainings of levels move, and what they must leave: tensors of equal weights, held entries, structures."""

from __future__ import annotations

import math

import pytest
import torch
from nqbench_quantizers.entquant import EntQuant
from nqbench_quantizers.kmeans import KMeans
from nqbench_quantizers.low_rank import LowRank
from nqbench_quantizers.rtn import RTN
from nqbench_quantizers.scaled import Binary, PowersOfTwo, Ternary
from nqbench_quantizers.uniform import Uniform
from nqbench_training.alternating import LearningCompression
from nqbench_training.finetune import FineTune
from nqbench_training.iterative import Iterative
from nqbench_training.learned_step import Fixed, LearnedStep, Scale, levels_of
from nqbench_training.shared_grid import merged
from nqbench_training.soft_to_hard import Codewords
from nqbench_training.soft_weight_sharing import Mixture, SoftWeightSharing
from tiny_network import Levels, make_task
from torch import Tensor

from nqbench.api import BadInput, Group, Quantized, QuantizedModel, Quantizer, Source, Training
from nqbench.api.toolkit.curvature import mean_loss


# -- learned steps and scales ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("constant", [-0.7, 0.0, 0.3])
def test_a_tensor_of_equal_weights_stays_beside_those_whose_steps_are_learned(constant: float) -> None:
    """Its step makes a level its value: negative where the two differ in sign, and 0 for 0. A positive one is learned
    like any."""
    task = make_task(quantizer=Uniform(k=8, centroids="middle", granularity="layer"))
    name = task.names[1]
    task.assign({name: torch.full_like(task.parameter(name), constant)})
    before = task.quantize()
    result = LearnedStep(epochs=3, lr=0.02, batch_size=8).train(task, None)
    after = task.reconstruct(result.groups)
    torch.testing.assert_close(after[name], torch.full_like(after[name], constant), rtol=1e-3, atol=0)
    moved = [not torch.equal(after[n], task.reconstruct(before)[n]) for n in task.names if n != name]
    assert any(moved)  # nothing reaches what lies before zeros
    assert all(bool(torch.isfinite(t).all()) for t in after.values())


def test_a_grid_of_equal_weights_alone_has_nothing_to_learn() -> None:
    task = make_task(quantizer=Uniform())
    name = task.names[0]
    n = task.parameter(name).numel()
    q = Quantized(torch.zeros(n, dtype=torch.int32), 1, (n,), {"step": torch.zeros(1)}, {"offset": 1}, "grid")
    assert type(levels_of(Group((name,), q), task)) is Fixed


@pytest.mark.parametrize("quantizer", [Binary(), Ternary(), PowersOfTwo(exponents=2)], ids=lambda q: q.name)
def test_a_scale_and_the_weights_are_learned(quantizer: Quantizer) -> None:
    """dq/ds = c_j and dq/dw = 1; the result is the nearest of the scaled codewords and loses less than before."""
    task = make_task(quantizer=quantizer)
    (group,) = task.quantize()
    own = levels_of(group, task)
    assert isinstance(own, Scale)
    upstream = {n: torch.randn(task.parameter(n).shape, generator=torch.Generator().manual_seed(1)) for n in task.names}
    tensors = own.tensors()
    for name, value in task.reconstruct([group]).items():
        torch.testing.assert_close(tensors[name].detach(), value)
    torch.stack([(tensors[n] * upstream[n]).sum() for n in task.names]).sum().backward()
    table = group.quantized.side["codebook"]
    assert isinstance(table, Tensor)
    flat = torch.cat([upstream[n].reshape(-1) for n in task.names])
    gradient = own.leaves["scale"].grad
    assert gradient is not None
    assert float(gradient) == pytest.approx(float((flat * table[group.quantized.symbols.long()]).sum()), rel=1e-4)
    assert own.factor == pytest.approx(1 / math.sqrt(group.quantized.n))
    for name in task.names:
        torch.testing.assert_close(task.parameter(name).grad, upstream[name])
    before = mean_loss(make_task(), 1000, task.reconstruct([group]))
    task = make_task(quantizer=quantizer)
    result = LearnedStep(epochs=20, lr=0.02, batch_size=8).train(task, None)
    assert not result.notes
    assert float(result.groups[0].quantized.parameters["scale"]) != float(group.quantized.parameters["scale"])
    reached = task.reconstruct(result.groups) | dict(result.raw_state)
    assert mean_loss(make_task(), 1000, reached) < before - 0.05


# -- held codewords, other parameters --------------------------------------------------------------------------------
@pytest.mark.parametrize("training", [FineTune, Iterative])
def test_a_decay_moves_no_held_codeword(training: type[Training]) -> None:
    task = make_task(quantizer=KMeans(k=4, fixed=(0.5,)))
    made = training(epochs=3, lr=0.1, batch_size=8, weight_decay=0.5)  # type: ignore[call-arg]
    for group in made.train(task, None).groups:
        table, held = group.quantized.parameters["codebook"], group.quantized.held["codebook"]
        assert table[held].tolist() == [0.5]


def test_grids_of_several_scales_are_not_merged() -> None:
    """One is empty: a network of which a pruner left weights in one tensor alone."""
    w = torch.randn(64, generator=torch.Generator().manual_seed(0)).reshape(8, 8)
    full = RTN(bits=4, granularity="layer").quantize(Source.of([("a", w)]))
    none = Quantized(torch.empty(0, dtype=torch.int32), 1, (0,), {"step": torch.ones(1)}, {"offset": 0}, "grid")
    groups = (Group(("a",), full), Group(("b",), none))
    assert merged(groups) == groups


def test_soft_weight_sharing_s_rates_are_those_of_sgd_too() -> None:
    """A mean moves by its rate times the learning rate times its gradient."""
    method = SoftWeightSharing(epochs=1, lr=0.1, optimizer="sgd", means_rate=0.2)
    task = make_task(quantizer=Levels(k=4))
    (group,) = task.quantize()
    mixture = Mixture(method, group, task)
    wanted = torch.randn(4, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad((mixture.means() * wanted).sum(), mixture.leaves["means"])
    before = mixture.means().detach()
    with torch.no_grad():
        mixture.leaves["means"] -= 0.1 * slope
    torch.testing.assert_close(mixture.means().detach()[1:], before[1:] - 0.1 * 0.2 * wanted[1:])


def test_codewords_near_one_another_are_told_apart_in_bfloat16() -> None:
    task = make_task(quantizer=Levels(k=4))
    names, w = task.names, task.weights()
    n = sum(t.numel() for t in w.values())
    table = torch.tensor([0.5, 0.501])
    q = Quantized(torch.zeros(n, dtype=torch.int32), 2, tuple(t.numel() for t in w.values()), {"codebook": table})
    codewords = Codewords(256, Group(names, q), task)
    codewords.harden(1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tensors, _ = codewords.soft(priced=False)
    flat = torch.cat([t.reshape(-1) for t in tensors.values()])
    assert flat.dtype == torch.float32
    assert 0.5 < float(flat.detach().mean()) < 0.501
    (slope,) = torch.autograd.grad(flat.sum(), task.parameter(names[0]))
    assert bool((slope != 0).any())


# -- the C step ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fixed", [(), (0.0,)])
def test_a_warm_start_with_fewer_codewords_or_fixed_ones_never_ends_worse(fixed: tuple[float, ...]) -> None:
    """Codewords without members are dropped: those that are left are started from, none the less."""
    source = Source(torch.randn(3000, generator=torch.Generator().manual_seed(0)))
    previous = KMeans(k=5, fixed=fixed).quantize(source)
    table = previous.parameters["codebook"]
    again = KMeans(k=8, fixed=fixed, iterations=0).quantize(source.with_(previous=previous))
    assert set(table.tolist()) <= set(again.parameters["codebook"].tolist())

    def error(q: Quantized) -> float:
        return float((q.parameters["codebook"][q.symbols.long()] - source.weights).square().mean())

    assert error(again) <= error(previous)
    assert error(KMeans(k=8, fixed=fixed).quantize(source.with_(previous=previous))) <= error(again)


def test_learning_compression_prices_numbers_of_low_rank_factors() -> None:
    """The rank of the C step is the cheapest of mu/2 |W - A B|^2 + alpha numbers / n."""
    task = make_task(quantizer=LowRank(step=1.0))
    lc = LearningCompression(iterations=1, epochs=1, first_epochs=1, mu0=0.7, alpha=1.5, lr=1e-9, decay=1.0)
    n = sum(task.parameter(name).numel() for name in task.names)
    weights = {name: task.parameter(name).detach().clone() for name in task.names}
    result = lc.train(task, None)
    ranks = result.groups[0].quantized.side["ranks"]
    assert isinstance(ranks, Tensor)
    for name, rank in zip(result.groups[0].names, ranks.tolist(), strict=True):
        w = weights[name].flatten(1).double()
        s = torch.linalg.svdvals(w)
        costs = [0.35 * float(s[r:].square().sum()) + 1.5 * r * sum(w.shape) / n for r in range(len(s) + 1)]
        assert rank == min(range(len(costs)), key=costs.__getitem__)
    assert bool((ranks > 0).any())


def test_a_price_in_other_units_is_refused() -> None:
    lc = LearningCompression(iterations=1, epochs=1, first_epochs=1, alpha=0.1)
    with pytest.raises(BadInput, match="quantizer 'entquant' has no price in squared weights"):
        lc.train(make_task(quantizer=EntQuant()), None)


def test_a_start_is_what_is_fine_tuned_with_its_held_entries() -> None:
    task = make_task(quantizer=KMeans(k=4, fixed=(0.5,)))
    start = QuantizedModel(task.quantize(), task.raw_state())
    after = FineTune(epochs=1, lr=0.1, batch_size=8).train(task, start).groups[0].quantized
    first = start.groups[0].quantized
    assert torch.equal(after.symbols, first.symbols)
    assert not torch.equal(after.parameters["codebook"], first.parameters["codebook"])
