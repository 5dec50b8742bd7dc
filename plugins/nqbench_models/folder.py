"""Images in folders, one folder per class, read and preprocessed with Pillow in the usual way for ImageNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_SUFFIXES = {".jpeg", ".jpg", ".png"}


@dataclass(frozen=True)
class Folder:
    """Paths and labels, in the order of class and file name."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    @staticmethod
    def of(root: Path, classes: Sequence[tuple[str, int]]) -> Folder:
        """classes: (folder name, label)."""
        found = [
            (path, label)
            for name, label in classes
            for path in sorted((root / name).iterdir())
            if path.suffix.lower() in _SUFFIXES
        ]
        return Folder(tuple(path for path, _ in found), tuple(label for _, label in found))

    def batches(self, batch_size: int, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, 3, 224, 224) float32 and (B,) int64; images are read by a few threads."""
        with ThreadPoolExecutor(max_workers=4) as pool:
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                images = list(pool.map(prepared, [self.paths[i] for i in chosen]))
                yield normalise(torch.stack(images)), torch.tensor([self.labels[i] for i in chosen])


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
