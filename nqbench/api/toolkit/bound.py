"""How few bits a layer's weights could take at a given error of its output: the rate-distortion bound of a Gaussian.

A layer's weights W, R rows of m, are taken for independent Gaussian numbers of mean 0 and of the weights' mean square
s^2; a change E of them costs tr(E H E^T), H = E[x x^T] of its inputs (a matrix per group of rows). In the basis of H's
eigenvectors the cost is a sum of squares with H's eigenvalues l_i as weights, and the coordinates of each row are
Gaussian numbers of variance s^2 again: the components v_i = s^2 l_i of a row are independent, and for a water level t

    D(t) = R sum_i min(t, v_i)        bits(t) = R sum_i max(0, log2(v_i / t) / 2)

is the least rate at that distortion [reverse water-filling: Cover and Thomas 2006, theorem 10.3.3; for layers
WaterSIC, 2603.04956, section 2]. Of all sources with that covariance the Gaussian needs the most: weights of heavier
tails, of rows of unequal size or with any other order in them may take fewer bits than this, and a coder that knows
that order will. Uniform quantizers of the same Gaussian weights, with feedback or without, cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nqbench.api.chunks import in_chunks
from nqbench.api.errors import BadInput
from nqbench.api.moments import Moments

_HALVINGS = 200


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Variances of independent Gaussian components, each in the unit of the distortion.

    Args:
        variances: (E,) float64, 0 or more.
        counts: (E,) float64, how many components have each.

    Example:
        >>> white = Spectrum(torch.tensor([4.0]).double(), torch.tensor([100.0]).double())
        >>> white.rate(100.0), white.distortion(100.0)  # D = v 2^(-2 b): one bit each
        (100.0, 100.0)
    """

    variances: Tensor
    counts: Tensor

    @staticmethod
    def of(tensor: Tensor, packed: Tensor) -> Spectrum:
        """Of a layer's weights under the second moments of what they multiply.

        Args:
            tensor: the weights, nothing pruned.
            packed: second moments as ``Moments`` packs them.

        Returns:
            The spectrum of v_i = s^2 l_i, each as often as a group has rows.

        Raises:
            BadInput: second moments that do not fit the tensor.
        """
        moments = Moments.of(packed.double())
        if not moments.fits(tensor.shape):
            raise BadInput(f"second moments of the shape {tuple(packed.shape)} do not fit {tuple(tensor.shape)}")
        gram = moments.gram
        values = gram[:, 0] if moments.diagonal else torch.linalg.eigvalsh(gram)
        rows = tensor.numel() // max(gram.shape[0] * gram.shape[2], 1)
        flat = tensor.reshape(-1)
        # in chunks: a large embedding would take gigabytes in float64
        sums = in_chunks(flat.numel(), lambda at: float(flat[at].double().square().sum()))
        square = sum(sums) / max(flat.numel(), 1)
        return Spectrum(square * values.clamp(min=0).reshape(-1), torch.full((values.numel(),), float(rows)).double())

    @property
    def total(self) -> float:
        """The distortion without a bit."""
        return float((self.variances * self.counts).sum())

    def rate(self, distortion: float) -> float:
        """The bits that all components together need at a distortion; 0 where that is what they cost without any, inf
        for a distortion of 0."""
        if distortion >= self.total:
            return 0.0
        if distortion <= 0:
            return math.inf
        level = _bisected(lambda t: float((self.variances.clamp(max=t) * self.counts).sum()), distortion, self._most)
        return self._bits(level)

    def distortion(self, bits: float) -> float:
        """The least distortion for so many bits in all."""
        if bits <= 0 or self.total == 0:
            return self.total
        level = _bisected(lambda t: -self._bits(t), -bits, self._most)
        return float((self.variances.clamp(max=level) * self.counts).sum())

    @property
    def _most(self) -> float:
        return float(self.variances.max())

    def _bits(self, level: float) -> float:
        return float(((self.variances / level).log2().clamp(min=0) / 2 * self.counts).sum())


def joined(spectra: Sequence[Spectrum]) -> Spectrum:
    """Of several layers, whose distortions are added: their water level is one."""
    return Spectrum(torch.cat([s.variances for s in spectra]), torch.cat([s.counts for s in spectra]))


def _bisected(rising: Callable[[float], float], wanted: float, most: float) -> float:
    """Where a function of the level, which rises, is ``wanted``; at most ``most``."""
    low, high = most * 2.0**-400 or math.ulp(0.0), most
    for _ in range(_HALVINGS):
        middle = math.exp((math.log(low) + math.log(high)) / 2)
        if not low < middle < high:
            break
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return high
