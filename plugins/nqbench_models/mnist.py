"""MNIST from the four official idx files, checked by their official md5."""

from __future__ import annotations

import gzip
from functools import cache

import numpy as np
import torch

from nqbench.api import DataMissing, Split
from nqbench.api.toolkit.download import Remote, fetch, verified
from nqbench_models.images import Images

NAME = "MNIST (official files)"
MEAN = 0.1307
"""Mean intensity of the training images, in [0, 1]."""

_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
FILES = {name: Remote(f"MNIST/raw/{name}", (_MIRROR + name,), f"md5:{md5}") for name, md5 in _MD5.items()}


def prepare() -> None:
    """Find the four files or download them. Raises DataMissing if neither works."""
    for remote in FILES.values():
        fetch(remote)


@cache
def mnist(split: Split) -> Images:
    """pixels: (N, 1, 28, 28) uint8; 60,000 for training, 10,000 for the test."""
    stem = "t10k" if split == "test" else "train"
    pixels = _read(FILES[f"{stem}-images-idx3-ubyte.gz"])
    labels = _read(FILES[f"{stem}-labels-idx1-ubyte.gz"])
    return Images(torch.from_numpy(pixels[:, None]), torch.from_numpy(labels.astype(np.int64)))


def _read(remote: Remote) -> np.ndarray:
    return read_idx(gzip.decompress(verified(remote, fetch(remote)).read_bytes()), remote.name)


def read_idx(data: bytes, name: str) -> np.ndarray:
    """The array in an idx file of unsigned bytes, which begins with 0, 0, 8, the number of dimensions, and the size of
    each dimension as big-endian 32 bits."""
    if data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise DataMissing(f"{name} is not an idx file of unsigned bytes: replace it with the official file")
    shape = tuple(np.frombuffer(data, ">u4", count=data[3], offset=4).tolist())
    body = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if body.size != int(np.prod(shape, dtype=np.int64)):
        raise DataMissing(f"{name} holds {body.size} bytes where its header promises {shape}: replace it")
    return body.reshape(shape).copy()
