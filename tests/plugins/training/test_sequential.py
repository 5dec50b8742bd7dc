"""Sensing layer by layer: one pass for all, passes that stop early, and results that become one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from nqbench_quantizers.gptq import GPTQ
from nqbench_training import sequential
from nqbench_training.grams import Products
from nqbench_training.second_moments import SecondMoments
from nqbench_training.sequential import InParts, Sequential, layer_uses, watched
from nqbench_training.shared_grid import merged
from tiny_network import Levels, Tiny, make_task
from torch import Tensor, nn

from nqbench.api import Group, Quantized, Task, dither
from nqbench.api.batches import joined


class Twice(nn.Module):
    """One layer used twice, and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 3)
        self.again = nn.Linear(6, 6)
        self.first = nn.Linear(72, 6)
        self.never = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1)).tanh()
        return self.last(self.again(self.again(x).tanh()))


class TwiceModel(Tiny, name="twice"):
    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return Twice().eval()


def sequenced(passes: str, model: Tiny | None = None, granularity: str = "layer") -> tuple[Task, dict[str, Tensor]]:
    task = make_task(model, quantizer=GPTQ(step=0.07), granularity=granularity, sensitivity=SecondMoments())
    result = Sequential(passes=passes, correction=0).train(task, None)
    return task, task.reconstruct(result.groups)


def test_one_pass_gives_what_a_pass_for_each_layer_gives() -> None:
    one, each = sequenced("one")[1], sequenced("each")[1]
    assert all(torch.equal(one[name], each[name]) for name in each)


@pytest.mark.parametrize("model", [None, TwiceModel()])
@pytest.mark.parametrize("correction", [0.0, 1.0])
def test_samples_that_go_through_in_parts_give_what_all_at_once_give(model: Tiny | None, correction: float) -> None:
    found = []
    for memory in (4096, 1e-6):
        how = Sequential(correction=correction, memory=memory, blocks=100, columns=None)
        task = make_task(model, quantizer=GPTQ(step=0.07), granularity="layer", sensitivity=SecondMoments())
        found.append(task.reconstruct(how.train(task, None).groups))
    whole, parts = found
    for name in whole:  # sums in another order may put a weight that lies between two points on the other one
        assert float((whole[name] - parts[name]).abs().max()) <= 0.0701
        assert float((whole[name] != parts[name]).double().mean()) < 0.02, name


def test_no_more_is_held_at_once_than_a_few_samples_and_a_run_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, held = 0, []
    predict = Tiny.predict

    def seen(self: Tiny, module: nn.Module, batch: Any) -> Tensor:
        nonlocal largest
        largest = max(largest, len(batch[0]))
        return predict(self, module, batch)

    block = InParts._block

    def counted(self: InParts, names: list[str], samples: int) -> None:
        held.append(len(names))
        block(self, names, samples)

    monkeypatch.setattr(Tiny, "predict", seen)
    monkeypatch.setattr(InParts, "_block", counted)
    task = make_task(quantizer=GPTQ(step=0.07), granularity="layer", sensitivity=SecondMoments())
    _, each = watched(task)
    largest = 0
    result = Sequential(memory=4.5 * each / 2**20, blocks=2).train(task, None)
    assert largest == 8  # four samples, in the network as it was and as it is
    assert held == [2] * (len(task.names) // 2) + [1] * (len(task.names) % 2)
    assert sorted(name for group in result.groups for name in group.names) == sorted(task.names)


@pytest.mark.parametrize(
    ("fitting", "enough", "used"), [(20.5, 16, 20), (20.5, 20, 20), (20.5, 24, None), (20.5, None, None)]
)
def test_where_enough_samples_fit_those_alone_go_through_in_one_pass(
    monkeypatch: pytest.MonkeyPatch, fitting: float, enough: int | None, used: int | None
) -> None:
    parts = []
    run = InParts.run
    monkeypatch.setattr(InParts, "run", lambda self, samples: (parts.append(samples), run(self, samples)))

    def result(samples: int, how: Sequential) -> dict[str, Tensor]:
        task = make_task(quantizer=GPTQ(step=0.07), granularity="layer", sensitivity=SecondMoments(samples=samples))
        return dict(task.reconstruct(how.train(task, None).groups))

    each = watched(make_task())[1]
    how = Sequential(memory=fitting * each / 2**20, enough=enough)
    found = result(1000, how)
    if used is None:
        assert parts == [1000], "all of them, in parts"
        return
    assert parts == []
    expected = result(used, Sequential())
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_each_layer_is_quantized_behind_the_quantized_ones() -> None:
    task, deployed = sequenced("one")
    plain = make_task(quantizer=GPTQ(step=0.07), sensitivity=SecondMoments(), granularity="layer")
    for name in plain.names:
        (group,) = plain.quantize(names=[name], sensed=SecondMoments().sense(plain, [name]))
        assert torch.equal(plain.reconstruct([group])[name], deployed[name])
        plain.assign({name: deployed[name]})
    assert all(torch.equal(task.parameter(name), deployed[name]) for name in task.names)


def test_a_layer_used_twice_is_sensed_over_both_uses() -> None:
    task, deployed = sequenced("one", TwiceModel())
    x, _ = next(task.batches("train", batch_size=100))
    first = nn.functional.linear(x.flatten(1), deployed["first.weight"], task.module.first.bias).tanh()
    float_again = TwiceModel().load(torch.device("cpu")).again
    both = torch.cat([first, float_again(first).tanh()]).detach()
    fresh = make_task(TwiceModel(), quantizer=GPTQ(step=0.07), granularity="layer", sensitivity=SecondMoments())
    (group,) = fresh.quantize(names=["again.weight"], sensed={"again.weight": (both.T @ both / len(both))[None]})
    assert torch.equal(fresh.reconstruct([group])["again.weight"], deployed["again.weight"])


def test_a_layer_that_is_never_used_has_no_moments_and_is_rounded() -> None:
    task, deployed = sequenced("one", TwiceModel())
    assert torch.equal(SecondMoments().sense(task, ["never.weight"])["never.weight"], torch.zeros(1, 1, 5))
    w = TwiceModel().load(torch.device("cpu")).never.weight
    step = torch.tensor(0.07)
    torch.testing.assert_close(deployed["never.weight"], (w.double() / float(step)).round().float() * step)


def test_uses_are_counted_in_the_order_of_first_calls() -> None:
    task = make_task(TwiceModel())
    assert list(layer_uses(task).items()) == [("first.weight", 1), ("again.weight", 2), ("last.weight", 1)]


def test_sensing_stops_where_nothing_more_is_needed(task: Task) -> None:
    calls: list[str] = []
    for name in ("3", "6"):
        layer = task.module.get_submodule(name)
        layer.register_forward_pre_hook(lambda *_, name=name: calls.append(name))  # type: ignore[misc]
    batches = list(task.batches("train", batch_size=8))
    task.batches = lambda *_, **__: iter(batches)  # type: ignore[method-assign, assignment]
    whole = SecondMoments().sense(task, ["3.weight"])["3.weight"]
    # the first batch goes all the way; the others never get behind the layer asked for
    assert calls == ["3", "6", "3", "3"]
    torch.testing.assert_close(whole, SecondMoments().sense(make_task(), ["3.weight"])["3.weight"])


def test_batches_of_any_make_are_joined() -> None:
    parts = [{"x": torch.ones(n, 2), "y": (torch.zeros(n), torch.full((n,), n))} for n in (2, 3)]
    whole = joined(parts)
    assert whole["x"].shape == (5, 2)
    assert whole["y"][1].tolist() == [2, 2, 3, 3, 3]


def test_scope_global_puts_layers_on_one_grid_together_and_deploys_the_same() -> None:
    task, together = sequenced("one", granularity="global")
    _, apart = sequenced("one", granularity="layer")
    assert all(torch.equal(together[name], apart[name]) for name in apart)
    fresh = make_task(quantizer=GPTQ(step=0.07), granularity="global", sensitivity=SecondMoments())
    (group,) = Sequential(correction=0).train(fresh, None).groups
    assert group.names == tuple(task.names)
    assert list(group.quantized.parameters) == ["step"]
    assert int(group.quantized.symbols.min()) == 0
    assert int(group.quantized.symbols.max()) == group.quantized.alphabet - 1


def test_dithered_grids_are_put_together_too_and_start_anew_in_each_layer() -> None:
    fresh = make_task(quantizer=GPTQ(step=0.07, dither=True), granularity="global", sensitivity=SecondMoments(), seed=3)
    (group,) = Sequential().train(fresh, None).groups
    q = group.quantized
    assert group.names == tuple(fresh.names)
    assert dict(q.side) == {"offset": q.side["offset"], "seed": 3}
    for name, values in zip(group.names, q.reconstruct().split(q.sizes), strict=True):
        assert torch.equal(values.reshape(fresh.parameter(name).shape), fresh.parameter(name)), "as the network has it"
        off = values / q.parameters["step"] + dither(3, 1.0, values.numel())
        torch.testing.assert_close(off, off.round(), atol=1e-4, rtol=0)


def test_results_on_other_grids_stay_apart() -> None:
    def grid(step: float, offset: float) -> Group:
        symbols = torch.tensor([0, 2, 1], dtype=torch.int32)
        q = Quantized(symbols, 3, (3,), {"step": torch.tensor([step])}, {"offset": offset}, "grid")
        return Group((f"{step} {offset}",), q)

    empty = Group(("gone",), Quantized(torch.empty(0, dtype=torch.int32), 1, (0,), side={"codebook": torch.zeros(1)}))
    assert len(merged((grid(0.1, -1), grid(0.2, -1)))) == 2
    assert len(merged((grid(0.1, -1), grid(0.1, -1.5)))) == 2
    assert merged((empty,)) == (empty,)
    (one,) = merged((grid(0.1, -1), empty, grid(0.1, -4)))
    assert one.quantized.sizes == (3, 0, 3)
    torch.testing.assert_close(one.quantized.reconstruct(), torch.tensor([-1, 1, 0, -4, -2, -3]) * 0.1)
    task = make_task(quantizer=Levels(k=3), granularity="global")
    assert len(Sequential().train(task, None).groups) == len(task.names)


class Attention(nn.Module):
    """Three weights with the same inputs, which are not those of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(x.reshape(len(x), -1, 6))
        return self.out(torch.softmax(self.q(h) * self.k(h), -1) * self.v(h)).mean(1)


class AttentionModel(Tiny, name="attention"):
    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            return Attention().eval()


@pytest.mark.parametrize("correction", [0.0, 1.0])
def test_products_of_inputs_that_weights_share_are_computed_once(
    monkeypatch: pytest.MonkeyPatch, correction: float
) -> None:
    counts = Counter[str]()
    add = Products.add

    def counted(self: Products, a: torch.Tensor, b: torch.Tensor | None = None) -> None:
        counts["moments" if b is None else "shift"] += 1
        add(self, a, b)

    def symbols() -> torch.Tensor:
        how = {"quantizer": GPTQ(step=0.07), "granularity": "layer", "sensitivity": SecondMoments()}
        task = make_task(AttentionModel(), **how)
        groups = Sequential(correction=correction).train(task, None).groups
        return torch.cat([group.quantized.symbols for group in groups])

    monkeypatch.setattr(Products, "add", counted)
    once = symbols()
    assert counts == ({"moments": 2, "shift": 2} if correction else {"moments": 2})
    monkeypatch.setattr(sequential._Inputs, "are_those_of", lambda *given: False)
    assert torch.equal(symbols(), once)


@pytest.mark.parametrize(("positions", "taken"), [(None, 24), (24 * 12, 24), (20 * 12, 20), (1, 16)])
def test_of_windows_as_many_are_taken_as_have_so_many_vectors(positions: int | None, taken: int) -> None:
    sensitivity = SecondMoments(samples=24, positions=positions)
    task = make_task(AttentionModel(), quantizer=GPTQ(step=0.07), granularity="layer", sensitivity=sensitivity)
    assert sensitivity.taken(task, task.names) == taken  # images of 2 x 6 x 6 are windows of 12 vectors here
    fewer = SecondMoments(samples=taken)
    wanted = make_task(AttentionModel(), quantizer=GPTQ(step=0.07), granularity="layer", sensitivity=fewer)
    assert all(torch.equal(a, b) for a, b in zip(task.sense().values(), wanted.sense().values(), strict=True))
    found = [Sequential().train(one, None).groups for one in (task, wanted)]
    assert all(torch.equal(a.quantized.symbols, b.quantized.symbols) for a, b in zip(*found, strict=True))


def test_vectors_of_convolutions_do_not_count(task: Task) -> None:
    assert SecondMoments(samples=24, positions=17).taken(task, task.names) == 17
