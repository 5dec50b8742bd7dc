"""Group-wise quantization by other libraries: the codes, scales and zero points that the packages ``hqq``,
``optimum-quanto`` and ``torchao`` compute on the CPU, stored in this project's files and coded by its entropy coders.
Registered only where the package is installed: the optional extra ``peers``.

Each library is given the groups as rows of a matrix and returns integer codes q with a scale and an offset per row, so
that value = s (q - z) or s q + t. Groups whose weights are all equal do not go through the library: here their value is
the scale.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from nqbench.api import Knob, Quantized, Quantizer, Source
from nqbench.api.toolkit.blocks import Blocks, Entries, Granularity, per_of
from nqbench_quantizers.block_levels import extremes


class _Peer(Quantizer):
    """Codes of b bits with a scale and an offset per group, computed by a library."""

    library: ClassVar[str]
    offset_name: ClassVar[Literal["zero", "shift"]] = "zero"

    bits: int = Field(4, ge=2, le=8)
    """Bits per weight, before entropy coding."""
    granularity: Granularity = "group"
    """Which weights share a scale and an offset: those of all tensors (``global``), of a tensor (``layer``), a channel,
    a group."""
    group: int = Field(64, ge=1)
    """Consecutive weights of a channel that share them (``granularity: group``)."""

    def quantize(self, source: Source) -> Quantized:
        blocks = Blocks(source, per_of(self.granularity, self.group))
        codes, scales, offsets = [], [], []
        for matrix in blocks.matrices():
            q, s, o = self._guarded(matrix)
            codes.append(q)
            scales.append(s)
            offsets.append(o)
        scale = Entries.floats("step", torch.cat(scales), blocks, torch.float16)
        offset = Entries.floats(self.offset_name, torch.cat(offsets), blocks, torch.float16)
        return Quantized(
            blocks.kept(codes), 2**self.bits, source.sizes, {**scale.parameters, **offset.parameters}, {"offset": 0},
            "grid", structure=blocks.structure(scale, offset),
        )  # fmt: skip

    def knob(self, source: Source) -> Knob | None:
        return Knob("bits", 2, 8, "linear", integer=True, more_bytes="up")

    def _guarded(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, L) int32 codes, (R,) scales and offsets. Rows whose weights are all equal, and rows for which the library
        returns numbers that are not finite, are coded here: code 1 is the weight of the largest magnitude, code 0 is
        0."""
        if not matrix.numel():
            empty = matrix.new_zeros(len(matrix))
            return torch.zeros(matrix.shape, dtype=torch.int32, device=matrix.device), empty, empty
        low, high = extremes(matrix)
        codes, scale, offset = self._by_library(matrix)
        codes, scale, offset = codes.to(torch.int32).reshape(matrix.shape), scale.reshape(-1), offset.reshape(-1)
        good = (high > low) & torch.isfinite(scale) & torch.isfinite(offset)
        largest = torch.where(high > -low, high, low)
        alone = ((matrix != 0) & (matrix == largest[:, None])).to(torch.int32)
        return (
            torch.where(good[:, None], codes, alone).clamp_(0, 2**self.bits - 1),
            torch.where(good, scale, largest).float(),
            torch.where(good, offset, 0.0).float(),
        )

    def _by_library(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The codes, and the scale and the offset of each row."""
        raise NotImplementedError


class HQQPackage(_Peer, name="hqq-package", requires="hqq", paper="https://pypi.org/project/hqq"):
    """The package hqq's quantizer: zero points by half-quadratic optimization."""

    library = "hqq"

    bits: Literal[2, 3, 4, 5, 6, 8] = 4
    """Bits per weight, before entropy coding."""

    def knob(self, source: Source) -> Knob:
        return Knob("bits", 2, 6, "linear", integer=True, more_bytes="up")

    def _by_library(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from hqq.core.quantize import Quantizer as Library

        codes, meta = Library.quantize(
            matrix, nbits=self.bits, group_size=matrix.shape[1], axis=1, bitpack=False, device=str(matrix.device)
        )
        return codes, meta["scale"].float(), meta["zero"].float()


class Quanto(_Peer, name="quanto", requires="optimum-quanto", paper="https://pypi.org/project/optimum-quanto"):
    """optimum-quanto's affine codes, with ranges by its ``MaxOptimizer``."""

    library = "optimum-quanto"
    offset_name = "shift"

    bits: Literal[2, 4] = 4
    """Bits per weight, before entropy coding."""

    def knob(self, source: Source) -> None:
        return None

    def _by_library(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from optimum.quanto import MaxOptimizer, qint2, qint4

        if len(matrix) == 1:
            # the library ignores an axis of size 1
            codes, scale, shift = self._by_library(matrix.repeat(2, 1))
            return codes[:1], scale[:1], shift[:1]
        scale, shift = MaxOptimizer()(matrix, qint4 if self.bits == 4 else qint2, axis=0, group_size=None)
        codes = torch.ops.quanto.quantize_affine(matrix, self.bits, 0, None, scale, shift)
        return codes, scale.float(), -shift.float()


class TorchAO(_Peer, name="torchao", requires="torchao", paper="https://pypi.org/project/torchao"):
    """torchao's affine codes with integer zero points."""

    library = "torchao"

    def _by_library(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, quantize_affine

        block, most = (1, matrix.shape[1]), 2**self.bits - 1
        scale, zero = choose_qparams_affine(
            matrix, MappingType.ASYMMETRIC, block, torch.uint8, quant_min=0, quant_max=most,
            scale_dtype=torch.float32, zero_point_dtype=torch.int32,
        )  # fmt: skip
        codes = quantize_affine(matrix, block, scale, zero, torch.uint8, quant_min=0, quant_max=most)
        return codes, scale.float(), zero.float()
