"""Minimal random code learning: divergences against PyTorch's, choices against their probabilities, and what is coded
stays."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from line_networks import Lines
from nqbench_quantizers.kmeans import KMeans
from nqbench_quantizers.random_code import RandomCodeQuantizer
from nqbench_training import miracle
from nqbench_training.miracle import Miracle, _Coded, _in_code, _Posterior
from nqbench_training.soft_to_hard import SoftToHard
from test_limits_of_trainings import Half
from tiny_network import make_task
from torch import Tensor

from nqbench.api import BadInput, QuantizedModel, Task, begin
from nqbench.api.toolkit.curvature import mean_loss
from nqbench.api.toolkit.random_code import reconstructed


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))


def made(bits: int = 4, d: int = 8, **fields: Any) -> Task:
    return make_task(quantizer=RandomCodeQuantizer(bits=bits, d=d), **fields)


def coded_of(task: Task, price: float = 1e-3) -> tuple[_Coded, _Posterior]:
    (group,) = task.quantize()
    posterior = _Posterior(task, -4.0)
    return _Coded(group, task, posterior, price), posterior


def test_the_cost_is_the_priced_divergence_of_each_block() -> None:
    task = made()
    coded, posterior = coded_of(task)
    with torch.no_grad():
        coded.log_price.uniform_(-3, 1)
        for leaf in posterior.leaves.values():
            leaf.uniform_(-6, 0)
    mean = torch.cat([task.parameter(n).detach().reshape(-1) for n in task.names])
    spread = torch.cat([leaf.detach().reshape(-1) for leaf in posterior.leaves.values()])
    q = torch.distributions.Normal(mean, (spread / 2).exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), coded.code.spread(coded.log_scale.detach().exp()))
    each = torch.distributions.kl_divergence(q, p)[coded.code.order()]
    blocks = torch.stack([part.sum() for part in each.split(coded.code.d)])
    torch.testing.assert_close(coded.cost().detach(), (coded.log_price.exp() * blocks).sum())
    torch.testing.assert_close(coded.divergence, blocks)


def test_codewords_are_chosen_as_often_as_the_posterior_has_them_more_than_the_prior() -> None:
    task = made(bits=2, d=3)
    coded, posterior = coded_of(task)
    with torch.no_grad():
        for leaf in posterior.leaves.values():
            leaf.fill_(-3.0)
        means, log_variances, log_scales = (coded._blocks(part)[:1] for part in coded._posterior())
    values = log_scales.exp() * coded.code.codewords(0, 4)
    log_q = torch.distributions.Normal(means, (log_variances / 2).exp()).log_prob(values).sum(1)
    log_p = torch.distributions.Normal(0.0, log_scales.exp()).log_prob(values).sum(1)
    wanted = torch.softmax((log_q - log_p).double(), 0)
    counts = torch.zeros(4, dtype=torch.float64)
    draws = 4000
    for seed in range(draws):
        task.seed = seed
        counts[coded._chosen(means, log_variances, log_scales, 0)] += 1
    deviation = (wanted * (1 - wanted) / draws).sqrt()
    assert 0.02 < float(wanted.max()) < 0.999  # else the test could not fail
    assert bool(((counts / draws - wanted).abs() < 4 * deviation + 1e-3).all())


def test_the_last_block_is_chosen_by_its_own_weights_alone() -> None:
    task = made(bits=3, d=50)
    coded, _ = coded_of(task)
    assert coded.code.n % 50
    with torch.no_grad():
        means, log_variances, log_scales = coded._posterior()
        last = [coded._blocks(part)[-1:] for part in (means, log_variances, log_scales)]
        first = coded._chosen(*last, coded.code.blocks - 1)
        short = coded.code.n % 50
        for part in last:
            part[:, short:] = 7.0  # what is behind the end says nothing
        assert torch.equal(coded._chosen(*last, coded.code.blocks - 1), first)


def test_what_is_coded_has_no_noise_and_stays_while_the_others_move() -> None:
    task = made(bits=4, d=8)
    coded, posterior = coded_of(task)
    coded.code_to(3)
    where = coded.order[: 3 * 8]
    flat = torch.cat([task.parameter(n).detach().reshape(-1) for n in task.names])
    assert torch.equal(flat[where], reconstructed(coded.result().quantized)[where])
    posterior.local = []  # each weight is drawn itself
    drawn = posterior.drawn()
    moved = torch.cat([(drawn[n] - task.parameter(n)).detach().reshape(-1) for n in task.names]) != 0
    assert not bool(moved[where].any())
    assert int((~moved).sum()) == len(where)
    variance = torch.cat([posterior.variance(n).detach().reshape(-1) for n in task.names])
    assert torch.equal(variance != 0, moved)
    with torch.no_grad():
        for name in task.names:
            task.parameter(name).add_(1.0)
        coded.log_scale.add_(1.0)
    coded.hold()
    moved = torch.cat([task.parameter(n).detach().reshape(-1) for n in task.names])
    assert torch.equal(moved[where], flat[where])
    assert torch.equal(coded.log_scale.detach(), coded.fixed)
    rest = torch.ones(len(flat), dtype=torch.bool).scatter_(0, where, False)
    assert torch.equal(moved[rest], flat[rest] + 1.0)


def test_blocks_are_the_same_whether_coded_one_by_one_or_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for number, stops in enumerate(((5, 9, 10_000), (10_000,))):
        monkeypatch.setattr(miracle, "_AT_ONCE", 40 if number else 1 << 24)
        task = made()
        coded, _ = coded_of(task)
        for stop in stops:
            coded.code_to(min(stop, coded.code.blocks))
        ends.append(coded.symbols.clone())
    assert torch.equal(*ends)


def test_layers_draw_for_themselves_from_the_same_codewords() -> None:
    task = made(granularity="layer")
    posterior, words = _Posterior(task, -4.0), {}
    parts = [_Coded(g, task, posterior, 1e-3, number, words) for number, g in enumerate(task.quantize())]
    assert len(words) < len(parts)
    assert not torch.equal(parts[0]._gumbel(2, 0), parts[1]._gumbel(2, 0))


def test_prices_bring_divergences_to_what_a_codeword_can_say() -> None:
    """To 8 bits a block, from five times as many and more; and of the network what says something is left."""
    module = Lines().load(torch.device("cpu"))
    task = Task(Lines(), module, ("0.weight", "2.weight"), quantizer=RandomCodeQuantizer(bits=8, d=14))
    seen: list[tuple[float, int]] = []
    reprice = _Coded.reprice

    def noted(self: _Coded, rate: float) -> None:
        reprice(self, rate)
        seen.append((float(self.divergence.mean()) / math.log(256), int(self.done)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Coded, "reprice", noted)
        Miracle(epochs=400, lr=0.02, batch_size=128, optimizer="adam", coding=0.1, rate=0.02).train(task, None)
    before = [ratio for ratio, done in seen if not done]
    assert max(before) > 4
    assert before[-1] == pytest.approx(1, abs=0.15)
    assert mean_loss(task, 512) < 50 * 5 / 5  # 5: the variance of y


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("granularity", ["global", "layer"])
def test_what_is_trained_around_is_what_the_file_says(
    granularity: Any, pruned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = made(granularity=granularity)
    trained: dict[str, Tensor] = {}
    deployed_as = miracle.deployed_as

    def noted(task: Task, *args: Any) -> Any:
        trained.update({name: task.parameter(name).detach().clone() for name in task.names})
        return deployed_as(task, *args)

    monkeypatch.setattr(miracle, "deployed_as", noted)
    if pruned:
        name = task.names[0]
        task.masks = {name: torch.rand_like(task.parameter(name)) > 0.5}
        task.assign({name: task.parameter(name) * task.masks[name]})
    result = Miracle(epochs=3, lr=0.01, batch_size=8).train(task, None)
    for name, value in task.reconstruct(result.groups).items():
        assert torch.equal(trained[name], value)
        assert name not in task.masks or not bool(value[~task.masks[name]].any())
    assert all(group.quantized.symbols.numel() == -(-group.quantized.n // 8) for group in result.groups)


@pytest.mark.parametrize("granularity", ["global", "layer"])
def test_what_is_interrupted_while_blocks_are_coded_goes_on_to_the_same_bits(
    granularity: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Miracle(epochs=6, lr=0.01, batch_size=8, coding=0.7)

    def run(workdir: Path) -> QuantizedModel:
        task = made(granularity=granularity)
        task.workdir = workdir
        return plugin.train(task, None)

    whole = run(tmp_path / "a")
    fit_network, epochs = miracle.fit_network, []

    def stopped(*args: Any, before_epoch: Any, **fields: Any) -> Any:
        def before(epoch: int) -> None:
            epochs.append(epoch)
            if len(epochs) == 5:
                raise KeyboardInterrupt
            before_epoch(epoch)

        return fit_network(*args, before_epoch=before, **fields)

    monkeypatch.setattr(miracle, "fit_network", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b")
    again = run(tmp_path / "b")
    assert epochs == [0, 1, 2, 3, 4, 4, 5]
    for one, other in zip(whole.groups, again.groups, strict=True):
        assert torch.equal(one.quantized.symbols, other.quantized.symbols)
        assert torch.equal(one.quantized.parameters["scale"], other.quantized.parameters["scale"])
    assert all(torch.equal(tensor, again.raw_state[name]) for name, tensor in whole.raw_state.items())


def test_a_network_of_half_precision_learns_variances() -> None:
    task = make_task(Half(), quantizer=RandomCodeQuantizer(bits=4, d=8))
    posterior = _Posterior(task, -6.5)
    first = {name: leaf.detach().clone() for name, leaf in posterior.leaves.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miracle, "_Posterior", lambda *args: posterior)
        result = Miracle(epochs=10, batch_size=8).train(task, None)
    for name, leaf in posterior.leaves.items():
        assert float((leaf.detach() - first[name]).abs().max()) > 0.03, name
    for name, value in task.reconstruct(result.groups).items():
        assert torch.equal(task.parameter(name).detach(), value.to(torch.bfloat16)), name


def test_too_many_codewords_are_refused_in_a_line() -> None:
    task = made(bits=20, d=65)
    (group,) = task.quantize(names=task.names[:1])
    posterior = _Posterior(task, -4.0)
    with pytest.raises(BadInput, match="1048576 codewords of 65 numbers are too many"):
        _Coded(group, task, posterior, 1e-3)


def test_notes_of_the_training_before_stay() -> None:
    task = made()
    start = begin(task, None)
    start = replace(start, notes={task.names[0]: "said"})
    assert Miracle(epochs=1, batch_size=8).train(task, start).notes == start.notes


def test_another_quantizer_is_refused_in_a_line_and_another_form_is_coded_anew() -> None:
    with pytest.raises(BadInput, match="by the quantizer 'random-code', not by 'kmeans'"):
        Miracle().train(make_task(quantizer=KMeans(k=4)), None)
    task = made()
    start = SoftToHard(epochs=1, lr=1e-9, batch_size=8).train(task, None)
    assert start.groups[0].quantized.form == "lookup"
    assert _in_code(start.groups[0], task).quantized.form == "plugin"
    assert Miracle(epochs=1, batch_size=8).train(task, start).groups[0].quantized.form == "plugin"


def test_without_an_epoch_blocks_are_near_the_network_s() -> None:
    """With next to no noise in the posterior the likeliest codeword is the nearest."""
    task = made(bits=10, d=2)
    before = {name: task.parameter(name).detach().clone() for name in task.names}
    (plain,) = task.quantize()
    nearest, coded = (
        sum(float((value - before[name]).square().sum()) for name, value in task.reconstruct([group]).items())
        for group in (plain, Miracle(epochs=0, log_variance=-14.0).train(task, None).groups[0])
    )
    assert coded < 2 * nearest
    assert Miracle(epochs=0).uses_seed()
