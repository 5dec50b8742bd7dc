"""Small random networks, by number: ``random_networks:network_17``, for the model ``module``.

Layers are drawn from all of torch.nn's that have weights; some are shared, called twice, never called, frozen, or
parametrized, old style or new; dtypes, buffers and outputs are odd at times. ``describe(17)`` says what it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

WIDTH, CLASSES, EXAMPLES = 12, 3, 16


def _fit(x: Tensor, width: int) -> Tensor:
    """(B, width): padded with zeros, or cut."""
    return nn.functional.pad(x, (0, width - x.shape[1]))


class Shaped(nn.Module):
    """A layer that sees (B, ...) of a shape of its own, between two that see (B, n)."""

    def __init__(self, inner: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self.shape = inner, shape

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.inner(_fit(x, prod(self.shape)).reshape(len(x), *self.shape))
        first: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return first.flatten(1)


class Looked(nn.Module):
    """An embedding of what the numbers are, rounded."""

    def __init__(self, inner: nn.Module, count: int) -> None:
        super().__init__()
        self.inner, self.count = inner, count

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner((_fit(x, 4).float().abs() * 3).long() % self.count)
        return found.flatten(1)


class Twice(nn.Module):
    """A layer of two or three arguments that is given one and the same."""

    def __init__(self, inner: nn.Module, shape: tuple[int, ...], arguments: int) -> None:
        super().__init__()
        self.inner, self.shape, self.arguments = inner, shape, arguments

    def forward(self, x: Tensor) -> Tensor:
        x = _fit(x, prod(self.shape)).reshape(len(x), *self.shape)
        outputs = self.inner(*([x] * self.arguments))
        first: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return first.flatten(1)


LAYERS: dict[str, Callable[[random.Random], nn.Module]] = {
    "Linear": lambda r: Shaped(nn.Linear(12, r.choice([1, 5, 9]), bias=r.random() < 0.7), (12,)),
    "Linear over places": lambda r: Shaped(nn.Linear(4, 3), (3, 4)),
    "Conv1d": lambda r: Shaped(nn.Conv1d(2, 4, 3, padding=r.choice([0, 1, "same"]), groups=r.choice([1, 2])), (2, 6)),
    "Conv2d": lambda r: Shaped(nn.Conv2d(2, 4, (2, 3), stride=r.choice([1, 2]), dilation=r.choice([1, 1])), (2, 3, 4)),
    "Conv2d padded": lambda r: Shaped(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode=r.choice(["reflect", "circular", "replicate"])), (2, 3, 4)
    ),
    "Conv3d": lambda r: Shaped(nn.Conv3d(1, 2, 2, padding=r.choice([0, 1])), (1, 2, 3, 2)),
    "ConvTranspose1d": lambda r: Shaped(nn.ConvTranspose1d(2, 2, 3, groups=r.choice([1, 2])), (2, 5)),
    "ConvTranspose2d": lambda r: Shaped(nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 2, 3)),
    "ConvTranspose3d": lambda r: Shaped(nn.ConvTranspose3d(1, 1, 2), (1, 2, 2, 2)),
    "Bilinear": lambda r: Twice(nn.Bilinear(5, 5, 4), (5,), 2),
    "Embedding": lambda r: Looked(nn.Embedding(7, 3, padding_idx=r.choice([None, 0])), 7),
    "EmbeddingBag": lambda r: Looked(nn.EmbeddingBag(6, 4, mode=r.choice(["sum", "mean"])), 6),
    "RNN": lambda r: Shaped(nn.RNN(4, 3, num_layers=r.choice([1, 2]), batch_first=True), (3, 4)),
    "LSTM": lambda r: Shaped(nn.LSTM(4, 3, bidirectional=r.random() < 0.5, batch_first=True), (3, 4)),
    "LSTM projected": lambda r: Shaped(nn.LSTM(4, 3, proj_size=2, batch_first=True), (3, 4)),
    "GRU": lambda r: Shaped(nn.GRU(4, 3, batch_first=True), (3, 4)),
    "RNNCell": lambda r: Shaped(nn.RNNCell(6, 4), (6,)),
    "LSTMCell": lambda r: Shaped(nn.LSTMCell(6, 4), (6,)),
    "GRUCell": lambda r: Shaped(nn.GRUCell(6, 4), (6,)),
    "MultiheadAttention": lambda r: Twice(nn.MultiheadAttention(4, 2, batch_first=True), (3, 4), 3),
    "MultiheadAttention of other keys": lambda r: Twice(
        nn.MultiheadAttention(4, 1, kdim=4, vdim=4, add_bias_kv=True, batch_first=True), (3, 4), 3
    ),
    "TransformerEncoderLayer": lambda r: Shaped(
        nn.TransformerEncoderLayer(4, 2, 6, norm_first=r.random() < 0.5, batch_first=True), (3, 4)
    ),
    "TransformerDecoderLayer": lambda r: Twice(nn.TransformerDecoderLayer(4, 2, 6, batch_first=True), (3, 4), 2),
    "BatchNorm1d": lambda r: Shaped(nn.BatchNorm1d(6, affine=r.random() < 0.8), (6,)),
    "BatchNorm2d": lambda r: Shaped(nn.BatchNorm2d(2, track_running_stats=r.random() < 0.8), (2, 2, 3)),
    "SyncBatchNorm's kind": lambda r: Shaped(nn.BatchNorm3d(2, momentum=None), (2, 1, 2, 3)),
    "InstanceNorm1d": lambda r: Shaped(nn.InstanceNorm1d(2, affine=True, track_running_stats=True), (2, 6)),
    "LayerNorm": lambda r: Shaped(nn.LayerNorm([3, 4]), (3, 4)),
    "RMSNorm": lambda r: Shaped(nn.RMSNorm(6), (6,)),
    "GroupNorm": lambda r: Shaped(nn.GroupNorm(2, 4), (4, 3)),
    "PReLU": lambda r: Shaped(nn.PReLU(r.choice([1, 6])), (6,)),
}
NORMED = ("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d", "Linear over places")
"""What parametrizations are put on."""
PARAMETRIZED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
}
BUFFERS: dict[str, Tensor] = {
    "counter": torch.tensor(3),
    "mask": torch.tensor([True, False]),
    "wide": torch.tensor([torch.pi, 1e-300], dtype=torch.float64),
    "nothing": torch.empty(0, 3),
    "narrow": torch.tensor([0.1, 0.2]).bfloat16(),
    "causal": torch.full((2, 2), -torch.inf).triu(1),
    "spectrum": torch.tensor([1 + 2j]),
}
OUTPUTS = ("tensor", "tensor", "tensor", "dict", "tuple", "logits", "list")


class RandomNetwork(nn.Module):
    """Blocks one after another, then a classifier; what else is in it, ``says``."""

    def __init__(self, number: int) -> None:
        super().__init__()
        r = random.Random(number)
        torch.manual_seed(number)
        names = r.choices(list(LAYERS), k=r.randint(1, 4))
        self.says = [*names]
        blocks = []
        for name in names:
            block = LAYERS[name](r)
            if name in NORMED and r.random() < 0.5:
                how = r.choice(list(PARAMETRIZED))
                self.says.append(f"{name} by {how}")
                PARAMETRIZED[how](block.inner)
            blocks.append(block)
        if r.random() < 0.25:
            self.says.append("first block again")
            blocks.append(blocks[0])
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(WIDTH, CLASSES)
        if r.random() < 0.25:
            self.says.append("one that is not called")
            self.idle = LAYERS[r.choice(list(LAYERS))](r)
        if r.random() < 0.2:
            self.says.append("tied weights")
            self.tied = nn.Linear(WIDTH, CLASSES, bias=False)
            self.tied.weight = self.head.weight
        if r.random() < 0.3:
            kind = r.choice(list(BUFFERS))
            self.says.append(f"buffer {kind}")
            self.register_buffer(kind, BUFFERS[kind].clone())
        if r.random() < 0.3:
            self.says.append("frozen")
            self.blocks.requires_grad_(False)
        self.kind = r.choice(OUTPUTS)
        self.casts = r.random() < 0.5
        dtype = r.choice([*[torch.float32] * 6, torch.float64, torch.bfloat16, torch.float16])
        self.says += [self.kind, str(dtype)]
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        for module in self.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if module is not self and buffer.is_floating_point():
                    module._buffers[name] = buffer.to(dtype)

    def forward(self, x: Tensor) -> Any:
        if self.casts:
            x = x.to(self.head.weight.dtype)
        for block in self.blocks:
            x = torch.tanh(block(x))
        logits = self.head(_fit(x, WIDTH))
        if self.kind == "dict":
            return {"logits": logits}
        if self.kind == "logits":
            return SimpleNamespace(logits=logits, hidden=None)
        if self.kind in ("tuple", "list"):
            return (logits, x) if self.kind == "tuple" else [logits]
        return logits


def describe(number: int) -> str:
    network = RandomNetwork(number)
    return ", ".join(network.says)


def batches(split: str, batch_size: int, shuffle: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1 if split == "train" else 2)
    x = torch.randn(EXAMPLES, WIDTH, generator=generator)
    y = torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)
    order = torch.arange(EXAMPLES)
    if shuffle is not None:
        order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(shuffle))
    for chosen in order.split(batch_size):
        yield x[chosen], y[chosen]


def __getattr__(name: str) -> Any:
    """``network_17``: a function that builds it."""
    kind, _, number = name.partition("_")
    if kind != "network" or not number.isdigit():
        raise AttributeError(name)

    def build() -> nn.Module:
        return RandomNetwork(int(number))

    return build
