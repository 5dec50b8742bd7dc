"""Networks that compute what is left of them: outputs and gradients against the whole network with zeros in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from nqbench_training.compact import compact, live_parts, masked_parts
from nqbench_training.optimised import fit_network
from tiny_network import Tiny
from torch import Tensor, nn

from nqbench.api import Batch, Model, Split, Task
from nqbench.api.toolkit.optimise import Recipe


class Given(Tiny, name="given-tiny"):
    """A network and the shape of its inputs."""

    def __init__(self, module: nn.Module, *shape: int) -> None:
        super().__init__()
        self.__dict__["given"] = (module, shape)

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(1)
        # half of the inputs are 0 in all that is looked at: they are no structure
        x = torch.randn(8, *self.__dict__["given"][1], generator=generator)
        x.view(8, -1)[:, ::2] = 0
        yield x, torch.randint(0, 3, (8,), generator=generator)


class Tokens(nn.Module):
    """A linear layer over the last of three axes, used twice, one that is not used, and a norm that moves zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.norm, self.last = (
            nn.Linear(5, 6),
            nn.Linear(6, 6),
            nn.LayerNorm(6),
            nn.Linear(6, 3),
        )
        self.idle = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.again(torch.relu(self.again(x))))
        return self.last(self.norm(x)).mean(1)


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...], dict[str, list[int]]]]:
    """Network, shape of an input, and the outputs that are left of some layers."""
    lenet = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 7), nn.Tanh(),
        nn.Linear(7, 3),
    )  # fmt: skip
    series = nn.Sequential(nn.Conv1d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv1d(5, 3, 1, bias=False), nn.Flatten(1))
    head = nn.Sequential(series, nn.Linear(12, 3))
    grouped = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(36, 3))
    return {
        "pooled": (lenet, (1, 16, 16), {"0.weight": [1, 4], "2.weight": [0, 2, 3], "5.weight": [6]}),
        "series": (head, (2, 4), {"0.0.weight": [0, 3]}),
        "groups between": (grouped, (2, 3, 3), {"0.weight": [2]}),
        "tokens": (Tokens(), (4, 5), {"first.weight": [0, 5], "again.weight": [1, 2, 3]}),
        "nothing cut": (Tokens(), (4, 5), {}),
    }


@pytest.fixture(params=list(networks()))
def cut(request: pytest.FixtureRequest) -> tuple[Task, dict[str, Tensor]]:
    torch.manual_seed(0)
    module, shape, left = networks()[request.param]
    model: Model = Given(module.eval(), *shape)
    names = model.compressible(module)
    task = Task(model, module, names)
    rows = {}
    for name, indices in left.items():
        rows[name] = torch.zeros(task.parameter(name).shape[0], dtype=torch.bool)
        rows[name][indices] = True
        layer = task.layer(name)
        with torch.no_grad():
            layer.weight[~rows[name]] = 0
            if layer.bias is not None:
                layer.bias[~rows[name]] = 0
    return task, rows


def run(task: Task) -> tuple[Tensor, dict[str, Tensor]]:
    batch = next(iter(task.batches()))
    owned = {n: p for n, p in task.module.named_parameters() if "idle" not in n}
    outputs = task.predict(batch)
    loss = task.losses(outputs, batch).mean()
    return outputs.detach(), dict(zip(owned, torch.autograd.grad(loss, list(owned.values())), strict=True))


def test_outputs_and_gradients_are_the_whole_networks(cut: tuple[Task, dict[str, Tensor]]) -> None:
    task, rows = cut
    outputs, gradients = run(task)
    live = live_parts(task, rows)
    with compact(task, live):
        small, of_what_is_left = run(task)
    torch.testing.assert_close(small, outputs)
    for name, gradient in gradients.items():
        weight = name.removesuffix("bias") + "weight" if name.endswith("bias") else name
        kept = live[weight].over(gradient.shape) if weight in live else torch.ones_like(gradient).bool()
        torch.testing.assert_close(of_what_is_left[name][kept], gradient[kept])
        assert not bool(of_what_is_left[name][~kept].any())
    again, _ = run(task)
    assert torch.equal(again, outputs)  # the layers are as they were


def test_inputs_behind_what_is_cut_are_passed_over_and_others_are_not() -> None:
    torch.manual_seed(0)
    module, shape, left = networks()["pooled"]
    task = Task(Given(module.eval(), *shape), module, Given(module, *shape).compressible(module))
    rows = {n: torch.tensor([i in kept for i in range(task.parameter(n).shape[0])]) for n, kept in left.items()}
    live = live_parts(task, rows)
    assert live["0.weight"].columns.tolist() == [0]
    assert live["2.weight"].columns.tolist() == [1, 4]
    # four places of pooled maps for each of three channels: 16 features a channel
    assert live["5.weight"].columns.tolist() == [c * 16 + i for c in (0, 2, 3) for i in range(16)]
    assert live["7.weight"].columns.tolist() == [6]
    assert live["7.weight"].rows.tolist() == [0, 1, 2]


def test_a_norm_that_moves_zeros_is_not_passed_over() -> None:
    module, shape, _ = networks()["tokens"]
    task = Task(Given(module.eval(), *shape), module, Given(module, *shape).compressible(module))
    live = live_parts(task, {"again.weight": torch.tensor([False, True, True, True, False, False])})
    assert live["last.weight"].columns.numel() == 6
    # used twice: what either use has
    assert live["again.weight"].columns.numel() == 6


class Scaled(nn.Linear):
    """Does more with its weights than a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def masked(task: Task, rows: dict[str, Tensor], *, biases: bool = True) -> Task:
    """The task with masks that leave nothing of the outputs that ``rows`` leaves out, nor of the last two inputs."""
    masks = {}
    for name, kept in rows.items():
        mask = torch.ones(task.parameter(name).shape, dtype=torch.bool)
        mask[~kept] = False
        mask[:, -2:] = False
        masks[name] = mask
        bias = name.removesuffix("weight") + "bias"
        if biases and task.layer(name).bias is not None:
            masks[bias] = kept.clone()
    with torch.no_grad():
        for name, mask in masks.items():
            task.parameter(name).mul_(mask)
    return Task(task.model, task.module, tuple(dict.fromkeys([*task.names, *masks])), masks)


def test_units_that_masks_leave_nothing_of_are_not_computed(cut: tuple[Task, dict[str, Tensor]]) -> None:
    task = masked(*cut)
    outputs, gradients = run(task)
    parts = masked_parts(task)
    for name, part in parts.items():
        assert torch.equal(part.over(task.masks[name].shape) & task.masks[name], task.masks[name])
    with compact(task, parts):
        small, of_what_is_left = run(task)
    torch.testing.assert_close(small, outputs)
    for name, gradient in gradients.items():
        kept = task.masks.get(name, torch.ones_like(gradient).bool())
        torch.testing.assert_close(of_what_is_left[name][kept], gradient[kept])


def test_a_bias_that_is_trained_keeps_its_unit(cut: tuple[Task, dict[str, Tensor]]) -> None:
    task = masked(*cut, biases=False)
    for name, part in masked_parts(task).items():
        if task.layer(name).bias is not None:
            assert part.rows.numel() == task.parameter(name).shape[0]


def test_what_is_derived_from_a_layer_is_computed_whole() -> None:
    module = nn.Sequential(Scaled(8, 6), nn.ReLU(), nn.Linear(6, 3))
    task = Task(Given(module.eval(), 8), module, ("0.weight", "2.weight"))
    task = masked(task, {"0.weight": torch.arange(6) < 2, "2.weight": torch.arange(3) < 1})
    assert set(masked_parts(task)) == {"2.weight"}


def test_a_training_of_a_pruned_network_is_the_same_and_computes_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A straight-through training of a convolutional network of which a third is left."""
    widths: list[int] = []

    def trained(whole: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        module, shape, left = networks()["pooled"]
        model = Given(module.eval(), *shape)
        task = Task(model, module, tuple(n for n, _ in module.named_parameters()))
        rows = {n: torch.isin(torch.arange(len(task.parameter(n))), torch.tensor(i)) for n, i in left.items()}
        task = masked(task, rows)
        real = nn.functional.linear

        def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            widths.append(len(weight))
            return real(x, weight, bias)

        monkeypatch.setattr(nn.functional, "linear", linear)
        if whole:
            monkeypatch.setattr("nqbench_training.optimised.masked_parts", lambda task: {})
        fit_network(task, Recipe(epochs=3, lr=0.1, batch_size=8, seed=0), second_moments=False)
        monkeypatch.undo()
        return {n: p.detach().clone() for n, p in module.named_parameters()}

    small, computed = trained(whole=False), set(widths)
    widths.clear()
    whole = trained(whole=True)
    torch.testing.assert_close(small, whole)
    assert 1 in computed  # of seven units one is left
    assert set(widths) == {7, 3}
