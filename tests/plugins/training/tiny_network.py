"""A network of a few hundred weights on random data, small enough for explicit Jacobians and Hessians."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from nqbench.api import Batch, Model, Quantized, Quantizer, Source, Split, Task


class Tiny(Model, name="tiny"):
    """Two convolutions (one grouped), batch norm, tanh, two linear layers, on 24 random 2 x 6 x 6 images."""

    data_seed: int = 0
    kind_of_loss: Literal["categorical", "gaussian"] = "categorical"

    def fingerprint(self) -> str:
        return f"tiny-{self.data_seed}"

    def load(self, device: torch.device) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.data_seed)
            module = nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1, bias=False),
                nn.BatchNorm2d(4),
                nn.ReLU(inplace=True),
                nn.Conv2d(4, 4, 3, stride=2, groups=2),
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(16, 6),
                nn.Tanh(),
                nn.Linear(6, 3),
            )
            module[1].running_mean.normal_()
            module[1].running_var.uniform_(0.5, 2)
            module[1].weight.data.uniform_(0.5, 2)
        return module.eval()

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.data_seed + 1)
        images = torch.randn(24, 2, 6, 6, generator=generator)
        labels = torch.randint(0, 3, (24,), generator=generator)
        order = torch.arange(24)
        if shuffle is not None:
            order = torch.randperm(24, generator=torch.Generator().manual_seed(shuffle))
        for chosen in order.split(batch_size):
            yield images[chosen], labels[chosen]

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        if self.kind_of_loss == "categorical":
            return super().losses(outputs, batch)
        target = nn.functional.one_hot(batch[1], 3).float()
        return 0.5 * (outputs - target).square().sum(1)

    def likelihood(self) -> Literal["categorical", "gaussian", "other"]:
        return self.kind_of_loss


class Levels(Quantizer, name="levels"):
    """k equally spaced codewords between the extremes, as a movable codebook."""

    k: int = 4

    def quantize(self, source: Source) -> Quantized:
        low, high = source.weights.aminmax()
        return Quantized.nearest(source, torch.linspace(float(low), float(high), self.k))


def make_task(model: Model | None = None, **fields: object) -> Task:
    model = model or Tiny()
    module = model.load(torch.device("cpu"))
    fields.setdefault("names", model.compressible(module))
    return Task(model, module, **fields)  # type: ignore[arg-type]
