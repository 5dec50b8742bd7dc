"""The sources that quantizers are checked on: small, seeded, in every shape that a network's weights come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nqbench.api import (
    Coder,
    Diagonal,
    Quantizer,
    SecondMoments,
    SensitivityForm,
    SensitivityValue,
    Source,
    SourceTensor,
)

FORMS: tuple[SensitivityForm, ...] = ("none", "diagonal", "second-moments")


@dataclass(frozen=True, eq=False)
class Part:
    """One tensor to quantize: name, value of any real dtype, and the mask of what is kept (None: everything)."""

    name: str
    value: Tensor
    mask: Tensor | None = None

    @property
    def kept(self) -> Tensor:
        return self.value.reshape(-1) if self.mask is None else self.value[self.mask]


def laplace(*shape: int, seed: int = 0, scale: float = 0.05) -> Tensor:
    """float32 draws of a Laplace distribution, which trained weights resemble."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(shape, generator=generator) - 0.5
    return -scale * u.sign() * torch.log1p(-2 * u.abs() * (1 - 1e-6))


def first_form(quantizer: Quantizer) -> SensitivityForm:
    """The simplest sensitivity that a quantizer takes."""
    return next(form for form in FORMS if form in quantizer.takes)


def source_of(
    quantizer: Quantizer, parts: Sequence[Part], *, form: SensitivityForm | None = None, seed: int = 0
) -> Source:
    """A source of these tensors with all that the quantizer declares to need."""
    tensors, start = [], 0
    for part in parts:
        stop = start + part.kept.numel()
        tensors.append(SourceTensor(part.name, tuple(part.value.shape), start, stop, part.mask))
        start = stop
    return Source(
        # as given where there is one part: Source does the converting
        parts[0].kept if len(parts) == 1 else torch.cat([part.kept for part in parts]),
        tuple(tensors),
        sensitivity=sensitivity_of(form or first_form(quantizer), parts),
        rate=Coder().rate if quantizer.uses_rate() else None,
        seed=seed,
    )


def sensitivity_of(form: SensitivityForm, parts: Sequence[Part], *, seed: int = 1) -> SensitivityValue | None:
    """Seeded sensitivities: h log-normal over four decades; X X^T of correlated inputs, positive definite."""
    if form == "none":
        return None
    generator = torch.Generator().manual_seed(seed)
    if form == "diagonal":
        n = sum(part.kept.numel() for part in parts)
        return Diagonal(torch.exp(2 * torch.randn(n, generator=generator)))
    matrices = []
    for part in parts:
        m = int(np.prod(part.value.shape[1:], dtype=np.int64))
        x = torch.randn(m, 4 * m, generator=generator) + torch.randn(1, 4 * m, generator=generator)
        matrices.append((x @ x.T / (4 * m)).reshape(1, m, m))
    return SecondMoments(tuple(matrices))


def typical() -> list[Part]:
    """Two matrices, 600 weights."""
    return [Part("first.weight", laplace(20, 12)), Part("second.weight", laplace(12, 30, seed=1, scale=0.1))]


def one(value: Tensor) -> list[Part]:
    """One tensor and nothing else."""
    return [Part("weight", value)]


def odd_shapes(masked: bool) -> list[Part]:
    """A tensor without places, one of no axis, one of one axis, a matrix: 32 weights; or parts of them, and one of no
    axis of which nothing is kept."""
    parts = [
        Part("empty.weight", laplace(0, 3)),
        Part("scalar", laplace(seed=4)),
        Part("norm.weight", laplace(7, seed=5)),
        Part("linear.weight", laplace(4, 6, seed=6)),
    ]
    if not masked:
        return parts
    generator = torch.Generator().manual_seed(3)
    kept = [torch.rand(part.value.shape, generator=generator) < 0.6 for part in parts[2:]]
    masks = [torch.zeros(0, 3, dtype=torch.bool), torch.tensor(True), *kept, torch.tensor(False)]
    parts.append(Part("gone", laplace(seed=7)))
    return [Part(part.name, part.value, mask) for part, mask in zip(parts, masks, strict=True)]


def pruned() -> list[Part]:
    """A convolution with a random half pruned, a whole matrix, and a matrix with one weight left: 529 kept."""
    mask = torch.zeros(288, dtype=torch.bool)
    mask[torch.randperm(288, generator=torch.Generator().manual_seed(2))[:144]] = True
    alone = torch.zeros(10, 16, dtype=torch.bool)
    alone[3, 5] = True
    return [
        Part("convolution.weight", laplace(8, 4, 3, 3), mask.reshape(8, 4, 3, 3)),
        Part("linear.weight", laplace(16, 24, seed=1)),
        Part("head.weight", laplace(10, 16, seed=2), alone),
    ]
