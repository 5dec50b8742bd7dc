"""nqbench's own models and data sets."""

from __future__ import annotations

from collections.abc import Sequence

from nqbench.api import Plugin, hookimpl

nqbench_api_version = 1


@hookimpl
def nqbench_plugins() -> Sequence[type[Plugin]]:
    from nqbench_models.alexnet import AlexNet
    from nqbench_models.efficientnet import Lite0
    from nqbench_models.huggingface import HuggingFace
    from nqbench_models.lenet import LeNet5, LeNet300
    from nqbench_models.minilm import MiniLM
    from nqbench_models.module import Module
    from nqbench_models.resnet import ResNet20, ResNet32
    from nqbench_models.resnet9 import ResNet9
    from nqbench_models.smollm import SmolLM2
    from nqbench_models.synthetic import Synthetic
    from nqbench_models.timm_model import Timm
    from nqbench_models.transformer import Transformer

    own: list[type[Plugin]] = [LeNet300, LeNet5, ResNet20, ResNet32, ResNet9, AlexNet, Transformer]
    return [*own, Lite0, MiniLM, SmolLM2, Module, HuggingFace, Timm, Synthetic]
