"""Weights without a network: n samples of a known distribution, for measuring rate, distortion, speed and memory.

Distributions, each scaled to the given standard deviation s: ``laplace`` (density exp(-sqrt(2) |w| / s) / (sqrt(2) s)),
``gaussian``, and ``mixture``, of a narrow Gaussian (80 % of the weights, standard deviation 0.1 t) and a wide one (20
%, standard deviation t), with t such that the mixture has standard deviation s.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from nqbench.api import Evaluation, Metric, Model, Split

_CHUNK = 1 << 20
_NARROW, _SHARE = 0.1, 0.8


class _Weights(nn.Module):
    """``count`` parameters, (1, size) float32 each."""

    def __init__(self, parts: list[torch.Tensor]) -> None:
        super().__init__()
        self.tensors = nn.ParameterList([nn.Parameter(part[None, :], requires_grad=True) for part in parts])


class Synthetic(Model, name="synthetic"):
    """n weights drawn from a Laplace, Gaussian or mixture distribution: no data, no metric."""

    n: int = Field(1_000_000, ge=1, le=1 << 33)
    """Number of weights; AlexNet has about 61 million."""
    distribution: Literal["laplace", "gaussian", "mixture"] = "laplace"
    """The distribution of the weights."""
    deviation: float = Field(1.0, gt=0)
    """Standard deviation of the distribution."""
    tensors: int = Field(1, ge=1)
    """Number of tensors among which the weights are divided, in order and as evenly as possible."""
    draw: int = Field(0, ge=0)
    """Seed of the random weights."""

    def fingerprint(self) -> str:
        return f"synthetic 1 {self.canonical_json()}"

    def load(self, device: torch.device) -> nn.Module:
        weights = torch.from_numpy(sample(self.n, self.distribution, self.deviation, self.draw))
        return _Weights(list(weights.tensor_split(min(self.tensors, self.n)))).eval().to(device)

    def metric(self) -> Metric | None:
        return None

    def has_split(self, split: Split) -> bool:
        return False

    def evaluate(self, module: nn.Module, split: Split = "test") -> Evaluation:
        return Evaluation()


def sample(n: int, distribution: str, deviation: float, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(n,) float32 samples, drawn in chunks so that memory stays near the size of the result. A shorter sample is the
    beginning of a longer one."""
    out = np.empty(n, dtype=np.float32)
    for index, start in enumerate(range(0, n, _CHUNK)):
        generator = np.random.default_rng((seed, index))
        values = _draw(generator, distribution)[: n - start]
        out[start : start + _CHUNK] = values * deviation
    return out


def _draw(generator: np.random.Generator, distribution: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A chunk with standard deviation 1."""
    if distribution == "laplace":
        return generator.laplace(scale=math.sqrt(0.5), size=_CHUNK)
    values = generator.standard_normal(_CHUNK)
    if distribution == "gaussian":
        return values
    wide = 1 / math.sqrt(_SHARE * _NARROW**2 + 1 - _SHARE)
    return values * np.where(generator.random(_CHUNK) < _SHARE, _NARROW * wide, wide)
