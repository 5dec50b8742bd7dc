"""Images in folders, one folder per class, read and preprocessed with Pillow in the usual way for ImageNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nqbench_models.contents import contents, joined

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_SUFFIXES = {".jpeg", ".jpg", ".png"}
_WHOLE = 1 << 26
"""Largest number of bytes of images that are read for a digest."""


@dataclass(frozen=True)
class Folder:
    """Paths and labels, in the order of class and file name."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    @staticmethod
    def of(root: Path, classes: Sequence[tuple[str, int]]) -> Folder:
        """classes: (folder name, label). Listed again only where a file of a class came, went or has another name."""
        return _listed(tuple((root / name, (root / name).stat().st_mtime_ns, label) for name, label in classes))

    def digest(self) -> str:
        """Of names, labels and contents; of many bytes, as of ImageNet, sizes stand for contents."""
        if sum(self._sizes) > _WHOLE:
            return self._by_size
        return contents(zip(self._names, self.paths, strict=True))

    @property
    def _names(self) -> Iterator[str]:
        return (f"{label}/{path.name}" for path, label in zip(self.paths, self.labels, strict=True))

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(path.stat().st_size for path in self.paths)

    @cached_property
    def _by_size(self) -> str:
        return joined(f"{name} {size}" for name, size in zip(self._names, self._sizes, strict=True))

    def batches(self, batch_size: int, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, 3, 224, 224) float32 and (B,) int64; images are read by a few threads."""
        with ThreadPoolExecutor(max_workers=4) as pool:
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                images = list(pool.map(prepared, [self.paths[i] for i in chosen]))
                yield normalise(torch.stack(images)), torch.tensor([self.labels[i] for i in chosen])


@cache
def _listed(classes: tuple[tuple[Path, int, int], ...]) -> Folder:
    """classes: (folder, when it was changed, label)."""
    found = [
        (path, label)
        for folder, _, label in classes
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _SUFFIXES
    ]
    return Folder(tuple(path for path, _ in found), tuple(label for _, label in found))


def prepared(path: Path) -> Tensor:
    """(3, 224, 224) uint8 RGB: the shorter side is resized to 256 (bilinear), then the centre is cropped."""
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGB")
    width, height = image.size
    short = min(width, height)
    size = (256 * width // short, 256 * height // short)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    image = image.crop((left, top, left + 224, top + 224))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def normalise(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> float32, normalized with ImageNet's mean and standard deviation."""
    return (pixels.to(torch.float32) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
