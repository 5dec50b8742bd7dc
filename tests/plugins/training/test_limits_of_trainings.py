"""Trainings at the ends of what they may be asked for: hundreds of epochs, half precision, nothing left, one value."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nqbench_quantizers.ecsq import ECSQ
from nqbench_quantizers.kmeans import KMeans
from nqbench_quantizers.scaled import Ternary
from nqbench_quantizers.uniform import Uniform
from nqbench_training.alternating import IteratedDirect, LearningCompression
from nqbench_training.bayesian_compression import BayesianCompression
from nqbench_training.dynamic_surgery import DynamicSurgery
from nqbench_training.learned_step import LearnedStep
from nqbench_training.magnitude import Magnitude
from nqbench_training.optimised import Distilled, grown, install
from nqbench_training.sensitivities import Adam
from nqbench_training.soft_to_hard import SoftToHard
from nqbench_training.soft_weight_sharing import SoftWeightSharing
from nqbench_training.straight_through import BinaryRelax
from nqbench_training.surgeon import Surgeon
from pydantic import ValidationError
from test_trainings import EVERY
from tiny_network import Levels, Tiny, make_task
from torch import Tensor, nn

from nqbench.api import BadInput, Batch, Model, Pruner, Quantizer, Split, Task, Training
from nqbench.api.toolkit import store
from nqbench.api.toolkit.curvature import mean_loss
from nqbench.api.toolkit.store import Trained


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))


def test_what_grows_for_hundreds_of_epochs_stays_in_single_precision() -> None:
    assert grown(2.0, 1.5, 3) == 2.0 * 1.5**3
    assert grown(2.0, 1.5, 10_000) == grown(1.0, 1e300, 2) == 1e30


@pytest.mark.parametrize("training", [SoftToHard(growth=1e4, epochs=40, lr=1e-5), BinaryRelax(growth=1e5, epochs=40)])
def test_a_training_that_hardens_ends_at_quantized_weights_however_long(training: Training) -> None:
    """A factor of 1e4 for forty epochs is one of 1.5 for nine hundred."""
    task = make_task(quantizer=Levels(k=4))
    result = training.train(task, None)
    for tensor in task.reconstruct(result.groups).values():
        assert bool(torch.isfinite(tensor).all())
    assert bool(torch.isfinite(torch.tensor(mean_loss(task, 1000))))


class Half(Tiny, name="half-tiny"):
    """In bfloat16, as many networks come."""

    def load(self, device: torch.device) -> nn.Module:
        return super().load(device).to(torch.bfloat16)

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        out: Tensor = module(batch[0].to(torch.bfloat16))
        return out.float()


@pytest.mark.parametrize("training", EVERY, ids=lambda t: t.name)
def test_a_network_of_half_precision_is_trained(training: Training) -> None:
    task = make_task(Half(), quantizer=Levels(k=4))
    result = training.train(task, None)
    install(task, result)
    for name, tensor in task.reconstruct(result.groups).items():
        assert bool(torch.isfinite(tensor.float()).all()), name
        torch.testing.assert_close(task.parameter(name).float(), tensor.to(torch.bfloat16).float(), rtol=0, atol=0)


class Wide(Model, name="wide-half"):
    """One layer of 40 x 200 weights in half precision, more than the compiled loops' least number."""

    dtype: str = "bfloat16"

    def fingerprint(self) -> str:
        return f"wide-{self.dtype}"

    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(40, 200), nn.ReLU(), nn.Linear(200, 3)).to(getattr(torch, self.dtype))

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        x = torch.randn(64, 40, generator=torch.Generator().manual_seed(1))
        for part in x.split(batch_size):
            yield part, part[:, :3].argmax(1)

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        out: Tensor = module(batch[0].to(getattr(torch, self.dtype)))
        return out.float()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("quantizer", [Uniform(step=0.001), KMeans(k=64), Ternary()], ids=lambda q: q.name)
def test_learned_levels_of_a_network_in_half_precision_are_those_nearest_to_its_weights(
    quantizer: Quantizer, dtype: str
) -> None:
    """Hundreds of levels: more than bfloat16 can count."""
    task = make_task(Wide(dtype=dtype), quantizer=quantizer, granularity="layer")
    result = LearnedStep(epochs=0).train(task, None)
    before = make_task(Wide(dtype=dtype)).weights()
    for group in result.groups:
        (name,) = group.names
        w, deployed = before[name].float().reshape(-1), task.reconstruct([group])[name].float().reshape(-1)
        apart = (w - deployed).abs()
        levels = deployed.unique()
        nearest = torch.stack([(w - level).abs() for level in levels]).amin(0)
        torch.testing.assert_close(apart, nearest, rtol=0, atol=1e-6)
    LearnedStep(epochs=2, batch_size=16).train(task, None)


@pytest.mark.parametrize("granularity", ["layer", "global"])
def test_of_a_network_of_which_nothing_is_left_nothing_is_priced(granularity: Any) -> None:
    task = make_task(quantizer=ECSQ(lam=0.1), granularity=granularity)
    masks = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in task.weights().items()}
    task.masks = masks
    task.assign({name: w * 0 for name, w in task.weights().items()})
    training = LearningCompression(iterations=2, epochs=1, first_epochs=1, alpha=0.01)
    result = training.train(task, None)
    assert sum(group.quantized.n for group in result.groups) == 0


def test_a_price_that_is_none_is_told_with_the_quantizer_s_name() -> None:
    task = make_task(quantizer=ECSQ(lam=0.1))
    training = LearningCompression(iterations=1, epochs=1, first_epochs=1, alpha=0.1, lambda_field="k")
    with pytest.raises(BadInput, match=r"quantizer 'ecsq': alpha makes its 'k' .*is it the price\?"):
        training.train(task, None)
    with pytest.raises(ValidationError, match="has an effect with 'alpha' alone"):
        LearningCompression(lambda_field="k")


@pytest.mark.parametrize("kept", [1, 3])
def test_weights_of_one_value_are_not_shared_away(kept: int) -> None:
    """The component nearest to 0 is set to 0, and here there is no other."""
    task = make_task(quantizer=KMeans(k=16), granularity="layer")
    name = "8.weight"
    masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in task.weights().items()}
    masks[name].view(-1)[kept:] = False
    task.masks = masks
    task.assign({name: torch.full_like(task.parameter(name), -0.5) * masks[name]})
    result = SoftWeightSharing(epochs=1, lr=1e-6).train(task, None)
    assert task.reconstruct(result.groups)[name][masks[name]].tolist() == [-0.5] * kept
    assert result.notes == {name: "stays as quantized: 'soft-weight-sharing' needs two values to share"}


def test_a_sensitivity_is_estimated_again_for_the_current_weights_whatever_moments_were_kept() -> None:
    found = {}
    for resense in (False, True):
        task = make_task(quantizer=ECSQ(lam=0.3), sensitivity=Adam(batch_size=8))
        task.moments = {n: torch.full_like(w, 0.01) for n, w in task.weights().items()}
        task.sensed = task.sense()
        training = IteratedDirect(iterations=3, epochs=3, lr=0.1, batch_size=8, resense=resense)
        result = training.train(task, None)
        found[resense] = task.reconstruct(result.groups)
    assert any(not torch.equal(found[False][name], found[True][name]) for name in found[False])


def test_a_pruned_network_is_the_same_whatever_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []
    losses = Tiny.losses

    def noted(self: Tiny, outputs: Tensor, batch: Batch) -> Tensor:
        seen.append(torch.get_num_threads())
        return losses(self, outputs, batch)

    monkeypatch.setattr(Tiny, "losses", noted)
    try:
        torch.set_num_threads(2)
        Magnitude(keep=0.5, epochs=1).prune(make_task())
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


@pytest.mark.parametrize("tau", [1e-5, 1e-20, 1e-170])
def test_the_horseshoe_of_any_global_scale_is_trained(tau: float) -> None:
    pruned = BayesianCompression(prior="horseshoe", tau=tau, epochs=1, keep=0.5, batch_size=8).prune(make_task())
    assert all(bool(torch.isfinite(t).all()) for t in pruned.state.values())


@pytest.mark.parametrize(
    ("pruner", "version"),
    [
        (DynamicSurgery(epochs=1, keep=0.5), 1),
        (DynamicSurgery(epochs=1, keep=0.5, units=(("6.weight", 4),)), 1),
        (DynamicSurgery(epochs=1, units=(("6.weight", 4),)), 2),
        (DynamicSurgery(epochs=1, keep=0.5, distill=0.5), 1),
        (Surgeon(epochs=1, keep=0.5), 1),
        (Surgeon(epochs=1, keep=0.5, distill=0.5), 1),
    ],
)
@pytest.mark.parametrize("real", [False, True])
def test_what_was_stored_by_other_code_is_not_taken_and_all_else_is(
    pruner: Pruner, version: int, real: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = []

    def noted(name: str, recipe: dict[str, Any], make: Any) -> Trained:
        recipes.append(recipe)
        return store.trained(name, recipe, make)

    monkeypatch.setattr("nqbench_training.masking.trained", noted)
    monkeypatch.setattr("nqbench_training.surgeon.trained", noted)
    task: Task = make_task(Tiny(kind_of_loss="gaussian") if real else Tiny())
    pruner.prune(copy.copy(task))
    assert isinstance(pruner, Distilled)
    assert recipes[0]["version"] == (2 if real and pruner.distill else version)
