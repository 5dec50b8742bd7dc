"""What a task gives its trainings: sources, masks, shared views, other tensors in the network's places."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from nqbench.api import BadInput, Batch, Model, Quantized, Quantizer, Source, Split, Task


class Two(Model, name="two-layers"):
    def fingerprint(self) -> str:
        return "two"

    def load(self, device: torch.device) -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 4, 1, groups=2), nn.Flatten(), nn.Linear(4, 3, bias=False)).eval()

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        yield torch.ones(5, 2, 1, 1), torch.zeros(5, dtype=torch.long)


class Middle(Quantizer, name="middle"):
    """One codeword: the mean."""

    def quantize(self, source: Source) -> Quantized:
        source.view("seen", lambda s: float(s.weights.sum()))
        return Quantized.nearest(source, source.weights.mean().reshape(1))


@pytest.fixture
def task() -> Task:
    module = Two().load(torch.device("cpu"))
    masks = {"2.weight": torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) < 0.5}
    return Task(Two(), module, ("0.weight", "2.weight"), masks=masks, quantizer=Middle())


def test_the_test_split_is_out_of_reach(task: Task) -> None:
    with pytest.raises(BadInput, match="cannot reach the test split"):
        next(task.batches("test"))


def test_spread_undoes_kept_and_is_differentiable(task: Task) -> None:
    w = torch.arange(12.0).reshape(3, 4).requires_grad_()
    mask = task.masks["2.weight"]
    spread = task.spread("2.weight", task.kept("2.weight", w))
    assert torch.equal(spread, torch.where(mask, w, 0.0))
    spread.sum().backward()
    assert torch.equal(w.grad, mask.float())


def test_a_source_holds_the_kept_weights_in_order_with_their_places(task: Task) -> None:
    source = task.source(task.names)
    w0, w2, mask = task.parameter("0.weight"), task.parameter("2.weight"), task.masks["2.weight"]
    assert torch.equal(source.weights, torch.cat([w0.reshape(-1), w2[mask]]))
    assert [(t.name, t.start, t.stop, t.groups) for t in source.tensors] == [
        ("0.weight", 0, 4, 2),
        ("2.weight", 4, 4 + int(mask.sum()), 1),
    ]


def test_quantizing_and_reconstructing_keeps_pruned_places_at_zero(task: Task) -> None:
    task.granularity = "layer"
    groups = task.quantize()
    assert [g.names for g in groups] == [("0.weight",), ("2.weight",)]
    deployed = task.reconstruct(groups)
    mask = task.masks["2.weight"]
    mean = task.parameter("2.weight")[mask].mean()
    torch.testing.assert_close(deployed["2.weight"], torch.where(mask, mean, 0.0))


def test_views_are_shared_between_trials_on_the_same_weights_alone(task: Task) -> None:
    first = task.source(task.names)
    first.view("sum", lambda s: float(s.weights.sum()))
    assert task.source(task.names).shared is first.shared
    # training moves the network: a view of the old weights must not be served
    with torch.no_grad():
        task.parameter("0.weight").add_(1.0)
    moved = task.source(task.names)
    assert moved.view("sum", lambda s: float(s.weights.sum())) == pytest.approx(float(moved.weights.sum()))
    assert moved.view("sum", lambda s: 0.0) == pytest.approx(float(first.weights.sum()) + 4, rel=1e-5)


def test_other_tensors_stand_in_for_the_networks_own_differentiably(task: Task) -> None:
    batch = next(task.batches())
    other = torch.randn(3, 4, requires_grad=True)
    outputs = task.predict(batch, tensors={"2.weight": other})
    hidden = task.module[:2](batch[0])
    assert torch.equal(outputs, hidden @ other.T)
    own = task.parameter("2.weight").detach().clone()
    task.loss(batch, tensors={"2.weight": other}).backward(inputs=[other])
    assert other.grad is not None
    assert torch.equal(task.parameter("2.weight"), own)
    assert isinstance(task.predict(batch), Tensor)


def test_outputs_are_float32_under_autocast_too(task: Task) -> None:
    batch = next(task.batches())
    plain = task.predict(batch)
    stand_in = {"2.weight": task.parameter("2.weight").detach().clone()}
    with torch.autocast("cpu", torch.bfloat16):
        half = [task.predict(batch), task.predict(batch, tensors=stand_in)]
    for outputs in half:
        assert outputs.dtype == torch.float32
        assert not torch.equal(outputs, plain)
        torch.testing.assert_close(outputs, plain, rtol=0.05, atol=0.05)


def test_groups_of_a_layer_that_is_no_convolution_are_its_own_affair() -> None:
    class Grouped(nn.Linear):
        def __init__(self, groups: object) -> None:
            super().__init__(4, 6)
            self.groups = groups

    for groups in (nn.ModuleList(), "two", 4, 0, None):
        module = nn.Sequential(Grouped(groups))
        task = Task(Two(), module, ("0.weight",))
        assert [part.groups for part in task.source(("0.weight",)).tensors] == [1]
