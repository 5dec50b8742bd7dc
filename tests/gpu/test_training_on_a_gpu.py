"""Replayed steps and data that lie on a GPU: the same training as step by step, from the same draws as on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from nqbench_models.images import ImageModel, Images
from nqbench_models.resnet import CifarResNet, ResNet20
from torch import Tensor, nn

from nqbench.api import Batch, Split, Task
from nqbench.api.toolkit.optimise import Recipe, fit
from nqbench.pipeline.precision import whole_float32
from nqbench.registry import registry
from nqbench.testing.tiny import tiny_task

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(120),
]
DEVICE = torch.device("cuda")


class Noise(ResNet20, name="noise-resnet20"):
    """A ResNet-20 on 200 seeded images."""

    def images(self, split: Split) -> Images:
        generator = torch.Generator().manual_seed(5)
        pixels = torch.randint(0, 256, (200, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return Images(pixels, torch.randint(0, 10, (200,), generator=generator))


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """In float32, and a step that could not be recorded is a failure."""
    with whole_float32(), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not replayed.*")
        yield


def test_batches_on_a_gpu_are_the_cpus() -> None:
    model = Noise(weights_from="recipe")
    here = list(model.batches("train", batch_size=64, shuffle=3))
    there = list(model.batches_on(DEVICE, "train", batch_size=64, shuffle=3))
    assert [len(labels) for _, labels in there] == [64, 64, 64, 8]
    for (x, y), (images, labels) in zip(here, there, strict=True):
        assert images.device.type == labels.device.type == "cuda"
        assert torch.equal(y, labels.cpu())
        torch.testing.assert_close(images.cpu(), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_replayed_steps_are_the_steps(optimizer: str, precision: str) -> None:
    """Smaller last batches, a rate that changes from epoch to epoch and a mask that does within one."""
    ends: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    for replay in (False, True):
        torch.manual_seed(0)
        module = CifarResNet(1).to(DEVICE).train()
        mask = torch.ones_like(module.layer1[0].conv1.weight)  # type: ignore[union-attr,arg-type]

        def loss(batch: Batch, module: nn.Module = module, mask: Tensor = mask) -> Tensor:
            with torch.no_grad():
                module.layer1[0].conv1.weight.mul_(mask)  # type: ignore[union-attr,index]
            return nn.functional.cross_entropy(module(batch[0]).float(), batch[1])

        def change(mask: Tensor = mask) -> None:
            mask.view(-1)[:7].zero_()

        parameters = dict(module.named_parameters())
        moments = fit(
            Recipe(epochs=3, lr=1e-3, optimizer=optimizer, schedule="cosine", precision=precision),  # type: ignore[arg-type]
            parameters,
            lambda seed: Noise(weights_from="recipe").batches_on(DEVICE, "train", batch_size=32, shuffle=seed),
            loss,
            state=dict(module.named_buffers()),
            between_steps=change,
            replay=replay,
        )
        ends.append(({**module.state_dict()}, moments))
    assert bool((ends[1][0]["layer1.0.conv1.weight"].view(-1)[:7].abs() < 5e-3).all())
    assert int(ends[1][0]["bn1.num_batches_tracked"]) == 3 * 7
    # What the whole network moved is compared: sums come in another order each time. A gradient is so known to d of its
    # size, 2^-8 in bfloat16 before layers add up. SGD moves by gradients, d apart. Adam's first steps have one length
    # and the gradient's sign: of normal gradients a share of 0.8 d is all but rounding, half of these go the other way,
    # two steps off, so that sqrt(1.6 d) of the way is between two sound trainings, 0.08 in bfloat16 and 0.16 where four
    # roundings add up. A batch of before is 1 and more apart, a rate of before (cosine: 1, 0.75, 0.25) some 0.5.
    limit = {"sgd float32": 1e-3, "adam float32": 0.1, "sgd bfloat16": 0.1, "adam bfloat16": 0.3}
    torch.manual_seed(0)
    start = CifarResNet(1).to(DEVICE).state_dict()
    once, again = (_moved(start, state) for state, _ in ends)
    assert float((once - again).norm() / once.norm()) < limit[f"{optimizer} {precision}"]
    assert set(ends[0][1]) == set(ends[1][1])


def _moved(start: dict[str, Tensor], end: dict[str, Tensor]) -> Tensor:
    names = [name for name, value in start.items() if value.is_floating_point() and "running" not in name]
    return torch.cat([(end[name] - start[name]).double().reshape(-1) for name in names])


def test_a_model_trains_and_its_teachers_teach(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))
    model = Noise(weights_from="recipe", epochs=2, precision="bfloat16", holdout=40)
    assert isinstance(model, ImageModel)
    module = model.load(DEVICE)
    task = Task(model, module, model.compressible(module))
    fields = {"keep": 0.2, "epochs": 4, "lr": 0.05, "batch_size": 64, "distill": 0.5, "precision": "bfloat16"}
    pruned = registry().make("pruner", "dynamic-surgery", fields).prune(task)  # type: ignore[attr-defined]
    kept = sum(int(m.sum()) for m in pruned.masks.values())
    assert kept == round(0.2 * sum(m.numel() for m in pruned.masks.values()))
    for name, mask in pruned.masks.items():
        assert bool((pruned.state[name][~mask] == 0).all())


@pytest.mark.parametrize("name", ["magnitude", "surgeon", "dynamic-surgery"])
def test_a_pruner_replays_its_steps(name: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))
    ends = []
    for device in ("cpu", "cuda"):
        fields = {"keep": 0.5, "epochs": 2, "batch_size": 10, "lr": 0.02, "distill": 0.5}
        pruned = registry().make("pruner", name, fields).prune(tiny_task(device=device, seed=len(ends)))  # type: ignore[attr-defined]
        ends.append(sum(int(m.sum()) for m in pruned.masks.values()))
    assert ends[0] == ends[1]
