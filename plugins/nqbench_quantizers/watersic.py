"""A step for each column, so that all columns of a layer contribute equally to its output error [WaterSIC, 2603.04956].

With the second moments H = M D M^T of a layer's inputs (``feedback``), the output error after error feedback is sum_j
d_j e_j^2, with |e_j| of the order of the step s_j. For a given product of the steps, which determines the rate at high
resolution, this is least where all d_j s_j^2 are equal:

    s_j = step * f_j,    f_j = g / l_j,    l_j = d_j^(1/2), the diagonal of H's Cholesky factor, g their geometric mean

(the paper's alpha_i proportional to 1 / l_ii). Where all d_j are equal, the method is ``gptq``. Columns with small
steps take more bits, by entropy coding.

The problem with factors f is that of the columns w_j / f_j under the second moments F H F, F = diag(f), with one step,
so that everything ``gptq`` offers (prices, beams, descents, order, steps of rows) applies to it. Factors are stored
with a tensor's columns (``equalize``), four to an octave, as multiples of one float (``curvature``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from nqbench.api import Array, Knob, Moments, Per, Quantized, SecondMoments, Source, SourceTensor, Structure
from nqbench.api.source import LARGEST_WEIGHT
from nqbench.api.toolkit.blocks import Blocks, Entries
from nqbench_quantizers import feedback
from nqbench_quantizers.curvature import in_octaves
from nqbench_quantizers.gptq import GPTQ
from nqbench_quantizers.steps import beside_constants

_CODES = 1 << 14
_FINEST, _COARSEST = -10.0, 4.0
"""Octaves of factors about their geometric mean: codes reach from one to the other."""


class WaterSIC(GPTQ, name="watersic", paper="arXiv:2603.04956"):
    """Error feedback with a step for each column, such that all columns contribute equally to the output error."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"step": 0.05},
                {"step": 0.03, "lam": 0.1, "exponent": 0.5},
                {"step": 0.05, "act_order": True},
                {"step": 0.05, "curvature": 0.4},
                {"step": 0.05, "exponent_for": "weighted"},
            ]
        }
    )

    exponent: float = Field(1.0, ge=0, le=1)
    """The exponent c of s_j = step (g / l_j)^c. 1: all columns contribute equally to the output error, which is optimal
    at high rates; 0: one step for all columns, as in ``gptq``."""
    exponent_for: Literal["all", "weighted"] = "all"
    """Which tensors have steps by column: all, or only those whose moments are in the unit of the loss
    (``second-moments: {outputs: 100}``; with ``outputs_for: lookups`` those of networks with embeddings). The others
    are quantized as by ``gptq``."""

    @model_validator(mode="after")
    def _no_grid_of_its_own(self) -> WaterSIC:
        if self.dither or self.bits is not None:
            raise ValueError("watersic cannot be combined with a dither or fixed bits")
        return self

    def quantize(self, source: Source) -> Quantized:
        moments = self._moments_of(source)
        factors = self._factors(source, moments)
        if factors is None:
            return super().quantize(source)
        scaled, scales = _divided(source, moments, factors), self._scales(source)

        def inner(part: Source) -> Quantized:
            return self._quantize(part, scales)

        q = beside_constants(scaled, inner) if self.granularity == "layer" else inner(scaled)
        structure, parameters = q.structure, dict(q.parameters)
        if structure is None:
            step = parameters["step"]
            if step.numel() > 1:  # a structure has no step for a tensor of no places
                step = parameters["step"] = step[[math.prod(t.shape) > 0 for t in source.tensors]]
            structure = Structure.of(source, arrays={"step": Array(Per("layer" if len(step) > 1 else "global"))})
        structure = replace(structure, arrays={**structure.arrays, factors.name: factors.array})
        parameters |= factors.parameters
        return replace(q, parameters=parameters, side={**q.side, **factors.side}, structure=structure)

    def knob(self, source: Source) -> Knob:
        if isinstance(source.sensitivity, SecondMoments):
            moments = self._moments_of(source)
            factors = self._factors(source, moments)
            source = source if factors is None else _divided(source, moments, factors)
        return super().knob(source)

    def _factors(self, source: Source, moments: Sequence[Moments]) -> Entries | None:
        """f of all columns, as a decoder has them; None where no tensor's columns are the inputs of its outputs."""
        blocks = Blocks(source, Per("column"))
        octaves = [self._octaves(source, t, own) for t, own in zip(source.tensors, moments, strict=True)]
        if all(not bool(own.any()) for own in octaves):
            return None
        return in_octaves("equalize", octaves, blocks, _CODES)

    def _octaves(self, source: Source, tensor: SourceTensor, known: Moments) -> Tensor:
        """(columns,) float64: log2 f; 0 where columns do not share inputs, and for weights that are all equal."""
        columns = Per("column").entries(tensor.shape)
        ones = torch.zeros(columns, dtype=torch.float64, device=source.device)
        if not tensor.size or not _of_columns(known, columns):
            return ones
        if self.exponent_for == "weighted" and known.outputs is None:
            return ones
        low, high = source.weights[tensor.start : tensor.stop].aminmax()
        if self.granularity == "layer" and bool(low == high):
            return ones
        h = known.gram.double()
        diagonal = h.diagonal(dim1=1, dim2=2)
        order = feedback.order(diagonal, self.act_order)
        _, gain = feedback.factor(feedback.among(h, order), self.damping)
        logs = torch.zeros_like(gain).scatter_(1, order, gain.log2() / 2).mean(0)
        alive = (diagonal > 0).any(0)
        if not bool(alive.any()):
            return ones
        relative = self.exponent * (logs[alive].mean() - logs)
        # the step of a dead input has no effect, but must be a finite float
        found = torch.where(alive, relative, relative[alive].max()).clamp(_FINEST, _COARSEST)
        size = max(-float(low), float(high))
        return found if size <= LARGEST_WEIGHT * 2 ** (_FINEST - 1) else ones


def _of_columns(moments: Moments, columns: int) -> bool:
    """Whether a tensor's columns are the inputs of its outputs, with a whole matrix of moments."""
    return not moments.layout and not moments.diagonal and moments.gram.shape[2] == columns


def _divided(source: Source, moments: Sequence[Moments], factors: Entries) -> Source:
    """The source with columns w_j / f_j and their second moments F H F."""
    blocks = Blocks(source, factors.array.per)
    matrices = [_scaled(own, f).packed() for own, f in zip(moments, blocks.split(factors.values), strict=True)]
    weights = source.weights / blocks.each(factors.values)
    return replace(source, weights=weights, sensitivity=SecondMoments(tuple(matrices)), shared={})


def _scaled(moments: Moments, factors: Tensor) -> Moments:
    """F H F, where columns are the inputs."""
    if not _of_columns(moments, len(factors)):
        return moments
    wide = factors.double()
    gram = (wide[:, None] * moments.gram.double() * wide).to(moments.gram.dtype)
    return replace(moments, gram=gram)
