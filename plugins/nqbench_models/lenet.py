"""The two LeNets of the compression papers, on MNIST or on scikit-learn's bundled digits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nqbench.api import DataMissing, Split
from nqbench.api.toolkit.optimise import Recipe
from nqbench_models import digits
from nqbench_models.images import ImageModel, Images


class LeNet300(ImageModel, name="lenet300", paper="arXiv:1707.04319, section 5.3"):
    """A multilayer perceptron with hidden layers of 300 and 100 units: LeNet-300-100."""

    data: Literal["mnist", "digits"] = "mnist"
    """``mnist``: 784 inputs, 266,610 parameters. ``digits``: 64 inputs, bundled, trained in seconds."""
    activation: Literal["tanh", "relu"] = "tanh"
    """What follows each hidden layer."""

    def build(self) -> nn.Module:
        unit = nn.Tanh if self.activation == "tanh" else nn.ReLU
        inputs = 784 if self.data == "mnist" else 64
        layers = (nn.Flatten(), nn.Linear(inputs, 300), unit(), nn.Linear(300, 100), unit(), nn.Linear(100, 10))
        names = ("flatten", "fc1", "act1", "fc2", "act2", "fc3")
        module = nn.Sequential()
        for name, layer in zip(names, layers, strict=True):
            module.add_module(name, layer)
        return module

    def images(self, split: Split) -> Images:
        if self.data == "mnist":
            raise DataMissing("lenet300 on mnist is not readable yet; use data: digits")
        return digits.digits(split)

    def data_name(self) -> str:
        return digits.NAME

    def normalise(self, pixels: Tensor) -> Tensor:
        # digits' mean intensity is 0.306
        return pixels.to(torch.float32) / 255 - 0.306

    def recipe(self) -> Recipe:
        return Recipe(epochs=15, lr=2e-3, optimizer="adam", batch_size=32, schedule="cosine", weight_decay=1e-2)
