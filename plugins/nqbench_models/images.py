"""Shared by all image classifiers here: images in memory, shuffled batches, training, and the store of trained
weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from nqbench.api import Batch, Model, Split
from nqbench.api.toolkit.optimise import Recipe, fit, one_thread, seeded
from nqbench.api.toolkit.store import Trained, recipe_digest, trained

KEPT_BYTES = 2**28
"""Largest number of bytes of normalized inputs that a process keeps in memory."""


@dataclass(frozen=True, eq=False)
class Images:
    """pixels: (N, C, H, W) uint8. labels: (N,) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Images:
        return Images(self.pixels[start:stop], self.labels[start:stop])


class ImageModel(Model):
    """An image classifier trained on ``images("train")`` without the last ``holdout``, which are its validation split.

    A subclass defines how to ``build`` the network, the ``images``, how pixels become inputs (``normalise``), and the
    ``recipe`` of the training. Networks are trained on one thread, so that the weights do not depend on a worker's
    number of threads; on the same machine and build of PyTorch they are bitwise reproducible.
    """

    VERSION: ClassVar[int] = 1
    """To be increased when a change of the training code changes its result: the weights are then trained again."""

    replays: ClassVar[bool] = True

    holdout: int = Field(0, ge=0)
    """Number of training images (the last ones) that are not trained on and form the validation split."""
    train_seed: int = Field(0, ge=0)
    """Seed of the initial weights and of the order of the images."""

    # -- what a subclass says ------------------------------------------------------------------------------------
    def build(self) -> nn.Module:
        """The network with its initial weights, drawn from torch's global generator."""
        raise NotImplementedError

    def images(self, split: Split) -> Images:
        """All images of a split, which is ``train`` or ``test``."""
        raise NotImplementedError

    def data_name(self) -> str:
        """A text that identifies the data set."""
        raise NotImplementedError

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> the network's input, float32."""
        return pixels.to(torch.float32) / 255

    def augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, H, W) uint8 -> the augmented images, on the same device. generator: on the CPU, so that random numbers
        do not depend on the device. Default: unchanged."""
        return pixels

    def augments(self) -> bool:
        """Whether ``augment`` changes anything."""
        return type(self).augment is not ImageModel.augment

    def recipe(self) -> Recipe:
        raise NotImplementedError

    # -- the contract -----------------------------------------------------------------------------------------------
    def full_recipe(self) -> dict[str, Any]:
        """Everything that the trained weights depend on."""
        return {
            "model": self.name,
            "parameters": self.model_dump(mode="json"),
            "data": self.data_name(),
            "recipe": self.recipe().model_dump(mode="json", exclude_none=True, exclude={"precision"}),
            "version": self.VERSION,
        }

    def fingerprint(self) -> str:
        return f"{self.name}-{recipe_digest(self.full_recipe())}"

    def load(self, device: torch.device) -> nn.Module:
        with seeded(self.train_seed):
            module = self.build()
        module.load_state_dict(self.weights(device).state)
        return module.to(device).eval()

    def moments(self, device: torch.device) -> Mapping[str, Tensor] | None:
        kept = self.weights(device).moments
        return {name: value.to(device) for name, value in kept.items()} or None

    def weights(self, device: torch.device) -> Trained:
        """The trained state: from the store, or trained now, on the device."""
        return trained(self.name, self.full_recipe(), lambda workdir: self.train(workdir, device))

    def train(self, workdir: Path, device: torch.device) -> Trained:
        """Train from the initial weights by the recipe, resuming from a checkpoint in ``workdir`` if there is one."""
        recipe = self.recipe()
        with one_thread(), seeded(self.train_seed):
            module = self.build().to(device).train()
            moments = fit(
                recipe,
                {name: p for name, p in module.named_parameters() if p.requires_grad},
                lambda seed: self.batches_on(device, "train", batch_size=recipe.batch_size, shuffle=seed),
                lambda batch: self._mean_loss(module, batch),
                state=dict(module.named_buffers()),
                checkpoint=workdir / "epoch.safetensors",
                replay=self.replays,
            )
        return Trained(module.state_dict(), moments)

    def _mean_loss(self, module: nn.Module, batch: Batch) -> Tensor:
        return self.losses(self.predict(module, batch).float(), batch).mean()

    def has_split(self, split: Split) -> bool:
        return split != "validation" or self.holdout > 0

    def examples(self, split: Split) -> Images:
        """The images of a split, with the held-out ones removed from ``train``."""
        if split == "test":
            return self.images("test")
        whole = self.images("train")
        border = len(whole) - self.holdout
        return whole.part(0, border) if split == "train" else whole.part(border, len(whole))

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        """(inputs (B, ...) float32, labels (B,) int64)."""
        data = self.examples(split)
        if shuffle is None:
            for start in range(0, len(data), batch_size):
                part = data.part(start, start + batch_size)
                yield self.normalise(part.pixels), part.labels
            return
        yield from self._drawn(data, _prepared(self, split), batch_size, shuffle)

    def batches_on(self, device: torch.device, split: Split, *, batch_size: int = 256, shuffle: int) -> Iterator[Batch]:
        """On a GPU, all images are in its memory and are augmented there, with the same random numbers as on the
        CPU."""
        if device.type == "cpu":
            yield from self.batches(split, batch_size=batch_size, shuffle=shuffle)
        else:
            yield from self._drawn(_resident(self, split, device), None, batch_size, shuffle)

    def _drawn(self, data: Images, ready: Tensor | None, batch_size: int, seed: int) -> Iterator[Batch]:
        """Batches in random order, on the device of the data. ready: all images as the network's inputs."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(data), generator=generator).to(data.labels.device)
        for start in range(0, len(data), batch_size):
            chosen = order[start : start + batch_size]
            labels = data.labels[chosen]
            if ready is None:
                yield self.normalise(self.augment(data.pixels[chosen], generator)), labels
            else:
                yield ready.index_select(0, chosen), labels


@lru_cache(maxsize=2)
def _resident(model: ImageModel, split: Split, device: torch.device) -> Images:
    """A split on a device. Two are cached: that of a training, and that of a model that is its teacher."""
    data = model.examples(split)
    return Images(data.pixels.to(device), data.labels.to(device))


@lru_cache(maxsize=1)
def _prepared(model: ImageModel, split: Split) -> Tensor | None:
    """All images of a split as the network's inputs, if they are not augmented and take little memory; otherwise None.

    A step then only has to gather rows; normalizing in each step took a tenth of the time of a step of LeNet-300-100.
    """
    pixels = model.examples(split).pixels
    if model.augments() or 4 * pixels.numel() > KEPT_BYTES:
        return None
    inputs = model.normalise(pixels)
    # contiguous, like gathered rows: with other strides another convolution algorithm would round differently
    plain = inputs.stride() == torch.empty(inputs.shape, device="meta").stride()
    return inputs if plain and 4 * inputs.numel() <= KEPT_BYTES else None
