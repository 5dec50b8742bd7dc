"""Random codes: blocks of weights as codewords that a seed draws [1810.00440; Shannon 1959].

By itself the quantizer takes for each block the codeword of least squared error, weighted by the sensitivity: Shannon's
random code of ``bits`` / ``d`` bits a weight. Of a Gaussian source its codewords have the variance of the weights less
that of the error at this rate, sigma^2 (1 - 2^(-2 bits / d)). The training ``miracle`` makes networks of which such
blocks are all that a file holds, at a small part of a bit a weight.
"""

from __future__ import annotations

import math

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import BadInput, Knob, Quantized, Quantizer, Source
from nqbench.api.toolkit.random_code import LONGEST, RandomCode, reconstructed

_AT_ONCE = 1 << 24  # distances, and numbers of codewords
_MOST = 1 << 28  # numbers of codewords that are drawn: minutes


class RandomCodeQuantizer(Quantizer, name="random-code", paper="arXiv:1810.00440; Shannon 1959"):
    """Shuffled weights in blocks of ``d``, each the nearest of 2^``bits`` random codewords, which a seed draws; and a
    scale for each tensor."""

    takes = frozenset({"none", "diagonal"})
    model_config = ConfigDict(json_schema_extra={"examples": [{"bits": 6, "d": 3}, {"bits": 4, "d": 64}]})

    bits: int = Field(8, ge=1, le=20)
    """Bits of a block: there are 2^bits codewords."""
    d: int = Field(4, ge=1, le=LONGEST)
    """Number of weights in a block."""

    def uses_seed(self) -> bool:
        return True

    def dimension(self) -> int:
        return self.d

    def knob(self, source: Source) -> Knob:
        most = max(1, min(LONGEST, source.n, _MOST >> self.bits))
        return Knob("d", 1, most, "log", integer=True, more_bytes="down", start=min(most, max(1, self.bits // 2)))

    def quantize(self, source: Source) -> Quantized:
        code = RandomCode(source.seed, 1 << self.bits, min(self.d, max(1, source.n)), source.sizes)
        if code.alphabet * code.d > _MOST:
            raise BadInput(
                f"quantizer 'random-code': 2^{self.bits} codewords of {code.d} numbers take too long to draw, at most "
                f"2^{_MOST.bit_length() - 1} numbers are: lower bits or d"
            )
        scale = torch.stack([self._scale(part, code.d) for part in torch.split(source.weights, list(code.sizes))])
        return code.result(nearest(code, source.weights, scale, source.h), scale)

    def _scale(self, weights: Tensor, d: int) -> Tensor:
        """() float32."""
        power = weights.double().square().mean() if weights.numel() else weights.new_zeros((), dtype=torch.float64)
        return (power * (1 - 2 ** (-2 * self.bits / d))).sqrt().to(torch.float32)

    def reconstruct(self, quantized: Quantized, parameters: dict[str, Tensor] | None = None) -> Tensor:
        return reconstructed(quantized, parameters)


def nearest(code: RandomCode, weights: Tensor, scale: Tensor, h: Tensor | None) -> Tensor:
    """(blocks,) int64: for each block the codeword c of least sum h (w - scale c)^2.

    weights, h: (n,); scale: (tensors,).
    """
    order = code.order(weights.device)
    peak = float(weights.abs().max()) if weights.numel() else 0.0
    unit = peak or 1.0  # squares of large weights times as many as a block has are no float32 numbers
    w = code.in_blocks(weights / unit, order)
    s = code.in_blocks(code.spread(scale / unit), order)
    weight = code.in_blocks(torch.ones_like(weights) if h is None else h / h.max(), order)
    # sum h (w - s c)^2 without sum h w^2, which is the same for all codewords
    squared, crossed = weight * s * s, weight * s * w
    best = torch.full((code.blocks,), math.inf, device=weights.device)
    chosen = torch.zeros(code.blocks, dtype=torch.int64, device=weights.device)
    step = max(1, _AT_ONCE // max(code.d, code.blocks, 1))
    for start in range(0, code.alphabet, step):
        words = code.codewords(start, min(start + step, code.alphabet), weights.device)
        least, at = (squared @ (words * words).T - 2 * crossed @ words.T).min(1)
        closer = least < best
        best, chosen = torch.where(closer, least, best), torch.where(closer, at + start, chosen)
    return chosen
