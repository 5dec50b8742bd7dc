"""Steps that follow what errors cost: proved on a case that is known on paper, and through a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import pytest
import torch
from nqbench_quantizers.gptq import GPTQ
from nqbench_training.information import Information, information, looked_up
from nqbench_training.second_moments import SecondMoments as Sensitivity
from nqbench_training.second_moments import in_units_of_loss, mean_diagonal
from nqbench_training.sequential import Sequential
from pydantic import ValidationError
from torch import nn

from nqbench.api import Batch, Model, Moments, Quantizer, SecondMoments, Source, SourceTensor, Split, Task
from nqbench.api.toolkit.curvature import empirical_fisher, gauss_newton_diagonal
from nqbench.registry import registry
from nqbench.testing.sources import source_of, typical
from nqbench.testing.tiny import tiny_task


def source(costs: list[float], n: int = 4096, m: int = 16) -> Source:
    """Tensors of standard normal weights, whose inputs are white and cost so much each."""
    drawn = torch.Generator().manual_seed(0)
    weights = torch.randn(len(costs) * n, generator=drawn)
    tensors = [SourceTensor(f"w{i}", (n // m, m), i * n, (i + 1) * n) for i in range(len(costs))]
    packed = [Moments(cost * torch.eye(m)[None], 0, torch.ones(n // m)).packed() for cost in costs]
    return Source(weights, tuple(tensors), SecondMoments(tuple(packed)))


@pytest.mark.parametrize("curvature", [0.0, 0.4, 1.0])
def test_a_step_is_the_inverse_power_of_what_an_error_costs(curvature: float) -> None:
    costs = [4.0, 1.0, 0.01]
    q = GPTQ(step=0.1, curvature=curvature, damping=0.0).quantize(source(costs))
    wanted = [0.1 * cost ** (-curvature / 2) for cost in costs]
    if not curvature:
        torch.testing.assert_close(q.parameters["step"], torch.tensor(wanted[:1]))
        return
    torch.testing.assert_close(255 * q.parameters["step_unit"], torch.tensor(wanted))
    assert bool((q.side["step"] == 255).all())  # no row differs from another


def test_moments_that_are_not_in_the_unit_of_the_loss_say_nothing_of_costs() -> None:
    given = source([4.0, 0.01])
    given = replace(given, sensitivity=SecondMoments((4.0 * torch.eye(16)[None], 0.01 * torch.eye(16)[None])))
    torch.testing.assert_close(
        GPTQ(step=0.1, curvature=0.5).quantize(given).parameters["step"], torch.tensor([0.1] * 2)
    )


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
    steps = 255 * q.parameters["step_unit"]
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
    wanted = {"a": 8.0, "b": 2.0, "c": 1.0, "d": 0.0}
    rows = torch.ones(3, dtype=torch.float64)
    scaled = in_units_of_loss(given, {name: Information(mean, rows) for name, mean in wanted.items()})
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
        found += torch.tensor([one.mean for one in information(task, task.names, 24).values()]) / 200
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
    assert all(Moments.of(packed).outputs is not None for packed in found.values())
    wanted = torch.tensor([one.mean for one in information(task, task.names, 24).values()])
    means = torch.tensor([mean_diagonal(Moments.of(found[name]).gram) for name in task.names])
    torch.testing.assert_close(means, wanted / wanted.log().mean().exp(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("memory", [4096, 1e-6])
def test_quantized_in_passing_the_unit_of_the_loss_stays(memory: float) -> None:
    task, _ = sensed(24)
    groups = Sequential(memory=memory, correction=0).train(task, None).groups
    steps = torch.stack([group.quantized.parameters["step_unit"][0] for group in groups])
    plain, _ = sensed(24)
    whole = GPTQ(step=0.1, curvature=0.5).quantize(plain.source(plain.names))
    # the inputs differ a little by what was quantized before, in which only the gains' ratio to the diagonal counts
    torch.testing.assert_close(steps, whole.parameters["step_unit"], rtol=0.05, atol=0)
    assert steps.max() > 1.1 * steps.min()


def test_it_cannot_be_combined_with_other_steps_of_tensors() -> None:
    for other in ({"bits": 3}, {"granularity": "layer"}):
        with pytest.raises(ValidationError, match="curvature needs a step"):
            GPTQ(curvature=0.5, **other)


# -- rows ------------------------------------------------------------------------------------------------------------
def rows_of_unequal_weight(n: int = 2048, m: int = 8) -> tuple[Source, torch.Tensor]:
    """One tensor of four outputs that matter by factors of four."""
    weights = torch.tensor([0.2, 0.2, 0.8, 2.8])
    drawn = torch.randn(4 * n, m, generator=torch.Generator().manual_seed(1))
    packed = Moments(torch.eye(m)[None], 0, weights.repeat_interleave(n)).packed()
    tensor = SourceTensor("w", (4 * n, m), 0, drawn.numel())
    return Source(drawn.reshape(-1), (tensor,), SecondMoments((packed,))), weights.repeat_interleave(n)


@pytest.mark.parametrize("curvature", [0.5, 1.0])
def test_a_row_s_step_is_the_inverse_power_of_its_cost_up_to_an_eighth_of_an_octave(curvature: float) -> None:
    given, weights = rows_of_unequal_weight()
    q = GPTQ(step=0.1, curvature=curvature, damping=0.0).quantize(given)
    steps = q.side["step"].double() * q.parameters["step_unit"].double()
    apart = (steps / (0.1 * weights.double() ** (-curvature / 2))).log2().abs()
    assert float(apart.max()) <= 0.125 + 0.02  # and the rounding of 8-bit multiples
    assert q.structure is not None
    # what a decoder makes of it lies within half a step of the weights
    error = (q.reconstruct() - given.weights).abs().reshape(len(weights), -1)
    assert bool((error <= steps[:, None] * 0.5001).all())


def test_weighted_by_rows_the_error_is_smaller_at_the_same_rate() -> None:
    given, weights = rows_of_unequal_weight()
    found = {}
    for curvature in (0.0, 1.0):
        # of one geometric mean of steps
        mean = float((weights.double() ** (-curvature / 2)).log().mean().exp())
        quantizer = GPTQ(step=0.1 / mean, curvature=curvature, damping=0.0)
        error = (quantizer.quantize(given).reconstruct() - given.weights).square().reshape(len(weights), -1).sum(1)
        found[curvature] = float((error * weights).sum())
    # D = sum g s^2 / 12: the mean of the weights against their geometric mean
    expected = float(weights.log().mean().exp() / weights.mean())
    assert found[1.0] / found[0.0] == pytest.approx(expected, rel=0.03)


def test_weights_of_outputs_survive_packing_and_do_not_touch_the_matrices() -> None:
    for groups, m, each in ((1, 3, 7), (2, 4, 4), (3, 1, 5), (1, 5, 2)):
        gram = torch.randn(groups, m, m)
        outputs = torch.rand(groups * each)
        read = Moments.of(Moments(gram, 0, outputs).packed())
        assert torch.equal(read.gram, gram)
        assert torch.equal(read.weights_of(groups * each), outputs)
        assert Moments.of(Moments(gram, 1).packed()).outputs is None


class Words(nn.Module):
    """Look-ups, and with ``tied`` an output layer of the same weight."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.words, self.tied = nn.Embedding(6, 4), tied
        self.inner = nn.Linear(4, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.inner(self.words(ids).mean(1)))
        return nn.functional.linear(h, self.words.weight) if self.tied else h


IDS = torch.tensor([[0, 1, 2], [0, 0, 1], [0, 1, 0], [2, 0, 1], [0, 3, 0], [0, 0, 0]])


class WordsModel(Model, name="words-of-a-test"):
    tied: bool = False

    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Words(self.tied).eval().to(device)

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        for part in torch.split(IDS, batch_size):
            yield part, torch.zeros(len(part), dtype=torch.int64)


def words_task(tied: bool) -> Task:
    model = WordsModel(tied=tied)
    module = model.load(torch.device("cpu"))
    names = ("words.weight", "inner.weight")
    return Task(model, module, names, {}, None, "layer", Sensitivity(samples=4, outputs=4))


def test_frequencies_are_those_of_all_training_data_with_one_more_each() -> None:
    task = words_task(False)
    counts = torch.bincount(IDS.reshape(-1), minlength=6).double()
    torch.testing.assert_close(looked_up(task, task.names)["words.weight"], (counts + 1) / (counts.sum() + 6))
    found = Moments.of(task.sense()["words.weight"])
    assert found.diagonal
    relative = found.gram.reshape(-1) / found.gram.sum()
    torch.testing.assert_close(relative.double(), (counts + 1) / (counts.sum() + 6))


def test_a_tied_row_costs_what_it_costs_as_an_output_and_what_its_look_ups_cost() -> None:
    task = words_task(True)
    counted = looked_up(task, task.names)
    exact_rows, sums = torch.zeros(6, dtype=torch.float64), 0.0
    for seed in range(300):
        task.seed = seed
        exact_rows += information(task, task.names, len(IDS), counted)["words.weight"].rows / 300
    # both uses apart: an untied copy of the network has the same outputs, and another parameter in each place
    net = task.module
    table, head = net.words.weight.detach().requires_grad_(), net.words.weight.detach().requires_grad_()
    outputs = torch.zeros(6, 4, dtype=torch.float64)
    for row in IDS:
        looked = table[row]
        logits = nn.functional.linear(torch.tanh(net.inner(looked.mean(0))), head)
        for y, p in enumerate(logits.detach().softmax(0)):
            at_table, at_head = torch.autograd.grad(logits.log_softmax(0)[y], [looked, head], retain_graph=True)
            outputs += float(p) * at_head.double().square() / len(IDS)
            sums += float(p) * float(at_table.double().square().sum()) / len(IDS)
    expected = (outputs.sum(1) + sums * counted["words.weight"]) / 4
    torch.testing.assert_close(exact_rows, expected, rtol=0.15, atol=0)


def test_without_look_ups_nothing_is_scaled_where_only_they_count() -> None:
    for tied in (False, True):
        task = words_task(tied)
        scaled = task.sense()
        task.sensitivity = Sensitivity(samples=4, outputs=4, outputs_for="lookups")
        assert all(torch.equal(packed, scaled[name]) for name, packed in task.sense().items())
    task, _ = sensed(24)
    task.sensitivity = Sensitivity(samples=24, outputs=24, outputs_for="lookups")
    plain = Sensitivity(samples=24).of_inputs(task, task.names)
    assert all(torch.equal(packed, plain[name]) for name, packed in task.sense().items())


def test_rows_that_are_looked_up_often_get_finer_steps() -> None:
    task = words_task(False)
    task.quantizer = GPTQ(step=0.1, curvature=0.5)
    task.sensed = task.sense()
    groups = {group.names[0]: group.quantized for group in Sequential().train(task, None).groups}
    codes = groups["words.weight"].side["step"]
    assert isinstance(codes, torch.Tensor)
    assert int(codes[0]) == int(codes.min())
    assert int(codes[5]) == 255


class ReadLate(Mapping[str, torch.Tensor]):
    """A sensitivity that is computed when it is read first, as the pipeline gives it."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @cached_property
    def found(self) -> Mapping[str, torch.Tensor]:
        found = self.task.sense()
        assert found is not None
        return found

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.task.names)

    def __len__(self) -> int:
        return len(self.task.names)


@pytest.mark.parametrize("correction", [0.0, 1.0])
def test_a_sensitivity_that_is_computed_late_is_that_of_the_untouched_network(correction: float) -> None:
    found = []
    for late in (False, True):
        task, _ = sensed(24)
        task.sensed = ReadLate(task) if late else task.sense()
        groups = Sequential(correction=correction).train(task, None).groups
        found.append(torch.cat([group.quantized.symbols for group in groups]))
    assert torch.equal(*found)


def take_moments() -> list[str]:
    return [
        name for name in registry().names("quantizer") if "second-moments" in registry().get("quantizer", name).takes
    ]


@pytest.mark.parametrize("name", take_moments())
def test_every_method_takes_moments_with_weights_of_outputs(name: str) -> None:
    """Who does not use the weights gives what it gives without them."""
    made = registry().make("quantizer", name, {})
    assert isinstance(made, Quantizer)
    parts = typical()
    plain = source_of(made, parts, form="second-moments")
    assert isinstance(plain.sensitivity, SecondMoments)
    weighted = []
    for part, packed in zip(parts, plain.sensitivity.matrices, strict=True):
        weighted.append(replace(Moments.of(packed), outputs=torch.linspace(0.5, 1.5, len(part.value))).packed())
    given = replace(plain, sensitivity=SecondMoments(tuple(weighted)), shared={})
    assert torch.equal(made.quantize(given).symbols, made.quantize(plain).symbols)
