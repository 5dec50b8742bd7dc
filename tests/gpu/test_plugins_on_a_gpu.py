"""Quantizers, sensitivities, pruners and trainings on a GPU, each by default and as its examples have it: results lie
there, and are the CPU's up to rounding. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nqbench_training.compact import can_be_compact
from torch import Tensor

from nqbench.api import Pruner, QuantizedModel, Quantizer, Sensitivity, Task, Training
from nqbench.engine import run_suite
from nqbench.engine.verify import verify
from nqbench.pipeline.filing import moved
from nqbench.pipeline.precision import whole_float32
from nqbench.registry import registry
from nqbench.testing.check import configurations
from nqbench.testing.sources import first_form
from nqbench.testing.task_plugins import _Made, _MadeMoments, _task_of, quantizer_for
from nqbench.testing.tiny import TinyQuantizer, tiny_task

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(120),
]
DEVICE = "cuda"
POSTERIORS = ("variational-dropout", "bayesian-compression", "information-bottleneck")
SUITES = Path(__file__).parent.parent.parent / "suites"


def _all(kind: str) -> list[Any]:
    plugins = [plugin for entry in registry().all(kind) for plugin in configurations(entry.cls)]
    return [pytest.param(plugin, id=repr(plugin)[:100]) for plugin in plugins]


@pytest.fixture(autouse=True)
def in_float32() -> Iterator[None]:
    """Not in TF32, so that figures are comparable."""
    with whole_float32():
        yield


def _task(quantizer: Quantizer, device: str, granularity: str = "layer") -> Task:
    made = {"none": None, "diagonal": _Made(), "second-moments": _MadeMoments(asked="second-moments")}
    task = tiny_task(quantizer=quantizer, granularity=granularity, pruned=True, device=device)  # type: ignore[arg-type]
    task.sensitivity = made[first_form(quantizer)]
    if task.sensitivity is not None:
        task.sensed = {n: v.to(device) for n, v in task.sensitivity.sense(task, task.names).items()}
    return task


def _apart(a: Tensor, b: Tensor) -> float:
    """The relative distance of two tensors."""
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).norm() / a.norm().clamp_min(1e-12))


@pytest.mark.parametrize("granularity", ["global", "layer"])
@pytest.mark.parametrize("plugin", _all("quantizer"))
def test_a_quantizer_chooses_as_on_the_cpu(plugin: Quantizer, granularity: str) -> None:
    here, there = _task(plugin, "cpu", granularity), _task(plugin, DEVICE, granularity)
    expected, found = here.quantize(), there.quantize()
    for group in found:
        assert group.quantized.symbols.device.type == DEVICE
        for name, value in group.quantized.parameters.items():
            assert value.device.type == DEVICE, name
    deployed = there.reconstruct(found)
    for name, value in here.reconstruct(expected).items():
        assert deployed[name].device.type == DEVICE
        # a weight on a threshold may fall on either side
        assert _apart(value, deployed[name]) < 0.05, name


@pytest.mark.parametrize("plugin", _all("quantizer"))
def test_what_a_gpu_quantized_deploys_the_same_bits_on_the_cpu(plugin: Quantizer) -> None:
    there = _task(plugin, DEVICE)
    found = there.quantize()
    on_cpu = moved(QuantizedModel(found, there.raw_state()))
    decoded = _task(plugin, "cpu").reconstruct(on_cpu.groups)
    for name, value in there.reconstruct(found).items():
        assert torch.equal(value.cpu(), decoded[name]), name


@pytest.mark.parametrize("plugin", _all("sensitivity"))
def test_a_sensitivity_senses_as_on_the_cpu(plugin: Sensitivity) -> None:
    here, there = tiny_task(), tiny_task(device=DEVICE)
    expected, found = plugin.sense(here, here.names), plugin.sense(there, there.names)
    assert set(expected) == set(found)
    for name, value in expected.items():
        assert found[name].device.type == DEVICE
        assert _apart(value, found[name]) < 1e-3, name


@pytest.mark.parametrize("plugin", _all("pruner"))
def test_a_pruner_keeps_as_many_as_on_the_cpu(plugin: Pruner) -> None:
    expected, found = plugin.prune(_task_of(plugin)), plugin.prune(_task_of(plugin, device=DEVICE))
    assert all(value.device.type == DEVICE for value in (*found.state.values(), *found.masks.values()))
    assert {n: bool(m.any()) for n, m in expected.masks.items()} == {n: bool(m.any()) for n, m in found.masks.items()}
    kept = [sum(int(m.sum()) for m in pruned.masks.values()) for pruned in (expected, found)]
    drawn = plugin.name in POSTERIORS  # by noise of the device's own: what has no effect goes, too
    assert kept[1] == pytest.approx(kept[0], rel=0.5 if drawn else 0, abs=0)
    for name, mask in found.masks.items():
        assert bool((found.state[name][~mask] == 0).all())


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posterior_is_learned_on_the_gpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a divergence and with hardly any noise it is fine-tuning: means end where the CPU's do."""
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))
    fields = {"epochs": 2, "weight": 0.0, "log_variance": -30.0, "keep": 1.0, "lr": 1e-3}
    plugin = registry().make("pruner", name, fields)
    assert isinstance(plugin, Pruner)
    ends = []
    for seed, device in enumerate(("cpu", DEVICE)):  # another seed is another entry of the store
        task = tiny_task(device=device)
        task.seed = 0
        (tmp_path / str(seed)).mkdir()
        monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / str(seed)))
        ends.append(plugin.prune(task))
    for key, value in ends[0].state.items():
        assert ends[1].state[key].device.type == DEVICE
        # variances are at least 1e-8 in a draw: a deviation of 1e-4 of an output
        assert _apart(value, ends[1].state[key]) < 0.02, key


def test_units_that_are_cut_are_not_computed_on_the_gpu_either() -> None:
    """Steps that are replayed on what is left end where the CPU's do."""
    ends = []
    for device in ("cpu", DEVICE):
        task = tiny_task(device=device)
        name = next(n for n in task.names if can_be_compact(task.layer(n)))
        fields = {"keep": 0.1, "epochs": 2, "batch_size": 10, "lr": 0.01, "units": ((name, 2),)}
        plugin = registry().make("pruner", "dynamic-surgery", fields)
        ends.append(plugin._made(task, None))  # type: ignore[attr-defined]
    for key, value in ends[0].state.items():
        assert _apart(value.float(), ends[1].state[key].float()) < 0.02, key


def test_a_pruner_fine_tunes_and_averages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))
    fields = {"keep": 0.3, "through": (0.5,), "epochs": (1, 1), "replicas": 2, "distill": 0.5}
    surgeon = registry().make("pruner", "surgeon", fields)
    assert isinstance(surgeon, Pruner)
    task = tiny_task(device=DEVICE)
    pruned = surgeon.prune(task)
    again = surgeon.prune(tiny_task(device=DEVICE))  # from the store
    for name, mask in pruned.masks.items():
        assert pruned.state[name].device.type == mask.device.type == DEVICE
        assert bool((pruned.state[name][~mask] == 0).all())
        assert torch.equal(pruned.state[name], again.state[name])


def test_training_in_bfloat16_ends_near_training_in_float32() -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        task = tiny_task(quantizer=TinyQuantizer(), device=DEVICE)
        plugin = registry().make("training", "finetune", {"epochs": 2, "precision": precision})
        assert isinstance(plugin, Training)
        result = plugin.train(task, None)
        values = [*task.reconstruct(result.groups).values(), *result.raw_state.values()]
        assert all(value.dtype == torch.float32 for value in values if value.is_floating_point())
        task.assign(task.reconstruct(result.groups))
        task.module.load_state_dict({**task.module.state_dict(), **result.raw_state})
        task.module.eval()
        losses.append(float(task.loss(next(iter(task.batches("train")))).detach()))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("plugin", _all("training"))
def test_a_training_ends_as_on_the_cpu(plugin: Training, pruned: bool) -> None:
    here = tiny_task(quantizer=quantizer_for(plugin), pruned=pruned)
    there = tiny_task(quantizer=quantizer_for(plugin), pruned=pruned, device=DEVICE)
    losses = []
    for task in (here, there):
        result = plugin.train(task, None)
        task.assign(task.reconstruct(result.groups))
        task.module.load_state_dict({**task.module.state_dict(), **result.raw_state})
        assert all(value.device == task.device for value in result.raw_state.values())
        task.module.eval()
        losses.append(float(task.loss(next(iter(task.batches("train")))).detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.2, abs=0.02)


def test_a_run_on_a_gpu_is_verified_on_the_cpu(tmp_path: Path) -> None:
    result = run_suite(SUITES / "quickstart.yaml", tmp_path / "out", device=DEVICE, jobs=2)
    assert result.outcome == "ok", [r.error for r in result.records if r.status != "ok"]
    assert {record.device for record in result.records} == {DEVICE}
    verdicts = list(verify(tmp_path / "out", device="cpu"))
    assert verdicts
    assert [v.fault for v in verdicts if v.fault is not None] == []
