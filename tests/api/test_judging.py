"""Evaluations: values per example, metrics that follow from them, agreement with and divergence from the float network,
in whatever batches."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from nqbench.api import Batch, Evaluation, Model, PerExample, Split
from nqbench.api.evaluation import resampled
from nqbench.api.toolkit import pace as paces
from nqbench.api.toolkit.judging import judging, outputs_seen
from nqbench.api.toolkit.pace import Pace, last, pace_of
from nqbench.testing.tiny import TinyNet

CPU = torch.device("cpu")


def test_a_rank_correlation_with_ties_is_scipys() -> None:
    generator = np.random.default_rng(0)
    values = np.stack([generator.integers(0, 9, 80), generator.normal(size=80).round(1)], 1).astype(float)
    wanted = spearmanr(values[:, 0], values[:, 1]).statistic
    assert PerExample(torch.from_numpy(values), "spearman").metric() == pytest.approx(wanted)


@pytest.mark.parametrize("statistic", ["share", "mean", "exp-mean", "ratio", "spearman"])
def test_counts_of_examples_say_the_same_as_the_examples_so_often(statistic: str) -> None:
    generator = np.random.default_rng(1)
    columns = 2 if statistic in ("ratio", "spearman") else 1
    values = generator.integers(1, 6, (30, columns)).astype(float)
    values = values if columns == 2 else values[:, 0] % 2 if statistic == "share" else values[:, 0]
    counts = generator.integers(0, 3, (7, 30))
    found = resampled(statistic, values, counts.astype(float))  # type: ignore[arg-type]
    for each, times in zip(found, counts, strict=True):
        assert each == pytest.approx(PerExample(torch.from_numpy(values.repeat(times, 0)), statistic).metric())  # type: ignore[arg-type]


def shaken(module: nn.Module, by: float = 0.3) -> nn.Module:
    other = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return other


def judged_beside(model: Model, module: nn.Module, other: nn.Module, **options: Pace) -> Evaluation:
    with judging(**options) as judgement:
        before = model.evaluate(module)
    assert before.metrics.get("divergence", 0.0) == 0.0
    with judging(judgement.outputs, judgement.pace, compares=True):
        return model.evaluate(other)


def test_divergence_and_agreement_are_those_of_the_formulas() -> None:
    model = TinyNet()
    module = model.load(CPU)
    other = shaken(module)
    found = judged_beside(model, module, other)
    ((x, y),) = model.batches("test", batch_size=1000)
    with torch.no_grad():
        p, q = module(x).double().softmax(1), other(x).double().softmax(1)
    each = (p * (p / q).log()).sum(1)
    assert found.metrics["divergence"] == pytest.approx(float(each.mean()), rel=1e-6)
    assert torch.allclose(found.examples["divergence"].values, each, rtol=1e-4, atol=1e-7)
    assert found.metrics["agreement"] == pytest.approx(100 * float((p.argmax(1) == q.argmax(1)).double().mean()))
    assert found.metrics["accuracy"] == pytest.approx(100 * float((q.argmax(1) == y).double().mean()))
    assert found.correct is not None
    assert torch.equal(found.correct, q.argmax(1) == y)
    assert found.metrics["loss"] == pytest.approx(float(-q[torch.arange(96), y].log().mean()), rel=1e-5)


def test_the_network_itself_agrees_with_itself() -> None:
    model = TinyNet()
    module = model.load(CPU)
    found = judged_beside(model, module, copy.deepcopy(module))
    assert found.metrics["agreement"] == 100
    assert abs(found.metrics["divergence"]) < 1e-12


@pytest.mark.parametrize("pace", [Pace(1), Pace(7), Pace(64), Pace(7, channels_last=True)])
def test_figures_are_the_same_in_all_batches(pace: Pace) -> None:
    model = TinyNet()
    module = model.load(CPU)
    found, wanted = (judged_beside(model, module, shaken(module), pace=each) for each in (pace, Pace(96)))
    assert found.metrics == pytest.approx(wanted.metrics, rel=1e-5)
    for name, part in found.examples.items():
        assert torch.allclose(part.values.double(), wanted.examples[name].values.double(), atol=1e-5), name


class Counting(TinyNet, name="counting-examples"):
    """Numbers, which come in batches of 50 at most."""

    count: ClassVar[int] = 5000

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        for part in torch.split(torch.arange(self.count), min(batch_size, 50)):
            yield part, part


@pytest.mark.parametrize("size", [3, 32, 50, 512])
def test_of_training_data_the_same_examples_are_examined_in_any_batches(size: int) -> None:
    seen = torch.cat([x for x, _ in Counting().examined("train", size)])
    assert torch.equal(seen, torch.arange(2048, 5000))


@pytest.mark.parametrize("size", [3, 50, 512])
@pytest.mark.parametrize("there", [1, 2, 600, 2047, 2048, 2050, 4095, 4096, 8000])
def test_of_few_training_data_the_second_half_is_examined(
    there: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What calibration sees first is left out as far as there are others; 2,050 are not judged by the last two."""
    monkeypatch.setattr(Counting, "count", there)
    seen = torch.cat([x for x, _ in Counting().examined("train", size)])
    assert sorted(seen.tolist()) == list(range(min(there // 2, 2048), min(there, 7168)))


class LanguageModel(TinyNet, name="tiny-language"):
    """Words of 5,000 for every place of a window: so many that outputs are kept as halves."""

    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 5000)).eval()

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        for part in torch.split(torch.randint(0, 40, (6, 5), generator=torch.Generator().manual_seed(0)), batch_size):
            yield (part,)

    def logits(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs.flatten(0, 1)

    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, PerExample]:
        return {"accuracy": PerExample((outputs.argmax(2) == batch[0]).all(1), "share")}


def test_a_language_model_is_compared_word_by_word_an_example_a_window() -> None:
    model = LanguageModel()
    module = model.load(CPU)
    other = shaken(module, 0.5)
    found = judged_beside(model, module, other, pace=Pace(4))
    (ids,) = next(model.batches("test"))
    with torch.no_grad():
        p, q = module(ids).double().softmax(2), other(ids).double().softmax(2)
    each = (p * (p / q).log()).sum(2).mean(1)
    assert found.examples["divergence"].values.shape == (6,)
    assert torch.allclose(found.examples["divergence"].values, each, rtol=0.02)
    agrees = 100 * (p.argmax(2) == q.argmax(2)).double().mean(1)
    assert torch.allclose(found.examples["agreement"].values, agrees)


def test_a_function_of_ones_own_that_calls_the_network_is_compared_too() -> None:
    model = TinyNet()
    module = model.load(CPU)
    other = shaken(module)
    ((x, _),) = model.batches("test", batch_size=1000)

    def score(network: nn.Module) -> None:
        for part in x.split(40):
            network(part)

    with judging() as judgement, torch.no_grad(), outputs_seen(model, module):
        score(module)
    with judging(judgement.outputs, compares=True), torch.no_grad(), outputs_seen(model, other) as beside:
        score(other)
    wanted = judged_beside(model, module, other).metrics
    assert beside["divergence"].metric() == pytest.approx(wanted["divergence"], rel=1e-6)
    # called with other numbers of examples, nothing can be compared, and nothing fails
    with judging(judgement.outputs, compares=True), torch.no_grad(), outputs_seen(model, other) as beside:
        other(torch.cat([x, x]))
    assert beside == {}


class Slow(TinyNet, name="slow-in-large-batches"):
    """As if a batch of more than 16 did not fit the cache."""

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        time.sleep(0.0002 * len(batch[0]) * (1 if len(batch[0]) <= 16 else 4))
        return super().predict(module, batch)


def test_the_fastest_size_of_a_batch_is_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_CHEAP", 0.0), ("_WORTH", 0.0), ("_TRIAL", 0.03)):
        monkeypatch.setattr(paces, name, value)
    monkeypatch.setattr(paces, "_known", {})
    model = Slow()
    module = model.load(CPU)
    path = paces._path(model)
    path.unlink(missing_ok=True)
    found = pace_of(model, module, "test")
    assert found.batch_size in (4, 16)
    assert json.loads(path.read_text()) == found.as_json()
    monkeypatch.setattr(paces, "_known", {})
    monkeypatch.setattr(paces, "_found", None)  # nothing is measured again
    assert pace_of(model, module, "test") == found
    path.unlink()


class Views(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)[:, :3]


def test_channels_come_last_only_where_the_network_takes_them_so() -> None:
    class Images(TinyNet, name="two-channels"):
        def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
            yield torch.randn(8, 2, 4, 4), torch.zeros(8, dtype=torch.int64)

    flat = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten())
    lying = Pace(8, channels_last=True)
    assert not paces._same(Images(), Views(), "test", lying)
    assert paces._same(Images(), flat, "test", lying)


def test_a_named_tuple_stays_one_where_channels_come_last() -> None:
    class Pair(NamedTuple):
        x: Tensor
        y: Tensor

    batch = last(Pair(torch.zeros(2, 3, 4, 4), torch.zeros(2)))
    assert isinstance(batch, Pair)
    assert batch.x.is_contiguous(memory_format=torch.channels_last)
