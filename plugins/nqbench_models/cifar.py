"""CIFAR-10, from the official files for Python.

These files are pickles. The official md5 of each is checked before it is opened, and unpickling allows only numpy's
array constructor. Later processes read a safetensors copy in the cache folder.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nqbench.api import BadInput, DataMissing, Split
from nqbench.api.toolkit.download import Remote, fetch, verified
from nqbench.api.toolkit.paths import cache_dir, find_data
from nqbench.api.toolkit.sealed import seal, unseal
from nqbench_models.images import Images

NAME = "CIFAR-10 (official python version)"
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation for normalizing pixels in [0, 1]; those of ImageNet, with which the given weights were
trained."""
FOLDER = "cifar-10-batches-py"
_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
ARCHIVE = Remote(
    "cifar-10-python.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    "md5:c58f30108f718f92721af3b95e74349a",
)


def prepare() -> None:
    """Find the batches, or download and unpack the archive. Raises DataMissing if neither works."""
    if all(find_data(f"{FOLDER}/{name}") for name in _MD5):
        return
    archive = fetch(ARCHIVE)
    with tarfile.open(archive) as tar:
        tar.extractall(cache_dir() / "data", filter="data")


@cache
def cifar10(split: Split) -> Images:
    """pixels: (N, 3, 32, 32) uint8, RGB; 50,000 for training, 10,000 for the test."""
    from filelock import FileLock

    stem = "test" if split == "test" else "train"
    copy = cache_dir() / "data" / f"cifar10-{stem}.safetensors"
    copy.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(copy.with_suffix(".lock")):
        try:
            tensors, _ = unseal(copy)
        except (FileNotFoundError, BadInput):  # does not exist yet, or is damaged
            names = ["test_batch"] if stem == "test" else [f"data_batch_{i}" for i in range(1, 6)]
            parts = [_read(name) for name in names]
            pixels = torch.from_numpy(np.concatenate([p for p, _ in parts]))
            labels = torch.from_numpy(np.concatenate([y for _, y in parts]))
            tensors = {"pixels": pixels, "labels": labels}
            with suppress(OSError):  # the official files can be used instead
                seal(copy, tensors, {})
    return Images(tensors["pixels"], tensors["labels"])


def normalised(pixels: Tensor) -> Tensor:
    """(B, 3, 32, 32) uint8 -> a network's input, float32, in channels-last memory format."""
    x = pixels.contiguous(memory_format=torch.channels_last).to(torch.float32) / 255
    mean, std = (torch.tensor(figures, device=x.device)[:, None, None] for figures in (MEAN, STD))
    return (x - mean) / std


def _read(name: str) -> tuple[np.ndarray, np.ndarray]:
    path = find_data(f"{FOLDER}/{name}")
    if path is None:
        prepare()
        path = find_data(f"{FOLDER}/{name}")
    if path is None:
        raise DataMissing(f"{ARCHIVE.name} does not hold {FOLDER}/{name}")
    content = unpickle(verified(Remote(name, (), f"md5:{_MD5[name]}"), path))
    pixels = np.ascontiguousarray(content[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
    return pixels, np.asarray(content[b"labels"], dtype=np.int64)


def unpickle(path: Path) -> Any:
    """The content of a pickle of lists, dicts, numbers, bytes and numpy arrays. Raises UnpicklingError for anything
    else."""
    return _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()


class _ArraysOnly(pickle.Unpickler):
    ALLOWED: dict[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR-10 batch") from None
