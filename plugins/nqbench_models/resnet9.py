"""ResNet-9 for CIFAR-10: shallow and wide, so that a GPU trains it in half a minute; a teacher for smaller networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nqbench.api import Split
from nqbench.api.toolkit.optimise import Recipe
from nqbench_models import cifar
from nqbench_models.augmentation import cut_out, flip_and_shift
from nqbench_models.images import ImageModel, Images


class Residual(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return x + y


class Network(nn.Module):
    """(B, 3, 32, 32) -> (B, 10) logits; 64, 128, 256 and 512 channels for ``width`` 64."""

    SCALE = 0.125
    """The factor of the logits, which would otherwise be large at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.prepare = convolution(3, width)
        self.layer1 = nn.Sequential(convolution(width, 2 * width, pool=True), Residual(2 * width))
        self.layer2 = convolution(2 * width, 4 * width, pool=True)
        self.layer3 = nn.Sequential(convolution(4 * width, 8 * width, pool=True), Residual(8 * width))
        self.linear = nn.Linear(8 * width, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.layer3(self.layer2(self.layer1(self.prepare(x))))
        logits: Tensor = self.linear(x.amax((2, 3)))
        return logits * self.SCALE


def convolution(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    """A 3 x 3 convolution, batch norm and ReLU, with ``pool`` followed by 2 x 2 max-pooling."""
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


class MeanLogits(nn.Module):
    """An ensemble of networks: the mean of their logits."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self.networks]).mean(0)


class ResNet9(ImageModel, name="resnet9", paper="D. Page, How to train your ResNet (2018)"):
    """The DAWNBench network: eight convolutions, 6.6 million parameters; trained by nqbench, with cutout."""

    epochs: int = Field(40, ge=1)
    """Passes over the training images."""
    width: int = Field(64, ge=1)
    """Channels of the first layer; the last has eight times as many."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """``bfloat16``: trains under autocast, several times as fast on GPUs; slower on CPUs without native support."""

    def build(self) -> nn.Module:
        return Network(self.width)

    def prepare(self) -> None:
        cifar.prepare()

    def images(self, split: Split) -> Images:
        return cifar.cifar10(split)

    def data_name(self) -> str:
        return cifar.NAME

    def normalise(self, pixels: Tensor) -> Tensor:
        return cifar.normalised(pixels)

    def augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return cut_out(flip_and_shift(pixels, generator, reach=4), generator, size=8, value=GREY)

    def recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            lr=0.4,
            batch_size=512,
            schedule="one-cycle",
            weight_decay=5e-4,
            precision=self.precision,
        )


GREY = 116
"""The value of the pixels in a cut-out square, approximately the mean pixel."""
