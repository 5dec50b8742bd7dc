"""nqbench's own models."""

from __future__ import annotations

from collections.abc import Sequence

from nqbench.api import Plugin, hookimpl

nqbench_api_version = 1


@hookimpl
def nqbench_plugins() -> Sequence[type[Plugin]]:
    from nqbench_models.lenet import LeNet5, LeNet300
    from nqbench_models.resnet import ResNet20, ResNet32

    return [LeNet300, LeNet5, ResNet20, ResNet32]
