"""A grid for what a method cannot take: plain rounding, at a step that the tensor's own spread allows."""

from __future__ import annotations

import math

import torch

from nqbench.api.quantized import Quantized
from nqbench.api.source import Source

ERROR = 1e-3
"""Squared error as a share of the weights' variance: 30 dB, some five bits per weight once entropy-coded."""
_MOST_LEVELS = 1 << 16


def plain_grid(source: Source) -> Quantized:
    """Each weight to its nearest multiple of one step. A step D has the error D^2 / 12, so D = sqrt(12 ERROR) standard
    deviations; more where outliers would need more than 2^16 levels. Equal weights stay as they are."""
    w = source.weights.double()
    largest = float(w.abs().max())
    step = max(math.sqrt(12 * ERROR) * float(w.std(unbiased=False)), 2 * largest / (_MOST_LEVELS - 2))
    if bool((w == w[0]).all()):
        step = largest or 1.0
    (rounded,) = torch.tensor([step], dtype=torch.float32).clamp(min=torch.finfo(torch.float32).tiny)
    levels = (w / float(rounded)).round()
    low, high = (int(edge) for edge in levels.aminmax())
    symbols = (levels - low).to(torch.int32)
    parameters = {"step": rounded.reshape(1).to(source.device)}
    return Quantized(symbols, high - low + 1, source.sizes, parameters, {"offset": low}, "grid")
