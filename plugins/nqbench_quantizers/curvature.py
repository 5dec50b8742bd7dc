"""Steps that follow what errors cost, of tensors and of rows.

With second moments in the unit of the loss, a squared error of one at a weight of tensor t, index r of its first axis,
costs c_t g_r: c_t the mean gain of the tensor's columns (``feedback``), g_r the relative weight of the row, of mean 1.
A row is an output, with its weight in the moments; or, where the first axis is what is looked up (embeddings), an
input, with its own diagonal entry. At high rates errors must cost the same everywhere, a step proportional to
(c_t g_r)^(-1/2) [Gish and Pierce 1968]; a smaller exponent keeps something of what hardly costs at lower rates.

Rows' steps are stored as whole multiples of one float per tensor (``in_octaves``), four to an octave, so that few
different codes occur: a step that is off by at most an eighth of an octave costs less than 0.004 bit per weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nqbench.api import Moments, Source, SourceTensor
from nqbench.api.toolkit.blocks import Blocks, Entries, per_of
from nqbench_quantizers import feedback

CHEAPEST = 1e-8
"""The least c_t, and its inverse the largest: beyond, it is a tensor on which no output depends."""
_CODES = 256
_PER_OCTAVE = 4


def tensor_costs(moments: Sequence[Moments], damping: float) -> Tensor:
    """(tensors,) float64, on the CPU: c_t, within bounds; 1 for tensors without moments, or whose moments are not in
    the unit of the loss, and so without weights of outputs (diagonals have none: only look-ups' are taken to be)."""
    found = []
    for own in moments:
        if own.outputs is None and not (own.diagonal and own.layout == 1):
            found.append(1.0)
            continue
        gram = own.gram.double()
        gain = gram if own.diagonal else feedback.factor(gram, damping)[1]
        cost = float(gain.mean()) if bool((gram != 0).any()) else 1.0
        found.append(min(max(cost, CHEAPEST), 1 / CHEAPEST))
    return torch.tensor(found, dtype=torch.float64)


def row_costs(tensor: SourceTensor, moments: Moments) -> Tensor | None:
    """(shape[0],) float64: g_r, of mean 1; None where rows are not told apart."""
    rows = tensor.shape[0]
    found = None
    if moments.layout == 1 and moments.diagonal and moments.gram.numel() == rows:
        found = moments.gram.reshape(-1).double()
    elif moments.layout == 0 and math.prod(tensor.shape) == rows * moments.gram.shape[2]:
        found = moments.weights_of(rows)
    if found is None or not bool((found > 0).any()):
        return None
    found = found.double()
    return found / found.mean()


def row_steps(source: Source, moments: Sequence[Moments], steps: Tensor, curvature: float) -> Entries | None:
    """The steps of all rows, as a decoder has them; None where no tensor's rows are told apart.

    steps: (tensors,) of tensors alone.
    """
    if any(not tensor.shape for tensor in source.tensors):
        return None
    costs = [
        row_costs(tensor, own) if tensor.size else None for tensor, own in zip(source.tensors, moments, strict=True)
    ]
    if all(cost is None for cost in costs):
        return None
    blocks = Blocks(source, per_of("channel", 0))
    found = []
    for tensor, step, cost in zip(source.tensors, steps.double(), costs, strict=True):
        octaves = step.log2().to(source.device).expand(blocks.per.entries(tensor.shape))
        found.append(octaves if cost is None else octaves - curvature / 2 * cost.clamp_min(CHEAPEST).log2().to(octaves))
    return in_octaves("step", found, blocks, _CODES)


def in_octaves(name: str, octaves: Sequence[Tensor], blocks: Blocks, codes: int) -> Entries:
    """2^octaves, rounded to four an octave below the largest of each tensor, as multiples of one float per tensor.

    octaves: (entries,) float64 of each tensor. codes: of which the largest stands for a tensor's largest value.
    """
    found = []
    for own in octaves:
        top = own.max() if own.numel() else own.new_zeros(())
        found.append((top - ((top - own) * _PER_OCTAVE).round() / _PER_OCTAVE).exp2().float())
    return Entries.codes(name, torch.cat(found), blocks, codes)
