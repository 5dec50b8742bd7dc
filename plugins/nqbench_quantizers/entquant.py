"""A scale per channel, chosen by a price on the magnitude of its codes; needs no data [EntQuant, 2601.22787].

A channel's weights w are rounded to eight-bit integers q = clamp(round(w / s)), which an entropy coder then codes. The
scale is therefore not set by a number of bits, but minimizes

    sum h (w - s q)^2 / sum h w^2 + lam * mean |q|

where the l1 norm is a proxy for the entropy, whose gradient has the same sign. The search tries ``tries`` scales,
spaced logarithmically from the one that uses all 127 levels to the largest weight itself. It then takes the
least-squares scale for the best codes, s = sum h w q / sum h q^2, if this lowers the objective.
"""

from __future__ import annotations

import torch
from pydantic import AliasChoices, ConfigDict, Field
from torch import Tensor

from nqbench.api import Knob, Quantized, Quantizer, Source
from nqbench.api.toolkit.blocks import Blocks, Entries, Granularity, Kept, per_of

_MOST = 127


class EntQuant(Quantizer, name="entquant", paper="arXiv:2601.22787"):
    """Eight-bit codes for an entropy coder, with a scale per channel chosen by an l1 price on the codes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"lam": 0.1, "granularity": "group", "group": 12, "scales": "float32"}]}
    )
    takes = frozenset({"none", "diagonal"})

    lam: float = Field(0.02, ge=0, validation_alias=AliasChoices("lam", "lambda"))
    """Price lam of the mean |q|, relative to the channel's power. In a suite it may be written ``lambda``."""
    granularity: Granularity = "channel"
    """Which weights share a scale: those of all tensors (``global``), of a tensor (``layer``), an output channel, or a
    group."""
    group: int = Field(64, ge=1)
    """Consecutive weights of a channel that share a scale (``granularity: group``)."""
    scales: Kept = "float16"
    """How scales are stored."""
    tries: int = Field(40, ge=2, le=1000)
    """Number of scales that the search tries."""

    def quantize(self, source: Source) -> Quantized:
        blocks = Blocks(source, per_of(self.granularity, self.group))
        matrices = blocks.matrices()
        ones = blocks.matrices(torch.ones_like(source.weights))
        weights = ones if source.h is None else blocks.matrices(source.h)
        counts = [one.sum(1).clamp(min=1) for one in ones]
        exact = torch.cat([self._scale(m, h, n) for m, h, n in zip(matrices, weights, counts, strict=True)])
        step = Entries.kept_as("step", exact, blocks, self.scales)
        codes = [_codes(m, s) for m, s in zip(matrices, blocks.split(step.values), strict=True)]
        levels = blocks.kept(codes)
        low, high = (int(edge) for edge in levels.aminmax())
        return Quantized(
            (levels - low).to(torch.int32), high - low + 1, source.sizes, dict(step.parameters),
            {"offset": low, **step.side}, "grid", structure=blocks.structure(step),
        )  # fmt: skip

    def knob(self, source: Source) -> Knob:
        return Knob("lam", 1e-4, 10.0, "log", more_bytes="down")

    def _scale(self, w: Tensor, h: Tensor, count: Tensor) -> Tensor:
        """(entries,), from (entries, width) weights and sensitivities; count: (entries,) kept weights, at least 1."""
        largest = Blocks.largest(w)
        if not w.numel():
            return largest
        power = (h * w * w).sum(1)

        def price(scale: Tensor) -> Tensor:
            q = _codes(w, scale)
            error = (h * (w - scale[:, None] * q).square()).sum(1)
            return torch.nan_to_num(error / power) + self.lam * q.abs().sum(1) / count

        best, least = largest / _MOST, torch.full_like(largest, torch.inf)
        for share in torch.linspace(0, 1, self.tries).tolist():
            scale = largest * _MOST ** (share - 1.0)
            now = price(scale)
            best, least = torch.where(now < least, scale, best), torch.minimum(now, least)
        q = _codes(w, best)
        refit = torch.nan_to_num((h * w * q).sum(1) / (h * q * q).sum(1), nan=0.0, posinf=0.0, neginf=0.0)
        refit = torch.where(refit > 0, refit, best)
        return torch.where(price(refit) < least, refit, best)


def _codes(w: Tensor, scale: Tensor) -> Tensor:
    ratio = torch.nan_to_num(w / scale[:, None], nan=0.0, posinf=0.0, neginf=0.0)
    return torch.round(ratio).clamp(-_MOST, _MOST)
