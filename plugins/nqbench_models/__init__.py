"""nqbench's own models."""

from __future__ import annotations

from collections.abc import Sequence

from nqbench.api import Plugin, hookimpl

nqbench_api_version = 1


@hookimpl
def nqbench_plugins() -> Sequence[type[Plugin]]:
    from nqbench_models.alexnet import AlexNet
    from nqbench_models.lenet import LeNet5, LeNet300
    from nqbench_models.module import Module
    from nqbench_models.resnet import ResNet20, ResNet32
    from nqbench_models.resnet9 import ResNet9
    from nqbench_models.synthetic import Synthetic
    from nqbench_models.transformer import Transformer

    return [LeNet300, LeNet5, ResNet20, ResNet32, ResNet9, AlexNet, Transformer, Module, Synthetic]
