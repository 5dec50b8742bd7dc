"""Each sensitivity against an independent reckoning on a network of a few hundred weights."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from nqbench_quantizers import GPTQ
from nqbench_training import information
from nqbench_training.second_moments import SecondMoments
from nqbench_training.sensitivities import Adam, Fisher, Hessian, Hutchinson, mean_sign_products
from tiny_network import Tiny, make_task
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from nqbench.api import Batch, Sensitivity, Task
from nqbench.api.toolkit.curvature import expand


class Rounded(Tiny, name="rounded-tiny"):
    """Weights rounded to a dtype of 16 bits; ``half``: computed in it, too. scale: of the loss."""

    dtype: Literal["float16", "bfloat16"] = "bfloat16"
    half: bool = False
    scale: float = 1.0

    def computed(self) -> torch.dtype:
        return getattr(torch, self.dtype) if self.half else torch.float32  # type: ignore[no-any-return]

    def load(self, device: torch.device) -> nn.Module:
        return super().load(device).to(getattr(torch, self.dtype)).to(self.computed())

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        out: Tensor = module(batch[0].to(self.computed()))
        return out.float()

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return self.scale * super().losses(outputs, batch)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "sensitivity",
    [
        Hessian(),
        Hessian(labels="drawn"),
        Fisher(),
        Hutchinson(draws=3),
        Adam(batches=50),
        SecondMoments(),
        SecondMoments(outputs=4),
    ],
    ids=lambda s: f"{s.name}-{getattr(s, 'labels', getattr(s, 'outputs', ''))}",
)
def test_a_sensitivity_in_half_precision_is_that_of_the_same_weights(
    sensitivity: Sensitivity, dtype: Literal["float16", "bfloat16"], scale: float
) -> None:
    """Squares of gradients below 2e-4 are 0 in float16, and small steps of an average are rounded away."""
    half, whole = (
        make_task(Rounded(dtype=dtype, half=half, scale=scale), sensitivity=sensitivity).sense()
        for half in (True, False)
    )
    assert half is not None
    assert whole is not None
    for name, wanted in whole.items():
        apart = (half[name] - wanted).double().norm() / wanted.double().norm()
        assert apart < 0.1, (name, apart)


@pytest.mark.parametrize("size", [1.5e-4, 300.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_information_of_a_tensor_is_summed_in_more_than_half_precision(dtype: torch.dtype, size: float) -> None:
    slope = torch.full((3, 4), size, dtype=dtype)
    found = information._Sum(slope)
    for _ in range(10):
        found.add(slope, [(torch.tensor([0, 0]), slope[:2])])
    one = float(slope[0, 0]) ** 2
    assert found.total == pytest.approx(10 * 12 * one)
    assert found.looked == pytest.approx(10 * 8 * one)
    assert found.rows.tolist() == pytest.approx([10 * 4 * one] * 3)  # of the first row, less what was looked up twice


def flat(task: Task, values: dict[str, Tensor]) -> Tensor:
    return torch.cat([values[name].reshape(-1) for name in task.names])


def parameters(task: Task) -> dict[str, Tensor]:
    return {name: task.parameter(name).detach() for name in task.names}


def whole_batch(task: Task) -> tuple[Tensor, Tensor]:
    return next(task.batches("train", batch_size=1000))


def explicit_gauss_newton(task: Task) -> Tensor:
    """(P, P) float64: mean of J^T A J, J by reverse-mode differentiation of the outputs, A from its definition."""
    x, _ = whole_batch(task)
    jacobians = jacrev(lambda p: functional_call(task.module, p, (x,)))(parameters(task))
    j = torch.cat([jacobians[name].flatten(2) for name in task.names], 2).double()
    if task.model.likelihood() == "gaussian":
        return (torch.einsum("nci,ncj->ij", j, j) / len(x)).detach()
    p = task.module(x).detach().double().softmax(1)
    a = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return (torch.einsum("nci,ncd,ndj->ij", j, a, j) / len(x)).detach()


def explicit_hessian(task: Task) -> Tensor:
    batch = whole_batch(task)

    def loss(p: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(functional_call(task.module, p, (batch[0],)), batch[1])

    blocks = hessian(loss)(parameters(task))
    sizes = {name: task.parameter(name).numel() for name in task.names}
    return torch.cat([torch.cat([blocks[a][b].reshape(sizes[a], sizes[b]) for b in task.names], 1) for a in task.names])


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_hessian_over_all_classes_is_the_exact_gauss_newton_diagonal(kind: str) -> None:
    task = make_task(Tiny(kind_of_loss=kind))
    exact = explicit_gauss_newton(task).diagonal().float()
    torch.testing.assert_close(flat(task, Hessian().sense(task, task.names)), exact, rtol=1e-5, atol=1e-9)


def test_fisher_is_the_mean_squared_gradient_of_single_samples(task: Task) -> None:
    x, y = whole_batch(task)
    total = torch.zeros(sum(task.parameter(n).numel() for n in task.names))
    for i in range(len(x)):
        loss = nn.functional.cross_entropy(task.module(x[i : i + 1]), y[i : i + 1])
        gradients = torch.autograd.grad(loss, [task.parameter(n) for n in task.names])
        total += torch.cat([g.reshape(-1) for g in gradients]).square()
    torch.testing.assert_close(flat(task, Fisher().sense(task, task.names)), total / len(x), rtol=1e-5, atol=1e-9)


def test_samples_beyond_the_first_are_left_out(task: Task) -> None:
    x, y = whole_batch(task)
    loss = nn.functional.cross_entropy(task.module(x[:1]), y[:1])
    gradients = torch.autograd.grad(loss, [task.parameter(n) for n in task.names])
    one = torch.cat([g.reshape(-1) for g in gradients]).square()
    torch.testing.assert_close(flat(task, Fisher(samples=1).sense(task, task.names)), one, rtol=1e-5, atol=1e-10)


def test_drawn_labels_are_unbiased(task: Task) -> None:
    exact = explicit_gauss_newton(task).diagonal()
    runs = []
    for seed in range(400):
        task.seed = seed
        runs.append(flat(task, Hessian(labels="drawn").sense(task, task.names)).double())
    assert_unbiased(torch.stack(runs), exact)


def test_hutchinson_is_unbiased(task: Task) -> None:
    exact = explicit_hessian(task).diagonal().double()
    runs = []
    for seed in range(200):
        task.seed = seed
        runs.append(flat(task, Hutchinson(draws=2).sense(task, task.names)).double())
    assert_unbiased(torch.stack(runs), exact)


def assert_unbiased(runs: Tensor, exact: Tensor) -> None:
    """Within 4 standard errors in sum and, but for the one in 16,000 that chance allows, in every entry."""
    error = (runs.mean(0) - exact) / (runs.std(0) / len(runs) ** 0.5).clamp(min=1e-12)
    assert float((error.abs() > 4).double().mean()) < 0.01
    sums = runs.sum(1)
    assert abs(float(sums.mean() - exact.sum())) < 4 * float(sums.std()) / len(runs) ** 0.5


def test_hadamard_signs_give_the_hessian_diagonal_exactly(task: Task) -> None:
    name = task.names[-1]  # 18 weights
    size = task.parameter(name).numel()
    hadamard = torch.ones(1, 1)
    while len(hadamard) < size:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    signs = ({name: row[:size].reshape(task.parameter(name).shape)} for row in hadamard)
    got = mean_sign_products(task, [name], 1000, signs)[name].reshape(-1)
    exact = explicit_hessian(task)[-size:, -size:].diagonal()
    torch.testing.assert_close(got, exact, rtol=1e-5, atol=1e-8)


def test_adam_is_the_root_of_its_recurrence(task: Task) -> None:
    name = task.names[0]
    batches = list(task.batches("train", batch_size=10))  # 10, 10, 4
    v = torch.zeros_like(task.parameter(name))
    for x, y in (*batches, *batches[:1]):
        (g,) = torch.autograd.grad(nn.functional.cross_entropy(task.module(x), y), task.parameter(name))
        v = 0.9 * v + 0.1 * g**2
    got = Adam(batches=4, batch_size=10, beta=0.9).sense(task, [name])[name]
    torch.testing.assert_close(got, (v / (1 - 0.9**4)).sqrt())


def test_adam_takes_the_moments_that_training_kept(task: Task) -> None:
    task.moments = {name: torch.full_like(task.parameter(name), 4.0) for name in task.names}
    sensed = Adam().sense(task, task.names)
    assert all(bool((sensed[name] == 2).all()) for name in task.names)


def test_second_moments_are_the_gram_matrices_of_the_inputs(task: Task) -> None:
    x, _ = whole_batch(task)
    sensed = SecondMoments().sense(task, task.names)
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    first = torch.stack([padded[:, :, i : i + 3, j : j + 3].reshape(24, -1) for i in range(6) for j in range(6)])
    expected = torch.einsum("lbi,lbj->ij", first, first) / (24 * 36)
    torch.testing.assert_close(sensed["0.weight"], expected[None], rtol=1e-4, atol=1e-5)
    hidden = task.module[:3](x).detach()
    second = torch.stack(
        [hidden[:, 2:, i : i + 3, j : j + 3].reshape(24, -1) for i in (0, 2) for j in (0, 2)]
    )  # the second group's channels, stride 2
    expected = torch.einsum("lbi,lbj->ij", second, second) / (24 * 4)
    assert sensed["3.weight"].shape == (2, 18, 18)
    torch.testing.assert_close(sensed["3.weight"][1], expected, rtol=1e-4, atol=1e-5)
    inputs = task.module[:8](x).detach()
    torch.testing.assert_close(sensed["8.weight"][0], inputs.T @ inputs / 24, rtol=1e-4, atol=1e-6)


def test_sensing_leaves_the_network_as_it_was(task: Task) -> None:
    task.module.train()
    before = {k: v.clone() for k, v in task.module.state_dict().items()}
    for sensitivity in (Hessian(), Fisher(), Hutchinson(draws=1), Adam(batches=1), SecondMoments()):
        sensitivity.sense(task, task.names)
    assert all(torch.equal(v, before[k]) for k, v in task.module.state_dict().items())
    assert task.module.training
    assert all(p.grad is None for p in task.module.parameters())
    assert not any(m._forward_hooks for m in task.module.modules())


def test_a_layer_used_twice_adds_its_gradients_before_squaring() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(torch.tanh(self.shared(x)))

    class Recurrent(Tiny, name="recurrent"):
        def load(self, device: torch.device) -> nn.Module:
            return Twice().eval()

        def predict(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return module(batch[0].reshape(24, -1)[:, :4])

    model = Recurrent()
    task = make_task(model)
    x = whole_batch(task)[0].reshape(24, -1)[:, :4]
    y = whole_batch(task)[1]
    squares = torch.zeros(4, 4)
    for i in range(24):
        loss = nn.functional.cross_entropy(task.module(x[i : i + 1]), y[i : i + 1])
        squares += torch.autograd.grad(loss, task.module.shared.weight)[0] ** 2
    got = Fisher(samples=24).sense(task, ["shared.weight"])["shared.weight"]
    torch.testing.assert_close(got, squares / 24, rtol=1e-5, atol=1e-9)


class _Unused(nn.Module):
    """Of three layers one is not called, and the result of another is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.dropped = nn.Linear(72, 3), nn.Linear(5, 2), nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.dropped(x.flatten(1))
        outputs: Tensor = self.used(x.flatten(1))
        return outputs


class _UnusedModel(Tiny, name="unused"):
    def load(self, device: torch.device) -> nn.Module:
        torch.manual_seed(0)
        return _Unused().eval()


@pytest.mark.parametrize("sensitivity", [Hessian(), Hessian(labels="drawn"), Fisher(), Hutchinson(draws=2), Adam()])
def test_layers_that_the_network_does_not_use_have_sensitivity_0(sensitivity: Sensitivity) -> None:
    task = make_task(_UnusedModel())
    sensed = sensitivity.sense(task, task.names)
    assert {name: bool(h.any()) for name, h in sensed.items()} == {
        "used.weight": True, "idle.weight": False, "dropped.weight": False,
    }  # fmt: skip
    assert all(h.shape == task.parameter(name).shape for name, h in sensed.items())
    expansion = expand(task, task.names, 10)
    assert not expansion.gradient["idle.weight"].any()
    alone = make_task(_UnusedModel())
    alone.names = ("idle.weight",)
    assert not sensitivity.sense(alone, alone.names)["idle.weight"].any()


def test_obs_leaves_a_layer_that_is_not_called_to_a_plain_grid() -> None:
    sensitivity = SecondMoments()
    task = make_task(_UnusedModel(), quantizer=GPTQ(step=0.05), sensitivity=sensitivity)
    task.sensed = sensitivity.sense(task, task.names)
    deployed = task.reconstruct(task.quantize())
    idle = task.parameter("idle.weight").detach()
    torch.testing.assert_close(deployed["idle.weight"], 0.05 * (idle / 0.05).round())
