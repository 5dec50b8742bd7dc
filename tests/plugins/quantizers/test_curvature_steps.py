"""Steps that follow what errors cost: proved on a case that is known on paper, and through a network."""

from __future__ import annotations

import pytest
import torch
from nqbench_quantizers.gptq import GPTQ
from nqbench_training.second_moments import SecondMoments as Sensitivity
from nqbench_training.second_moments import in_units_of_loss, information, mean_diagonal
from nqbench_training.sequential import Sequential
from pydantic import ValidationError

from nqbench.api import Moments, SecondMoments, Source, SourceTensor, Task
from nqbench.api.toolkit.curvature import empirical_fisher, gauss_newton_diagonal
from nqbench.testing.tiny import tiny_task


def source(costs: list[float], n: int = 4096, m: int = 16) -> Source:
    """Tensors of standard normal weights, whose inputs are white and cost so much each."""
    drawn = torch.Generator().manual_seed(0)
    weights = torch.randn(len(costs) * n, generator=drawn)
    tensors = [SourceTensor(f"w{i}", (n // m, m), i * n, (i + 1) * n) for i in range(len(costs))]
    return Source(weights, tuple(tensors), SecondMoments(tuple(cost * torch.eye(m)[None] for cost in costs)))


@pytest.mark.parametrize("curvature", [0.0, 0.4, 1.0])
def test_a_step_is_the_inverse_power_of_what_an_error_costs(curvature: float) -> None:
    costs = [4.0, 1.0, 0.01]
    q = GPTQ(step=0.1, curvature=curvature, damping=0.0).quantize(source(costs))
    wanted = [0.1 * cost ** (-curvature / 2) for cost in costs]
    torch.testing.assert_close(q.parameters["step"], torch.tensor(wanted if curvature else wanted[:1]))


def test_at_high_rates_equal_costs_are_the_optimum() -> None:
    """D = sum_t c_t s_t^2 / 12 and R = -sum_t log2 s_t: among steps of equal rate the cost is least where every
    tensor's share is the same (Gish and Pierce 1968)."""
    costs, found = [4.0, 1.0, 0.01], {}
    given = source(costs)
    for curvature in (0.0, 0.5, 1.0):
        # steps of one geometric mean: the rates at high resolution are alike
        mean = torch.tensor([cost ** (-curvature / 2) for cost in costs]).log().mean().exp()
        quantizer = GPTQ(step=float(0.02 / mean), curvature=curvature, damping=0.0)
        errors = (quantizer.reconstruct(quantizer.quantize(given)) - given.weights).square().reshape(3, -1).sum(1)
        found[curvature] = (errors * torch.tensor(costs)).tolist()
    assert sum(found[1.0]) < sum(found[0.5]) < sum(found[0.0])
    assert max(found[1.0]) == pytest.approx(min(found[1.0]), rel=0.1)


def test_nothing_known_or_beyond_bounds_keeps_steps_finite() -> None:
    q = GPTQ(step=0.1, curvature=1.0).quantize(source([0.0, 1e-30, 1e30]))
    steps = q.parameters["step"]
    assert steps[0] == pytest.approx(0.1)
    torch.testing.assert_close(steps[1:], torch.tensor([0.1 * 1e4, 0.1 / 1e4]))


def test_the_knob_starts_where_two_bits_are() -> None:
    given = source([4.0, 1.0, 0.01])
    for curvature in (0.0, 0.5, 1.0):
        quantizer = GPTQ(curvature=curvature)
        start = quantizer.knob(given).start
        assert start is not None
        q = quantizer.model_copy(update={"step": start}).quantize(given)
        entropies = [float(_entropy(part)) for part in torch.split(q.symbols, list(q.sizes))]
        assert sum(entropies) / 3 == pytest.approx(2.0, abs=0.3)


def _entropy(symbols: torch.Tensor) -> torch.Tensor:
    share = torch.bincount(symbols.long()).double() / len(symbols)
    share = share[share > 0]
    return -(share * share.log2()).sum()


def test_moments_get_the_information_of_their_tensor() -> None:
    given = {
        "a": 3.0 * torch.eye(4)[None],
        "b": torch.ones(1, 1, 5),
        "c": torch.zeros(1, 2, 2),
        "d": torch.eye(2)[None],
    }
    scaled = in_units_of_loss(given, {"a": 8.0, "b": 2.0, "c": 1.0, "d": 0.0})
    means = {name: mean_diagonal(Moments.of(packed).gram) for name, packed in scaled.items()}
    assert means == pytest.approx({"a": 2.0, "b": 0.5, "c": 0.0, "d": 1.0})  # 4 is the geometric mean of 8 and 2


def sensed(outputs: int) -> tuple[Task, dict[str, torch.Tensor]]:
    task = tiny_task(
        quantizer=GPTQ(step=0.1, curvature=0.5),
        granularity="layer",
        sensitivity=Sensitivity(samples=24, outputs=outputs),
    )
    found = task.sense()
    assert found is not None
    task.sensed = found
    return task, dict(found)


def assert_expected(task: Task, exact: dict[str, torch.Tensor]) -> None:
    """The mean of the information over seeds is that of the exact diagonals."""
    found = torch.zeros(len(task.names), dtype=torch.float64)
    for seed in range(200):
        task.seed = seed
        found += torch.tensor(list(information(task, task.names, 24).values())) / 200
    torch.testing.assert_close(
        found.float(), torch.stack([exact[name].mean() for name in task.names]), rtol=0.15, atol=0
    )


def test_the_information_is_in_expectation_the_gauss_newton_matrix_s_mean_diagonal() -> None:
    task, _ = sensed(24)
    exact = gauss_newton_diagonal(task, task.names, 24)
    assert_expected(task, exact)


def test_where_labels_cannot_be_drawn_it_is_that_of_the_empirical_fisher(monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = sensed(24)
    exact = empirical_fisher(task, task.names, 24)
    monkeypatch.setattr(type(task.model), "likelihood", lambda model: "other")
    assert_expected(task, exact)


def test_moments_have_that_information_over_its_geometric_mean() -> None:
    task, found = sensed(24)
    wanted = torch.tensor([information(task, task.names, 24)[name] for name in task.names])
    means = torch.tensor([mean_diagonal(Moments.of(found[name]).gram) for name in task.names])
    torch.testing.assert_close(means, wanted / wanted.log().mean().exp(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("memory", [4096, 1e-6])
def test_quantized_in_passing_the_unit_of_the_loss_stays(memory: float) -> None:
    task, _ = sensed(24)
    groups = Sequential(memory=memory, correction=0).train(task, None).groups
    steps = torch.stack([group.quantized.parameters["step"][0] for group in groups])
    plain, _ = sensed(24)
    whole = GPTQ(step=0.1, curvature=0.5).quantize(plain.source(plain.names))
    # the inputs differ a little by what was quantized before, in which only the gains' ratio to the diagonal counts
    torch.testing.assert_close(steps, whole.parameters["step"], rtol=0.05, atol=0)
    assert steps.max() > 1.1 * steps.min()


def test_it_cannot_be_combined_with_other_steps_of_tensors() -> None:
    for other in ({"bits": 3}, {"granularity": "layer"}):
        with pytest.raises(ValidationError, match="curvature needs a step"):
            GPTQ(curvature=0.5, **other)
