"""The CIFAR-10 ResNets of He et al. (arXiv:1512.03385, section 4.2): 6 n + 2 layers, shortcuts without parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, ValidationError, field_validator, model_validator
from torch import Tensor, nn

from nqbench.api import DataMissing, Evaluation, Former, Metric, Split
from nqbench.api.toolkit.download import digest_of
from nqbench.api.toolkit.optimise import Recipe
from nqbench.api.toolkit.paths import data_dir, find_data
from nqbench.api.toolkit.store import Trained, recipe_digest
from nqbench_models import cifar
from nqbench_models.augmentation import flip_and_shift
from nqbench_models.images import ImageModel, Images
from nqbench_models.resnet9 import MeanLogits, ResNet9

_TEST_IMAGES = 10_000


def relu(x: Tensor) -> Tensor:
    """ReLU, in place if no gradient is computed, which makes an evaluation an eighth faster."""
    return nn.functional.relu(x, inplace=not torch.is_grad_enabled())


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut that subsamples and pads with zero channels (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.pad = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.pad:
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return relu(y + x)


class CifarResNet(nn.Module):
    """(B, 3, 32, 32) -> (B, 10) logits; three stages of ``blocks`` blocks with 16, 32 and 64 channels."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = Block(inputs, outputs, stride)
        return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        # batch norm and convolution are fastest here in the channels-last memory format
        x = x.contiguous(memory_format=torch.channels_last)
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class ResNet(ImageModel):
    """Shared by the CIFAR-10 ResNets; a subclass defines the depth."""

    former_fields = {
        "teachers": Former("distilled_from", {n: [{"resnet9": {"train_seed": i}} for i in range(n)] for n in range(9)})
    }

    blocks: ClassVar[int]
    evaluation_batch: ClassVar[int] = 32
    """Small enough for activations to stay in the processor's cache."""

    weights_from: Literal["file", "recipe"] = "file"
    """``file``: the given weights, NQBENCH_DATA/weights/<name>-cifar10.safetensors. ``recipe``: trained by nqbench."""
    epochs: int = Field(200, ge=1)
    """Passes over the training images, for ``weights_from: recipe``."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16``: trains under autocast, at least twice as fast on GPUs and CPUs with native support, slower on
    others."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The dtype to which the trained weights are rounded and in which the network computes."""
    data: Literal["cifar10", "none"] = "cifar10"
    """``none``: no data and no metric, for suites that only measure rate and distortion."""
    distilled_from: tuple[str | dict[str, dict[str, Any]], ...] = ()
    """The networks whose mean logits are the teacher for distillation: ``resnet9``, ``resnet20`` or ``resnet32``, with
    or without parameters ([{resnet9: {train_seed: 1}}, resnet32]); those trained here are trained on the same images.
    A list is one setting; a sweep over two settings is [[resnet9], [resnet20, resnet32]]. None: the teacher is the
    trained network itself."""
    compared: int = Field(0, ge=0, le=_TEST_IMAGES)
    """Number of images of the test split to evaluate, the first ones; 0: all. A part may suffice for agreement with the
    float network and divergence from it, which are far less noisy than accuracy."""
    held_from: Literal["train", "test"] = "train"
    """Of which images ``holdout`` are the validation split: the last training images, on which recipes do not train, or
    the first ``test`` images, which the test split then lacks. The latter for the given weights, which were trained on
    all training images."""

    @model_validator(mode="after")
    def _some_are_left(self) -> Self:
        if self.held_from == "test" and not 0 < self.holdout < _TEST_IMAGES:
            raise ValueError(
                f"'held_from: test' makes the first 'holdout' of {_TEST_IMAGES:,} test images the validation split: "
                f"give holdout between 1 and {_TEST_IMAGES - 1:,}, not {self.holdout}"
            )
        return self

    @field_validator("distilled_from")
    @classmethod
    def _are_networks(cls, teachers: tuple[Any, ...]) -> tuple[Any, ...]:
        for teacher in teachers:
            _named(teacher)
        return teachers

    @property
    def untrained(self) -> int:
        """Number of training images (the last ones) that are not trained on."""
        return self.holdout if self.held_from == "train" else 0

    def build(self) -> nn.Module:
        return CifarResNet(self.blocks)

    def prepare(self) -> None:
        if self.data == "cifar10" or self.weights_from == "recipe":
            cifar.prepare()
        if self.weights_from == "file":
            self._file()
        for teacher in self._teachers():
            teacher.prepare()

    def _file(self) -> Path:
        name = f"weights/{self.name}-cifar10.safetensors"
        path = find_data(name)
        if path is None:
            raise DataMissing(
                f"{self.name} needs its trained weights at {data_dir() / name}; or train them: weights_from: recipe"
            )
        return path

    def images(self, split: Split) -> Images:
        return cifar.cifar10(split)

    def data_name(self) -> str:
        return cifar.NAME

    def normalise(self, pixels: Tensor) -> Tensor:
        return cifar.normalised(pixels).to(getattr(torch, self.dtype))

    def load(self, device: torch.device) -> nn.Module:
        return super().load(device).to(getattr(torch, self.dtype))

    def augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return flip_and_shift(pixels, generator, reach=4)

    def teacher(self, device: torch.device) -> nn.Module:
        if not self.distilled_from:
            return super().teacher(device)
        return MeanLogits([teacher.load(device) for teacher in self._teachers()]).to(getattr(torch, self.dtype))

    def untaught(self) -> Self:
        return self.model_copy(update={"distilled_from": ()})

    def _teachers(self) -> list[ImageModel]:
        return [_named(teacher, holdout=self.untrained) for teacher in self.distilled_from]

    def recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            lr=0.1,
            batch_size=128,
            schedule="cosine",
            weight_decay=5e-4,
            precision=self.precision,
        )

    def full_recipe(self) -> dict[str, Any]:
        """The recipe of the trained weights: without the teachers, the dtype and the data for evaluation, which do not
        affect them."""
        if self.weights_from == "recipe":
            whole = super().full_recipe()
            left_out = ("distilled_from", "dtype", "data", "compared", "held_from")
            kept = {k: v for k, v in whole["parameters"].items() if k not in left_out}
            return whole | {"parameters": kept | {"holdout": self.untrained}}
        digest = digest_of(self._file(), "sha256")
        return {"model": self.name, "weights": digest, "data": self.data_name(), "holdout": self.untrained}

    def fingerprint(self) -> str:
        plain = not self.distilled_from and not self.compared and self.held_from == "train"
        if plain and self.dtype == "float32" and self.data == "cifar10":
            return super().fingerprint()
        taught = self.full_recipe()
        if self.distilled_from:
            taught |= {"teachers": [t.fingerprint() for t in self._teachers()]}
        if self.compared:
            taught |= {"compared": self.compared}
        if self.held_from == "test":
            taught |= {"held from the test images": self.holdout}
        taught |= {"dtype": self.dtype, "evaluated on": self.data}
        return f"{self.name}-{recipe_digest(taught)}"

    def weights(self, device: torch.device) -> Trained:
        if self.weights_from == "recipe":
            return super().weights(device)
        from safetensors.torch import load_file

        return Trained(load_file(self._file()))

    def metric(self) -> Metric | None:
        return None if self.data == "none" else super().metric()

    def evaluate(self, module: nn.Module, split: Split = "test") -> Evaluation:
        return Evaluation() if self.data == "none" else super().evaluate(module, split)

    def examples(self, split: Split) -> Images:
        found = super().examples(split) if self.held_from == "train" else self._of_the_test(split)
        return found.part(0, self.compared) if self.compared and split == "test" else found

    def _of_the_test(self, split: Split) -> Images:
        """The images of a split where the test images are divided in two."""
        if split == "train":
            return self.images("train")
        whole = self.images("test")
        return whole.part(0, self.holdout) if split == "validation" else whole.part(self.holdout, len(whole))

    def has_split(self, split: Split) -> bool:
        if self.data == "none":
            return False
        # the given weights were trained on all training images
        apart = self.weights_from == "recipe" or self.held_from == "test"
        return split != "validation" or (self.holdout > 0 and apart)


def _named(teacher: str | Mapping[str, Mapping[str, Any]], **unless_given: Any) -> ImageModel:
    """The model of an entry of ``distilled_from``. unless_given: values of parameters that the entry need not give.

    Raises ValueError, which pydantic reports.
    """
    if not isinstance(teacher, str) and len(teacher) != 1:
        raise ValueError(f"{dict(teacher)} is not one network: NAME, or {{NAME: {{PARAMETER: VALUE}}}}")
    name, parameters = (teacher, {}) if isinstance(teacher, str) else next(iter(teacher.items()))
    networks: dict[str, type[ImageModel]] = {network.name: network for network in (ResNet9, ResNet20, ResNet32)}
    if name not in networks:
        raise ValueError(f"there is no teacher '{name}': {', '.join(networks)}")
    if parameters.get("distilled_from"):
        raise ValueError(f"'{name}': a teacher has no teachers of its own")
    try:
        return networks[name].model_validate({**unless_given, **parameters})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"'{name}': {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


class ResNet20(ResNet, name="resnet20", paper="arXiv:1512.03385, section 4.2"):
    """ResNet-20 on CIFAR-10: 269,722 parameters."""

    blocks: ClassVar[int] = 3


class ResNet32(ResNet, name="resnet32", paper="arXiv:1512.03385, section 4.2"):
    """ResNet-32 on CIFAR-10: 464,154 parameters."""

    blocks: ClassVar[int] = 5
