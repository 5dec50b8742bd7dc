"""Activation-aware weight quantization [Lin et al. 2023, 2306.00978, section 3.2].

Few input channels carry most of a layer's signal. If their weights are multiplied by s_c > 1 before rounding and
divided by it afterwards, their error falls, as long as the scales of their groups grow by less. With the weights W of a
layer, its inputs' second moments H = E[x x^T] and a grid of b bits with a scale for each group (``rtn``)::

    value = Q(W diag(s)) diag(s)^-1        s_c = (H_cc^1/2)^alpha, divided by (max s min s)^1/2

alpha in [0, 1] is searched in ``tries`` steps for the least output error, tr((W - value) H (W - value)^T). The paper
measures the size of an input by mean |x_c|; here it is the root mean square, which H contains.

The factors 1 / s are stored as float16, one per input channel of a tensor (``equalize`` of ``nqbench.api.structure``),
and left out where alpha = 0 is best for all tensors. The training ``fold`` moves them into the preceding layer where
the network allows it; then they cost no bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import Array, Knob, Moments, Per, Quantized, Quantizer, SecondMoments, Source, SourceTensor
from nqbench.api.granularity import rows_of
from nqbench.api.source import LARGEST_WEIGHT
from nqbench.api.toolkit.blocks import Blocks, Granularity, Kept
from nqbench_quantizers.feedback import power
from nqbench_quantizers.rtn import RTN

_REACH = 2.0**10
"""How far factors may lie from 1, so that weights divided by them can still be represented in float16."""


class AWQ(Quantizer, name="awq", paper="arXiv:2306.00978"):
    """A grid of b bits with a scale per group, after input channels were scaled by the size of their activations."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"group": 8},
                {"bits": 3, "group": 16, "symmetric": True, "exponent": 0.5},
                {"bits": 2, "granularity": "channel", "scales": "float32"},
            ]
        }
    )
    takes = frozenset({"second-moments"})

    bits: int = Field(4, ge=2, le=16)
    """Bits per weight, before entropy coding."""
    symmetric: bool = False
    """Whether the grid is symmetric about 0; otherwise it has a zero point."""
    granularity: Granularity = "group"
    """Which weights share a scale: those of all tensors (``global``), of a tensor (``layer``), an output channel, or a
    group."""
    group: int = Field(128, ge=1)
    """Consecutive weights of a channel that share a scale (``granularity: group``)."""
    scales: Kept = "float16"
    """How scales are stored; ``codes``: as 8-bit multiples of one float per tensor."""
    exponent: float | None = Field(None, ge=0, le=1)
    """alpha; None: searched for each tensor."""
    tries: int = Field(20, ge=1, le=1000)
    """Number of values of alpha that the search tries."""

    def quantize(self, source: Source) -> Quantized:
        moments = self.needs(source, SecondMoments).of_tensors(source.tensors)
        channels = [_Channels.of(t, own) for t, own in zip(source.tensors, moments, strict=True)]
        factors = [
            self._factors(source, t, own) if t.size else torch.ones(1, device=source.device)
            for t, own in zip(source.tensors, channels, strict=True)
        ]
        if all(bool((f == 1).all()) for f in factors):
            return self._grid.quantize(replace(source, sensitivity=None, shared={}))
        per = _common(source.tensors, channels)
        entries = [own.entries(f, t, per) for own, f, t in zip(channels, factors, source.tensors, strict=True)]
        stored = torch.cat(entries)
        q = self._grid.quantize(
            Source(source.weights / Blocks(source, per).each(stored), source.tensors, seed=source.seed)
        )
        assert q.structure is not None
        structure = replace(
            q.structure,
            arrays={**q.structure.arrays, "equalize": Array(per)},
            stored={**q.structure.stored, "equalize": torch.float16},
        )
        return replace(q, parameters={**q.parameters, "equalize": stored}, structure=structure)

    def knob(self, source: Source) -> Knob:
        return Knob("bits", 2, 8, "linear", integer=True, more_bytes="up")

    @property
    def _grid(self) -> RTN:
        return RTN(
            bits=self.bits, symmetric=self.symmetric, granularity=self.granularity, group=self.group, scales=self.scales
        )

    def _factors(self, source: Source, tensor: SourceTensor, channels: _Channels) -> Tensor:
        """(inputs,) float32: the factors 1 / s, rounded as they are stored."""
        alphas = [i / self.tries for i in range(self.tries)] if self.exponent is None else [self.exponent]
        kept = source.weights[tensor.start : tensor.stop]
        alone = replace(tensor, start=0, stop=tensor.size)
        best, least = channels.ones(tensor), torch.inf
        for alpha in alphas:
            factors = channels.factors(tensor, alpha)
            spread = channels.spread(factors, tensor)
            if float((kept / spread).abs().max()) > LARGEST_WEIGHT:
                continue
            value = self._grid.quantize(Source(kept / spread, (alone,))).reconstruct() * spread
            error = channels.error(kept - value, tensor)
            if error < least or self.exponent is not None:
                best, least = factors, error
        return best


@dataclass(frozen=True, eq=False)
class _Channels:
    """A tensor's input channels. axis: the tensor's axis along which they lie; None where there is no such axis."""

    moments: Moments
    axis: int | None

    @staticmethod
    def of(tensor: SourceTensor, moments: Moments) -> _Channels:
        axis = 0 if moments.layout == 1 else 1
        # a stack of matrices, each with moments of its own, has its inputs elsewhere: no factors
        fits = len(tensor.shape) > axis and (
            moments.layout != 0 or math.prod(tensor.shape[1:]) == moments.gram.shape[2]
        )
        return _Channels(moments, axis if fits else None)

    def count(self, tensor: SourceTensor) -> int:
        return 1 if self.axis is None else tensor.shape[self.axis]

    def ones(self, tensor: SourceTensor) -> Tensor:
        return torch.ones(self.count(tensor), device=self.moments.gram.device)

    def factors(self, tensor: SourceTensor, alpha: float) -> Tensor:
        """(inputs,): the factors 1 / s, rounded to float16."""
        gram, count = self.moments.gram, self.count(tensor)
        diagonal = (gram[:, 0] if self.moments.diagonal else gram.diagonal(dim1=1, dim2=2)).double()
        groups = count // len(gram) if self.moments.layout == 1 else count
        size = diagonal.reshape(len(gram), max(groups, 1), -1).mean(2)
        size = (size.reshape(-1) if self.moments.layout == 1 else size.mean(0)).clamp(min=0).sqrt()
        if self.axis is None or size.numel() != count or not bool((size > 0).any()):
            return self.ones(tensor)
        # an input that is always 0 defines no factor: it gets the smallest of the others
        size = torch.where(size > 0, size, size[size > 0].min()).pow(alpha)
        s = size / (size.max() * size.min()).sqrt()
        return (1 / s).clamp(1 / _REACH, _REACH).half().float()

    def spread(self, factors: Tensor, tensor: SourceTensor) -> Tensor:
        """(kept,): the factor of each kept weight."""
        if self.axis is None:
            return factors.expand(tensor.size)
        shape = [-1 if axis == self.axis else 1 for axis in range(len(tensor.shape))]
        whole = factors.reshape(shape).expand(tensor.shape)
        return whole.reshape(-1) if tensor.mask is None else whole[tensor.mask]

    def entries(self, factors: Tensor, tensor: SourceTensor, per: Per) -> Tensor:
        """This tensor's entries of the stored array of factors."""
        if not tensor.size:
            return torch.ones(per.entries(tensor.shape), device=factors.device)
        if per.by == "channel" and per.size == self.axis:
            return factors
        if per.by == "column" and self.axis == 1:
            length = rows_of(tensor.shape)[1]
            return factors.repeat_interleave(length // len(factors))
        return torch.ones(per.entries(tensor.shape), device=factors.device)

    def error(self, change: Tensor, tensor: SourceTensor) -> float:
        """The output error that a change of the kept weights, (kept,), causes."""
        whole = change
        if tensor.mask is not None:
            whole = torch.zeros(tensor.shape, device=change.device).masked_scatter(tensor.mask, change)
        return power(self.moments.rows(whole.reshape(tensor.shape)).double(), self.moments.gram.double())


def _common(tensors: Sequence[SourceTensor], channels: Sequence[_Channels]) -> Per:
    """One granularity for all tensors of a group: the axis of the inputs if all tensors have the same one."""
    axes = {own.axis for t, own in zip(tensors, channels, strict=True) if t.size}
    if len(axes) == 1 and None not in axes:
        axis = axes.pop() or 0
        if all(len(t.shape) > axis for t in tensors):
            return Per("channel", axis)
    if all(len(t.shape) > 1 for t in tensors):
        return Per("channel", 1)
    return Per("column")
