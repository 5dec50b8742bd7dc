"""Four- and eight-bit floats, and the quantiles of a normal distribution: tables defined by a rule, with a scale per
block.

For the weights w of a block: value = s table[symbol], s = max |w| / max table, the symbol of the nearest entry. The
tables (``nqbench.api.tables``) cost no bytes; only scales do, and ``scales: codes`` stores them as 8-bit multiples of a
float per tensor (double quantization, QLoRA, 2305.14314, section 3; there, in blocks of 256 with their mean
subtracted).

``powers`` takes the powers of two of OCP's microscaling formats (MX 1.0, section 6.3): s = 2^(floor(log2 max |w|) - e),
e the exponent of the table's largest entry (2 for fp4, 8 for e4m3, 15 for e5m2); weights beyond the largest entry are
rounded to it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from nqbench.api import Quantized, Quantizer, Source
from nqbench.api.tables import table_of
from nqbench.api.toolkit.blocks import Blocks, Entries, Granularity, Kept, per_of
from nqbench_quantizers.block_levels import cells, extremes


class _Tabled(Quantizer):
    """A table defined by a rule, and a scale for each block."""

    granularity: Granularity = "group"
    """Which weights share a scale: those of all tensors (``global``), of a tensor (``layer``), an output channel, or a
    group."""
    group: int = Field(64, ge=1)
    """Consecutive weights of a channel that share a scale (``granularity: group``)."""
    scales: Kept = "codes"
    """How scales are stored; ``codes``: as 8-bit multiples of one float per tensor (double quantization)."""

    def rule(self) -> tuple[str, int]:
        """The table's name and its number of entries."""
        raise NotImplementedError

    def scale_of(self, largest: Tensor, most: float) -> Tensor:
        """The scale of blocks whose largest magnitudes are given. most: the table's largest entry."""
        return largest / most

    def quantize(self, source: Source) -> Quantized:
        rule, count = self.rule()
        table = torch.from_numpy(table_of(rule, count).copy()).to(source.device)
        middles = ((table[1:].double() + table[:-1].double()) / 2).float()
        blocks = Blocks(source, per_of(self.granularity, self.group))
        matrices = blocks.matrices()
        exact = torch.cat([self.scale_of(_largest(m), float(table.max())) for m in matrices])
        scale = Entries.kept_as("scale", exact, blocks, self.scales)
        symbols = [cells(m, s, middles) for m, s in zip(matrices, blocks.split(scale.values), strict=True)]
        return Quantized(
            symbols=blocks.kept(symbols),
            alphabet=count,
            sizes=source.sizes,
            parameters=dict(scale.parameters),
            side=dict(scale.side),
            structure=blocks.structure(scale, table=rule),
        )


def _largest(matrix: Tensor) -> Tensor:
    if not matrix.numel():
        return matrix.new_zeros(len(matrix))
    low, high = extremes(matrix)
    return torch.maximum(-low, high)


class NF4(_Tabled, name="nf4", paper="QLoRA, arXiv:2305.14314"):
    """Sixteen quantiles of a normal distribution, with a scale for each block of weights."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"group": 16, "scales": "float16"}, {"granularity": "channel"}]}
    )

    def rule(self) -> tuple[str, int]:
        return "nf4", 16


class _Float(_Tabled):
    """A floating-point format of few bits."""

    exponents: ClassVar[dict[str, int]] = {"fp4": 2, "e4m3": 8, "e5m2": 15}

    powers: bool = False
    """Whether scales are powers of two (OCP's microscaling formats), stored as floats: codes are no powers of two."""

    @model_validator(mode="after")
    def _powers_as_floats(self) -> _Float:
        if self.powers and self.scales == "codes":
            raise ValueError("powers: true needs scales that can be powers of two: bfloat16, float16 or float32")
        return self

    def scale_of(self, largest: Tensor, most: float) -> Tensor:
        if not self.powers:
            return largest / most
        exponent = torch.frexp(largest).exponent - 1 - self.exponents[self.rule()[0]]
        return torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponent), 0.0)


class FP4(_Float, name="fp4", paper="OCP Microscaling Formats 1.0"):
    """Four-bit floats (E2M1), with a scale for each block of weights."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{}, {"group": 8, "powers": True, "scales": "bfloat16"}, {"granularity": "layer"}]
        }
    )

    def rule(self) -> tuple[str, int]:
        return "fp4", 15


class FP8(_Float, name="fp8", paper="OCP 8-bit Floating Point 1.0"):
    """Eight-bit floats (E4M3 or E5M2), with a scale for each channel."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"layout": "e5m2", "granularity": "group", "scales": "float16"}]}
    )

    granularity: Granularity = "channel"
    """Which weights share a scale: those of all tensors (``global``), of a tensor (``layer``), an output channel, or a
    group."""
    scales: Kept = "float32"
    """How scales are stored; ``codes``: as 8-bit multiples of one float per tensor (double quantization)."""
    layout: Literal["e4m3", "e5m2"] = "e4m3"
    """Number of bits of exponent and mantissa."""

    def rule(self) -> tuple[str, int]:
        return self.layout, {"e4m3": 253, "e5m2": 247}[self.layout]
