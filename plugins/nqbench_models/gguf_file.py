"""Reading of GGUF files (llama.cpp), dequantized: the network computes with the values that the codes represent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nqbench.api import BadInput


def read_gguf(path: Path) -> dict[str, Tensor]:
    """name -> float32 tensor (integers stay integers), shapes with the outputs first. Raises BadInput if the package
    ``gguf`` is missing or the file cannot be read."""
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError:
        raise BadInput(f"{path}: GGUF files are read by the package gguf: pip install 'nqbench[networks]'") from None
    try:
        reader = GGUFReader(path)
        return {t.name: _tensor(dequantize(t.data, t.tensor_type), t.shape) for t in reader.tensors}
    except (ValueError, IndexError, KeyError, NotImplementedError, OSError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise BadInput(f"{path} is no GGUF file that can be read: {reason}") from None


def _tensor(values: np.ndarray, shape: np.ndarray) -> Tensor:
    """A copy, since the reader's arrays are views of the mapped file. shape: in GGUF's order, innermost first."""
    sizes = tuple(int(size) for size in reversed(shape))
    return torch.from_numpy(np.array(values)).reshape(sizes)
