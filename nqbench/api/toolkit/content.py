"""The content of tensors: their bytes, and a hash of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nqbench.api.plain import plain


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hex over names, dtypes, shapes and bytes, in order."""
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        total.update(bits(tensor).data)
    return total.hexdigest()


def bits(tensor: Tensor) -> np.ndarray:
    """The tensor's bytes, row-major: (bytes,) uint8."""
    flat = plain(tensor.detach().cpu()).reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
