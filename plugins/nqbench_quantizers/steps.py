"""The sizes of the levels' steps, one for all tensors or one for each."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nqbench.api import Source, scalar


def step_scales(source: Source, steps: Literal["shared", "std"]) -> Tensor:
    """(1,) or, for ``std``, (tensors,) float64 on the CPU: what each tensor's step is a multiple of.

    1, or the standard deviation of the tensor's weights; that of all weights where it has none.
    """
    if steps == "shared":
        return torch.ones(1, dtype=torch.float64)
    std = [scalar.moments(Source(source.weights[t.start : t.stop]))[1] if t.size else 0.0 for t in source.tensors]
    shared = scalar.moments(source)[1] or 1.0
    return torch.tensor([s or shared for s in std], dtype=torch.float64)
