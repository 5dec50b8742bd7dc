"""The sizes of the levels' steps, one for all tensors or one for each."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nqbench.api import Former, Source, scalar

FORMER_STEPS = Former("granularity", {"shared": "global", "std": "layer"})
"""What the parameter ``granularity`` of a grid was called, and said, before."""


def step_scales(source: Source, granularity: Literal["global", "layer"]) -> Tensor:
    """(1,) or, for ``layer``, (tensors,) float64 on the CPU: what each tensor's step is a multiple of.

    1, or the standard deviation of the tensor's weights; that of all weights where it has none.
    """
    if granularity == "global":
        return torch.ones(1, dtype=torch.float64)
    std = [scalar.moments(Source(source.weights[t.start : t.stop]))[1] if t.size else 0.0 for t in source.tensors]
    shared = scalar.moments(source)[1] or 1.0
    return torch.tensor([s or shared for s in std], dtype=torch.float64)
