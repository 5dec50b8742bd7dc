"""The two LeNets of the compression papers, on MNIST or on the digits that come with scikit-learn."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nqbench.api import Split
from nqbench.api.toolkit.optimise import Recipe
from nqbench_models import digits, mnist
from nqbench_models.augmentation import shifted
from nqbench_models.images import ImageModel, Images


class GreyDigits(ImageModel):
    """Shared by the LeNets: MNIST or scikit-learn's digits, with pixels / 255 minus their mean as inputs."""

    data: Literal["mnist", "digits"] = "mnist"
    """``mnist``: 60,000 training and 10,000 test images. ``digits``: bundled with scikit-learn, 1,198 and 599."""
    biases: bool = False
    """Whether biases are pruned and quantized like weights; otherwise they are stored according to ``unquantized``."""
    shift: int = Field(0, ge=0, le=8)
    """Training images are shifted at random by up to this many pixels along each axis, in all trainings."""

    def compressible(self, module: nn.Module) -> tuple[str, ...]:
        return tuple(n for n, _ in module.named_parameters()) if self.biases else super().compressible(module)

    def full_recipe(self) -> dict[str, Any]:
        """Without the parameter ``biases``, on which the trained weights do not depend, and a ``shift`` of 0."""
        whole = super().full_recipe()
        without = {"biases"} | (set() if self.shift else {"shift"})
        return whole | {"parameters": {k: v for k, v in whole["parameters"].items() if k not in without}}

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}{'-biases' if self.biases else ''}"

    def prepare(self) -> None:
        if self.data == "mnist":
            mnist.prepare()

    def images(self, split: Split) -> Images:
        return mnist.mnist(split) if self.data == "mnist" else digits.digits(split)

    def data_name(self) -> str:
        return mnist.NAME if self.data == "mnist" else digits.NAME

    def augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return shifted(pixels, generator, self.shift) if self.shift else pixels

    def augments(self) -> bool:
        return self.shift > 0

    def normalise(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32) / 255 - (mnist.MEAN if self.data == "mnist" else digits.MEAN)


class LeNet300(GreyDigits, name="lenet300", paper="arXiv:1707.04319, section 5.3"):
    """A multilayer perceptron with hidden layers of 300 and 100 units, LeNet-300-100: 266,610 parameters on MNIST."""

    activation: Literal["tanh", "relu"] = "tanh"
    """Activation function after each hidden layer."""

    def build(self) -> nn.Module:
        unit = nn.Tanh if self.activation == "tanh" else nn.ReLU
        inputs = 784 if self.data == "mnist" else 64
        layers = (nn.Flatten(), nn.Linear(inputs, 300), unit(), nn.Linear(300, 100), unit(), nn.Linear(100, 10))
        return named(("flatten", "fc1", "act1", "fc2", "act2", "fc3"), layers)

    def recipe(self) -> Recipe:
        if self.data == "digits":
            return Recipe(epochs=15, lr=2e-3, optimizer="adam", batch_size=32, schedule="cosine", weight_decay=1e-2)
        return Recipe(epochs=30, lr=0.05, batch_size=256, schedule="cosine")


class ChannelsLast(nn.Module):
    """Converts to the channels-last memory format; without it, training takes 1.5 times as long."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


class LeNet5(GreyDigits, name="lenet5", paper="arXiv:1612.01543, Table 1; Caffe's examples/mnist"):
    """Caffe's LeNet-5: convolutions of 20 and 50 maps (5 x 5, max-pooled), 500 units, 10 classes: 431,080 parameters.

    On ``digits`` the 8 x 8 images are enlarged to 28 x 28, so that the network is the same.
    """

    epochs: int = Field(12, ge=1)
    """Passes over the training images."""

    def build(self) -> nn.Module:
        names = ("conv1", "layout", "pool1", "conv2", "pool2", "flatten", "fc1", "relu", "fc2")
        convolutions = (nn.Conv2d(1, 20, 5), ChannelsLast(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2))
        return named(names, (*convolutions, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)))

    def normalise(self, pixels: Tensor) -> Tensor:
        grey = super().normalise(pixels)
        if self.data == "mnist":
            return grey
        return nn.functional.interpolate(grey, (28, 28), mode="bilinear", align_corners=False)

    def recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs, lr=1e-3, optimizer="adam", batch_size=64, schedule="cosine", weight_decay=1e-2
        )


def named(names: tuple[str, ...], layers: tuple[nn.Module, ...]) -> nn.Sequential:
    """The layers in sequence, under these names."""
    module = nn.Sequential()
    for name, layer in zip(names, layers, strict=True):
        module.add_module(name, layer)
    return module
