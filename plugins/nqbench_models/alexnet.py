"""AlexNet in PyTorch's one-tower form (arXiv:1404.5997): 61,100,840 parameters, used in many compression papers."""

from __future__ import annotations

import math
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nqbench.api import BadInput, Batch, DataMissing, Evaluation, Metric, Model, Split
from nqbench.api.toolkit.download import Remote, fetch, verified
from nqbench.api.toolkit.paths import cache_dir, data_dir, find_data
from nqbench_models.checkpoint import read_state
from nqbench_models.contents import content
from nqbench_models.fitting import fill
from nqbench_models.folder import Folder
from nqbench_models.synthetic import sample

OFFICIAL = Remote(
    "weights/alexnet-owt-7be5be79.pth",
    ("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",),
    "sha256:7be5be79",
)
IMAGENETTE = Remote(
    "imagenette2-320.tgz",
    ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",),
    "md5:3df6f0d01a2c9592104656642f5e78a3",
)
IMAGENETTE_CLASSES = (
    ("n01440764", 0),
    ("n02102040", 217),
    ("n02979186", 482),
    ("n03000684", 491),
    ("n03028079", 497),
    ("n03394916", 566),
    ("n03417042", 569),
    ("n03425413", 571),
    ("n03445777", 574),
    ("n03888257", 701),
)
"""Folder names and their indices among ImageNet's 1,000 classes."""
_ROOTS = {"imagenet": "imagenet/val", "imagenette": "imagenette2-320"}
_SPLITS: tuple[Split, ...] = ("train", "test")


class AlexNet(
    Model, name="alexnet", paper="arXiv:1404.5997; compressed in arXiv:1612.01543, Table 1", computes_with=("pillow",)
):
    """AlexNet on ImageNet, on Imagenette's ten classes, or without data (rate and distortion only)."""

    weights: str = "imagenet"
    """``imagenet``: the official weights of PyTorch, downloaded once. ``random``: random weights, for measurements of
    speed and memory. Otherwise the path of a state dict (.safetensors, or .pth that holds only tensors)."""
    data: Literal["none", "imagenet", "imagenette"] = "imagenet"
    """``imagenet``: images in NQBENCH_DATA/imagenet/val (and train), in 1,000 folders. ``imagenette``: downloaded.
    ``none``: no images."""
    draw: int = Field(0, ge=0)
    """Seed of random weights."""

    def prepare(self) -> None:
        if self.weights == "imagenet":
            fetch(OFFICIAL)
        elif self.weights != "random":
            self._own()
        if self.data == "imagenet":
            _imagenet("test")
        elif self.data == "imagenette":
            _imagenette("test")

    def _own(self) -> Path:
        path = Path(self.weights).expanduser()
        if not path.exists():
            raise DataMissing(f"alexnet: no weights at {path}; write imagenet, random or the path of a state dict")
        return path

    def fingerprint(self) -> str:
        if self.weights == "imagenet":
            what = OFFICIAL.digest
        elif self.weights == "random":
            what = f"random 1 {self.draw}"
        else:
            what = content(self._own())
        return " ".join([f"alexnet {what} {self.data}", *self._images()])

    def _images(self) -> Iterator[str]:
        """A digest of the images of each split; nothing is downloaded for it."""
        root = None if self.data == "none" else find_data(_ROOTS[self.data])
        for split in _SPLITS if root is not None else ():
            if self.has_split(split):
                yield self._folder(split).digest()

    def load(self, device: torch.device) -> nn.Module:
        with torch.device("meta"):  # avoids drawing 61 million initial values
            module = network()
        if self.weights == "random":
            module.load_state_dict(random_state(module, self.draw), assign=True)
        else:
            path = verified(OFFICIAL, fetch(OFFICIAL)) if self.weights == "imagenet" else self._own()
            fill(module, read_state(path), path, assign=True)
        for parameter in module.parameters():
            parameter.requires_grad_()
        return module.to(device).eval()

    def metric(self) -> Metric | None:
        return None if self.data == "none" else Metric()

    def has_split(self, split: Split) -> bool:
        if self.data == "none" or split == "validation":
            return False
        return split == "test" or self.data == "imagenette" or find_data("imagenet/train") is not None

    def _folder(self, split: Split) -> Folder:
        if self.data == "none":
            raise BadInput("alexnet with data: none has no images: give data: imagenet or imagenette")
        return _imagenet(split) if self.data == "imagenet" else _imagenette(split)

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        """(B, 3, 224, 224) float32 and labels. Files are sorted by class, so without a seed their order is a fixed
        shuffle."""
        folder = self._folder(split)
        generator = torch.Generator().manual_seed(0 if shuffle is None else shuffle)
        order = torch.randperm(len(folder.paths), generator=generator).tolist()
        yield from folder.batches(batch_size, order)

    def evaluate(self, module: nn.Module, split: Split = "test") -> Evaluation:
        return Evaluation() if self.data == "none" else super().evaluate(module, split)


def network() -> nn.Module:
    """The network, with parameter names as in torchvision so that its weights can be loaded: features.{0,3,6,8,10},
    classifier.{1,4,6}."""
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
    )
    classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, 1000),
    )
    module = nn.Sequential()
    for name, part in (
        ("features", features),
        ("avgpool", nn.AdaptiveAvgPool2d((6, 6))),
        ("flatten", nn.Flatten()),
        ("classifier", classifier),
    ):
        module.add_module(name, part)
    return module


def random_state(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """Weights from a Laplace distribution, like trained ones approximately, with standard deviation 1 / sqrt(3 fan_in);
    biases 0."""
    state = {}
    for index, (name, parameter) in enumerate(module.named_parameters()):
        if parameter.dim() < 2:
            state[name] = torch.zeros(parameter.shape)
            continue
        deviation = 1 / math.sqrt(3 * parameter[0].numel())
        values = sample(parameter.numel(), "laplace", deviation, 1000 * seed + index)
        state[name] = torch.from_numpy(values).reshape(parameter.shape)
    return state


def _imagenet(split: Split) -> Folder:
    name = f"imagenet/{'val' if split == 'test' else 'train'}"
    root = find_data(name)
    if root is None:
        raise DataMissing(
            f"alexnet needs ImageNet at {data_dir() / name}, one folder per class; or give it data: imagenette or none"
        )
    classes = sorted(path.name for path in root.iterdir() if path.is_dir())
    if len(classes) != 1000:
        raise DataMissing(f"{root} has {len(classes)} class folders, not ImageNet's 1000")
    return Folder.of(root, [(folder, label) for label, folder in enumerate(classes)])


def _imagenette(split: Split) -> Folder:
    if find_data("imagenette2-320") is None:
        archive = verified(IMAGENETTE, fetch(IMAGENETTE))
        with tarfile.open(archive) as tar:
            tar.extractall(cache_dir() / "data", filter="data")
    name = f"imagenette2-320/{'val' if split == 'test' else 'train'}"
    root = find_data(name)
    absent = [folder for folder, _ in IMAGENETTE_CLASSES if root is None or not (root / folder).is_dir()]
    if root is None or absent:
        raise DataMissing(
            f"{root or data_dir() / name} has no folder {absent[0]}: unpack all of {IMAGENETTE.name} there"
        )
    return Folder.of(root, IMAGENETTE_CLASSES)
