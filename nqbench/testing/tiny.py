"""A network of some 700 weights with its data: what pruners, sensitivities and trainings are checked on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from nqbench.api import Batch, Granularity, Model, Quantized, Quantizer, Sensitivity, Source, Split, Task

CLASSES = 3


class TinyNet(Model, name="tiny-net"):
    """A convolution with batch norm and two linear layers on 96 seeded images of 6 x 6; nothing is downloaded."""

    replays: ClassVar[bool] = True

    def fingerprint(self) -> str:
        return "tiny-net 1"

    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10), nn.ReLU(),
                nn.Linear(10, CLASSES),
            )  # fmt: skip
        return module.eval().to(device)

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        images, labels = _data(0 if split == "train" else 1)
        order = torch.arange(len(labels))
        if shuffle is not None:
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(shuffle))
        for part in torch.split(order, batch_size):
            yield images[part], labels[part]


def _data(seed: int) -> tuple[Tensor, Tensor]:
    """(96, 1, 6, 6) images and labels that a linear map of them decides, so that there is something to learn."""
    images = torch.randn(96, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    decide = torch.randn(36, CLASSES, generator=torch.Generator().manual_seed(2))
    return images, (images.reshape(96, 36) @ decide).argmax(1)


class TinyQuantizer(Quantizer, name="tiny-quantizer"):
    """Four levels, equally spaced between the extremes: the simplest thing that trainings can be checked with."""

    def quantize(self, source: Source) -> Quantized:
        low, high = (float(value) for value in source.weights.aminmax())
        return Quantized.nearest(source, torch.linspace(low, high, 4))


def tiny_task(
    *, quantizer: Quantizer | None = None, sensitivity: Sensitivity | None = None, granularity: Granularity = "global",
    pruned: bool = False, seed: int = 0, device: str = "cpu",
) -> Task:  # fmt: skip
    """A task on the tiny network. pruned: half of the first linear layer's weights, the smallest, are."""
    model = TinyNet()
    module = model.load(torch.device(device))
    names = model.compressible(module)
    moments = {name: 1e-3 + parameter.detach().square() for name, parameter in module.named_parameters()}
    task = Task(model, module, names, _prune(module) if pruned else {}, quantizer, granularity, sensitivity,
                moments=moments, seed=seed)  # fmt: skip
    if sensitivity is not None and sensitivity.form != "none":
        task.sensed = sensitivity.sense(task, names)
    return task


def _prune(module: nn.Module) -> Mapping[str, Tensor]:
    weight = module.get_parameter("4.weight")
    mask = weight.detach().abs() > weight.detach().abs().median()
    with torch.no_grad():
        weight.mul_(mask)
    return {"4.weight": mask}


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's whole state."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: Mapping[str, Tensor]) -> list[str]:
    """Names of the state's tensors that are not what they were."""
    now = module.state_dict()
    return [name for name, value in before.items() if name not in now or not torch.equal(now[name], value)]
