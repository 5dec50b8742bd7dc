"""Factors of input channels move into the layer before where the network computes the same without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nqbench_quantizers.awq import AWQ
from nqbench_training.fold import Fold
from nqbench_training.second_moments import SecondMoments
from torch import Tensor, nn
from torch.nn import functional as F

from nqbench.api import Task, begin
from nqbench.api.toolkit.neighbours import neighbours
from nqbench.testing.tiny import TinyNet


class Block(nn.Module):
    """A residual block: conv1-bn1-relu-conv2 may fold, what is added may not; then a head behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.norm = nn.LayerNorm(4)
        self.q, self.k = nn.Linear(4, 5), nn.Linear(4, 5, bias=False)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        x = x + self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.norm(self.grouped(x).mean((2, 3)))
        return self.head(F.gelu(self.q(x)) * self.k(x))


class Net(TinyNet, name="fold-net"):
    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            module = Block()
            for name, value in module.state_dict().items():
                if "norm" in name or "bn" in name:
                    value.copy_(0.5 + torch.rand(value.shape)) if value.is_floating_point() else None
        return module.eval().to(device)


def task_of(**fields: Any) -> Task:
    model = Net()
    module = model.load(torch.device("cpu"))
    quantizer = AWQ(bits=6, granularity="channel", scales="float32", **fields)
    task = Task(model, module, model.compressible(module), {}, quantizer, "layer", SecondMoments(samples=32))
    task.sensed = task.sensitivity.sense(task, task.names)  # type: ignore[union-attr]
    return task


def outputs(task: Task, model: Any) -> Tensor:
    module = Net().load(torch.device("cpu"))
    state = {**model.raw_state, **task.reconstruct(model.groups)}
    module.load_state_dict(state)
    batch = next(Net().batches("train"))
    with torch.no_grad():
        return module(batch[0])


def stored(model: Any) -> set[str]:
    return {g.names[0] for g in model.groups if g.quantized.structure and "equalize" in g.quantized.structure.arrays}


def test_pairs_are_what_the_network_s_own_writing_says() -> None:
    module = Block().eval()
    names = [name for name, _ in module.named_parameters() if name.endswith("weight")]
    found = neighbours(module, names, lambda: module(torch.randn(2, 1, 6, 6)))
    assert {(pair.consumers, pair.producers) for pair in found} == {
        (("conv2.weight",), ("bn1.weight", "bn1.bias")),
        (("q.weight", "k.weight"), ("norm.weight", "norm.bias")),
    }


def test_a_weight_that_is_used_twice_or_returned_is_no_neighbour() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = F.relu(self.a(x))
            return self.b(self.b(y)), F.linear(y, self.a.weight)

    module = Tied()
    assert neighbours(module, ["a.weight", "b.weight"], lambda: module(torch.randn(2, 4))) == []


@pytest.mark.parametrize("exponent", [0.5, None])
def test_the_network_computes_the_same_and_the_factors_are_gone(exponent: float | None) -> None:
    """With one exponent q and k have the same factors, which then fold into their norm; searched ones may differ."""
    task = task_of(exponent=exponent)
    before = begin(task, None)
    after = Fold().train(task, before)
    assert "conv2.weight" in stored(before)
    assert "conv2.weight" not in stored(after)
    # what the stem's sum or a group of channels feeds stays
    assert stored(after) >= stored(before) - {"conv2.weight", "q.weight", "k.weight"}
    if exponent is not None:
        assert stored(before) - stored(after) == {"conv2.weight", "q.weight", "k.weight"}
    torch.testing.assert_close(outputs(task, after), outputs(task, before), rtol=1e-4, atol=1e-5)
    assert not torch.equal(after.raw_state["bn1.weight"], before.raw_state["bn1.weight"])


def test_a_quantized_layer_before_takes_them_in_its_scales() -> None:
    """Two linear layers with a ReLU between: the first one's scales by channel are multiplied, and so is its bias."""
    task = task_of(exponent=0.7)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)).eval()

    class Plain(TinyNet, name="fold-plain"):
        def load(self, device: torch.device) -> nn.Module:
            return module

    model = Plain()
    task = Task(model, module, model.compressible(module), {}, task.quantizer, "layer", task.sensitivity)
    task.sensed = task.sensitivity.sense(task, task.names)  # type: ignore[union-attr]
    before = begin(task, None)
    after = Fold().train(task, before)
    assert stored(before) - stored(after) == {"3.weight"}
    batch = next(model.batches("train"))[0]
    deployed = []
    for one in (before, after):
        module.load_state_dict({**one.raw_state, **task.reconstruct(one.groups)})
        with torch.no_grad():
            deployed.append(module(batch))
    torch.testing.assert_close(deployed[1], deployed[0], rtol=1e-4, atol=1e-5)


def test_a_layer_whose_weight_is_computed_takes_no_factors() -> None:
    """Multiplying its bias alone would give another network."""

    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(F.linear(x, 2 * self.a.weight, self.a.bias))
            z = F.layer_norm(self.b(y), (4,), self.norm.weight + 1, self.norm.bias)
            out: Tensor = F.linear(z, 2 * self.c.weight, self.c.bias)
            return out

    module = Computed()
    names = [name for name, _ in module.named_parameters() if name.endswith("weight")]
    assert neighbours(module, names, lambda: module(torch.randn(2, 4))) == []
    normed = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 4))
    assert neighbours(normed, ["2.weight"], lambda: normed(torch.randn(2, 4))) == []
