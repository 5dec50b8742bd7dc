"""A pruner takes six lines, and may ask for a sensitivity without importing the plugin that gives it."""

from __future__ import annotations

from pathlib import Path

import pluggy
import pytest
import torch
from nqbench_training.wanda import Wanda
from torch import Tensor, nn

from nqbench.api import BadInput, Pruned, Pruner, Task
from nqbench.pipeline.stage import uses_seed
from nqbench.registry import Registered, Registry, registry
from nqbench.suite import Suite, SuiteError, load
from nqbench.testing import BoundCheck, parametrize
from nqbench.testing.task_plugins import _MadeMoments
from nqbench.testing.tiny import tiny_task


class Largest(Pruner, name="largest"):
    """The whole of a stranger's magnitude pruner: its parameter and its scores."""

    share: float = 0.25
    """Of the weights that stay."""

    def prune(self, task: Task) -> Pruned:
        weights = {name: w.abs() for name, w in task.weights().items()}
        return Pruned.of(task, {name: w > w.flatten().quantile(1 - self.share) for name, w in weights.items()})


class Activations(Pruner, name="activations"):
    """A stranger's pruner by weights and inputs: it names a sensitivity, and imports none."""

    takes = frozenset({"second-moments"})
    sensitivity: str = "second-moments"
    """Where the moments of the inputs come from."""

    def prune(self, task: Task) -> Pruned:
        sensed, masks = task.sense() or {}, {}
        for name, weight in task.weights().items():
            scores = weight.abs().flatten(1) * sensed[name].diagonal(dim1=1, dim2=2).sqrt()
            masks[name] = (scores >= scores.median(1, keepdim=True).values).reshape(weight.shape)
        return Pruned.of(task, masks)


class Drawn(Pruner, name="drawn"):
    """Asks a sensitivity that draws."""

    takes = frozenset({"diagonal"})
    sensitivity: str = "hutchinson"


def with_strangers() -> Registry:
    known = registry()
    mine = {("pruner", cls.name): Registered(cls, "mine", "1") for cls in (Largest, Activations, Drawn)}
    return Registry(pluggy.PluginManager("nqbench"), known.found | mine)


def suite_of(folder: Path, pruners: str) -> Suite:
    path = folder / "suite.yaml"
    path.write_text(f"models: lenet300\npruners:\n  - {pruners}\nquantizers: kmeans\n")
    return load(path, registry=with_strangers())


@parametrize(Largest(), Activations(), Wanda(keep=0.1), Wanda(keep=1.0))
def test_a_pruner_of_a_few_lines_passes_every_check(check: BoundCheck) -> None:
    check()


def test_what_is_pruned_is_zero_and_the_network_is_left_as_it_is() -> None:
    task = tiny_task()
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    mask = torch.zeros(task.parameter("4.weight").shape, dtype=torch.uint8)
    mask[0] = 1
    with torch.no_grad():
        task.parameter("4.weight").neg_()
    pruned = Pruned.of(task, {"4.weight": mask})
    assert pruned.masks["4.weight"].dtype == torch.bool
    kept, gone = pruned.state["4.weight"][0], pruned.state["4.weight"][1:]
    assert torch.equal(kept, -before["4.weight"][0])
    assert not gone.any()
    assert not torch.signbit(gone).any()
    assert torch.equal(task.parameter("4.weight"), -before["4.weight"])
    assert set(pruned.state) == set(before)


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [("4.bias", (16,), "compressible are 0.weight"), ("4.weight", (3,), "another shape"), ("no", (1,), "'no'")],
)
def test_a_mask_that_fits_no_tensor_is_refused(name: str, shape: tuple[int, ...], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        Pruned.of(tiny_task(), {name: torch.ones(shape, dtype=torch.bool)})


def by_hand(weight: Tensor, inputs: Tensor, kept: int) -> Tensor:
    """As the paper has it: of every output, the ``kept`` largest |W_ij| ||X_j||. inputs: (samples, m)."""
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    norms = inputs.norm(dim=0)
    for i in range(len(weight)):
        order = sorted(range(weight.shape[1]), key=lambda j: -float(weight[i, j].abs() * norms[j]))
        mask[i, order[:kept]] = True
    return mask


def test_wanda_keeps_what_its_paper_says() -> None:
    generator = torch.Generator().manual_seed(0)
    task = tiny_task(sensitivity=_MadeMoments(asked="second-moments"))
    inputs = torch.randn(500, 6, generator=generator) * torch.tensor([5.0, 1.0, 0.1, 3.0, 0.5, 2.0])
    weight = torch.randn(8, 6, generator=generator)
    task.module = nn.Sequential(nn.Linear(6, 8, bias=False))
    task.names = ("0.weight",)
    with torch.no_grad():
        task.parameter("0.weight").copy_(weight)
    object.__setattr__(task, "sense", lambda names=None: {"0.weight": (inputs.T @ inputs / 500)[None]})
    pruned = Wanda(keep=0.5).prune(task)
    assert torch.equal(pruned.masks["0.weight"], by_hand(weight, inputs, 3))
    # the smallest squared error of the outputs that removing one weight of a row can make is that of the lowest score
    errors = (inputs**2).sum(0) * weight**2
    gone = ~Wanda(keep=5 / 6).prune(task).masks["0.weight"]
    assert torch.equal(gone.int().argmax(1), errors.argmin(1))


def test_a_grouped_layer_is_scored_by_its_own_groups_inputs() -> None:
    task = tiny_task()
    weight = torch.ones(4, 3)
    moments = torch.stack([torch.diag(torch.tensor([1.0, 4.0, 9.0])), torch.diag(torch.tensor([9.0, 4.0, 1.0]))])
    task.module, task.names = nn.Sequential(nn.Linear(3, 4, bias=False)), ("0.weight",)
    with torch.no_grad():
        task.parameter("0.weight").copy_(weight)
    object.__setattr__(task, "sense", lambda names=None: {"0.weight": moments})
    mask = Wanda(keep=1 / 3).prune(task).masks["0.weight"]
    assert mask.int().argmax(1).tolist() == [2, 2, 0, 0]


def masked(weight: Tensor, packed: Tensor, keep: float) -> Tensor:
    """Wanda's mask of a lone tensor with these second moments."""
    task = tiny_task()
    task.module, task.names = nn.ParameterDict({"w": nn.Parameter(weight)}), ("w",)
    object.__setattr__(task, "sense", lambda names=None: {"w": packed})
    return Wanda(keep=keep).prune(task).masks["w"]


def test_rows_lie_as_the_layer_has_them() -> None:
    """A weight whose first axis is the inputs' is pruned as its transpose is in a linear layer; a diagonal will do."""
    weight, x = torch.randn(6, 4), torch.randn(50, 6)
    gram = x.T @ x / 50
    plain = masked(weight.T.contiguous(), gram[None], 0.5)
    assert torch.equal(masked(weight, gram[None, None], 0.5), plain.T)
    assert torch.equal(masked(weight.T.contiguous(), gram.diagonal()[None, None], 0.5), plain)


def test_where_nothing_is_known_of_the_inputs_magnitudes_count() -> None:
    weight = torch.randn(5, 8)
    assert torch.equal(masked(weight, torch.zeros(1, 8, 8), 0.25), masked(weight, torch.eye(8)[None], 0.25))


def test_moments_of_another_layer_are_refused() -> None:
    with pytest.raises(BadInput, match=r"do not fit w \(5, 8\)"):
        masked(torch.randn(5, 8), torch.eye(7)[None], 0.5)
    with pytest.raises(BadInput, match="moments of w are not finite"):
        masked(torch.randn(5, 8), torch.full((1, 8, 8), torch.nan), 0.5)


def test_a_tensor_without_weights_has_none_to_prune() -> None:
    assert masked(torch.zeros(3, 0), torch.zeros(1, 1, 1), 0.5).shape == (3, 0)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("wanda: {sensitivity: fishy}", "3: pruners.*sensitivity: unknown sensitivity 'fishy'; did you mean 'fisher'"),
        ("wanda: {sensitivity: fisher}", r"3: pruners.*takes second-moments, not 'fisher' \(diagonal\)"),
        ("activations: {sensitivity: none}", r"takes second-moments, not 'none' \(none\)"),
    ],
)
def test_a_sensitivity_that_cannot_serve_is_told_with_its_line(tmp_path: Path, entry: str, told: str) -> None:
    with pytest.raises(SuiteError, match=told):
        suite_of(tmp_path, entry)


def test_a_pruner_draws_if_its_sensitivity_does(tmp_path: Path) -> None:
    for name, draws in (("drawn", True), ("activations", False), ("largest", False)):
        trials = suite_of(tmp_path, name).trials()
        choice = trials[0].pruner
        assert choice is not None
        assert uses_seed(choice, with_strangers()) == draws
