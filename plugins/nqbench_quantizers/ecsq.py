"""Entropy-constrained scalar quantization [1612.01543, section 5; Chou, Lookabaugh, Gray 1989].

Objective: J = D + lambda H over codewords c_j and cells C_j, with
    D = (1/n) sum_i h_i (w_i - c_j(i))^2,   H = - sum_j p_j log2 p_j,   p_j = |C_j| / n,   h_i = 1 unless given.

Each iteration assigns i to argmin_j h_i (w_i - c_j)^2 - lambda log2 p_j, and then sets p_j and c_j = sum h w / sum h
over C_j. Neither half of an iteration can increase J.

Unweighted, the cells are intervals: those of the lower envelope of the lines -2 c_j w + c_j^2 - lambda log2 p_j, so an
iteration costs k binary searches in the sorted weights. Weighted, the boundaries depend on h_i, and each weight is
assigned individually.

Initialization: the uniform grid of step sqrt(6 lambda / (ln 2 * mean h)), at which the high-rate approximation of J, h
step^2 / 12 - lambda log2 step, is stationary. With many weights, the weighted iteration first converges on an evenly
spaced sample of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import AliasChoices, ConfigDict, Field
from torch import Tensor

from nqbench.api import Knob, Quantized, Quantizer, Source, scalar
from nqbench.api.chunks import CHUNK
from nqbench_quantizers import lagrangian, partition
from nqbench_quantizers.lagrangian import Code

_BLOCK = 8  # iterations between two evaluations of J: on a GPU each evaluation waits for the device
_TOLERANCE = 1e-6  # the iteration ends when J falls by less than this share in a block
_MOST_CODEWORDS = 1 << 16
_SAMPLED_ABOVE = 1 << 22  # weighted: with more weights than this, the iteration first converges on every s-th
_SAMPLE = 1 << 20


class _Lagrangian(Quantizer):
    """What both variants share: the knob lambda and its unit."""

    lam: float = Field(gt=0, validation_alias=AliasChoices("lam", "lambda"), examples=[0.01])
    """The price lambda of a bit, in units of J's distortion. In a suite it may be written ``lambda``."""
    unit: Literal["absolute", "variance"] = "absolute"
    """Unit of lambda: 1, or the variance of the weights times their mean sensitivity."""

    def price(self, source: Source) -> float:
        """lambda in absolute units. If all weights are equal, the distortion is 0 at any price, and any will do."""
        return self.lam if self.unit == "absolute" else self.lam * _variance(source)

    def knob(self, source: Source) -> Knob:
        # D(R) = (pi e / 6) 2^-2R of the variance falls by 2 ln 2 D per bit: 0.12 at two bits
        unit = _variance(source) if self.unit == "absolute" else 1.0
        return Knob("lam", 1e-5 * unit, 3.0 * unit, "log", more_bytes="down", start=0.12 * unit)


class ECSQ(_Lagrangian, name="ecsq", paper="arXiv:1612.01543, section 5, algorithm 1"):
    """Entropy-constrained scalar quantization: minimizes distortion plus lambda times entropy, by iteration."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"lam": 0.1, "unit": "variance", "k": 8}]})
    takes = frozenset({"none", "diagonal"})

    k: int | None = Field(None, ge=1, le=_MOST_CODEWORDS)
    """Start from this many codewords, evenly spaced between the extremes, instead of from the grid that follows from
    lambda."""
    iterations: int = Field(1000, ge=1)
    """Largest number of iterations."""

    def quantize(self, source: Source) -> Quantized:
        lam = self.price(source)
        h = source.h
        if h is None or bool((h == h[0]).all()):
            # with equal sensitivities the problem is the unweighted one at another price
            return self._unweighted(source, lam / (1.0 if h is None else float(h[0])), lam)
        return self._weighted(source, h, lam)

    def _unweighted(self, given: Source, lam: float, stated: float) -> Quantized:
        source = unweighted(given)
        line = scalar.line(source)
        best, total = None, 0
        for start in self._starts(source, lam, given.previous):
            code, iterations = run(lambda c: lagrangian.step(line, c, lam), start, self.iterations)
            total += iterations
            if best is None or float(code.j) < float(best.j):
                best = code
        assert best is not None
        edges = lagrangian.edges(best.codebook, best.price(lam))
        return _finish(given, scalar.from_edges(given, edges), stated, total)

    def _weighted(self, source: Source, h: Tensor, lam: float) -> Quantized:
        w, shift = source.weights, scalar.offset(source)
        start, total = self._starts(source, lam, source.previous)[0], 0
        if source.n > _SAMPLED_ABOVE:
            stride = source.n // _SAMPLE
            some, its = w[::stride].contiguous(), h[::stride].contiguous()
            start, total = run(lambda c: lagrangian.weighted_step(some, its, c, lam, shift), start, self.iterations)
        code, iterations = run(lambda c: lagrangian.weighted_step(w, h, c, lam, shift), start, self.iterations, block=1)
        symbols = lagrangian.assign(w, h, code.codebook, code.price(lam))
        return _finish(source, scalar.from_symbols(source, symbols, code.codebook.numel()), lam, total + iterations)

    def _starts(self, source: Source, lam: float, warm: Quantized | None = None) -> list[Code]:
        """The initial codes: the codebook of a warm start, or k codewords, or the grid with zero mid-cell and on a
        boundary."""
        previous = None if warm is None else warm.table
        if previous is not None and previous.dim() == 1:
            return [_nearest_code(source, torch.unique(previous.double().to(source.device)))]
        if self.k is not None:
            low, high = scalar.extremes(source)
            return [_nearest_code(source, torch.linspace(low, high, self.k, dtype=torch.float64).to(source.device))]
        low, high = scalar.extremes(source)
        width = max(math.sqrt(6 * lam / (math.log(2) * _mean_h(source))), (high - low) / _MOST_CODEWORDS)
        placements: tuple[Literal["center", "edge"], ...] = ("center", "edge")
        return [_grid_code(source, width, zero) for zero in placements]


class ECSQOptimal(_Lagrangian, name="ecsq-optimal", paper="Muresan and Effros 2008; arXiv:1612.01543"):
    """The global minimum of distortion plus lambda times entropy over a histogram's bins, unweighted."""

    bins: int = Field(4096, ge=2, le=1 << 16)
    """Number of bins of the histogram; with at most this many distinct weights, the solution is exact."""

    def quantize(self, source: Source) -> Quantized:
        source = unweighted(source)
        lam = self.price(source)
        edges, j = partition.entropy_constrained_edges(source, scalar.line(source), lam, self.bins)
        return _finish(source, scalar.from_edges(source, edges), lam, 0, {"lagrangian_bound": j})


def unweighted(source: Source) -> Source:
    """The source without its sensitivity; cached, so that its views are shared too."""
    return source if source.sensitivity is None else source.view("unweighted", lambda s: s.with_(sensitivity=None))


def run(step: Callable[[Code], Code], start: Code, iterations: int, block: int = _BLOCK) -> tuple[Code, int]:
    """Iterate until J falls by less than the tolerance in a block. Returns the last code and the number of
    iterations."""
    code, before, done = start, math.inf, 0
    while done < iterations:
        for _ in range(min(block, iterations - done)):
            code = step(code)
            done += 1
        after = float(code.j)
        if before - after <= _TOLERANCE * abs(after):
            break
        before = after
        used = code.counts > 0
        code = Code(code.codebook[used], code.counts[used], code.j)
    return code, done


def _finish(
    source: Source, q: Quantized, lam: float, iterations: int, extra: dict[str, float] | None = None
) -> Quantized:
    """The result with the method's statistics added."""
    figures = dict(q.statistics)
    # D is per weight here, and `distortion` per unit of sensitivity
    j = figures["distortion"] * _mean_h(source) + lam * figures["entropy"]
    figures |= {"iterations": float(iterations), "lagrangian": j, "lambda": lam, **(extra or {})}
    return Quantized(q.symbols, q.alphabet, q.sizes, q.parameters, statistics=figures)


def _nearest_code(source: Source, codebook: Tensor) -> Code:
    """The code of a given codebook, with the counts of its nearest-codeword cells."""
    line = scalar.line(source)
    count, _, _, _ = line.sums(line.cut(scalar.midpoints(codebook)))
    used = count > 0
    return Code(codebook[used], count[used], count.new_tensor(math.inf))


def _grid_code(source: Source, width: float, zero: Literal["center", "edge"]) -> Code:
    """The code whose codewords are the means of the cells of a uniform grid of this step."""
    low, high = scalar.extremes(source)
    line = scalar.line(source)
    if low == high:  # all weights are equal: one cell
        return Code(line.points[:1].double(), line.count[-1:], line.count.new_tensor(math.inf))
    half = 0.5 if zero == "center" else 0.0
    first, last = (math.floor(end / width + half) for end in (low, high))
    edges = (torch.arange(first + 1, last + 1, dtype=torch.float64, device=source.device) - half) * width
    positions = line.cut(edges)
    count, h, hw, _ = line.sums(positions)
    used = count > 0
    return Code(line.means(positions, h, hw)[used], count[used], count.new_tensor(math.inf))


def _mean_h(source: Source) -> float:
    if source.h is None:
        return 1.0
    h = source.h
    return source.view("mean h", lambda s: math.fsum(float(c.double().sum()) for c in torch.split(h, CHUNK)) / s.n)


def _variance(source: Source) -> float:
    return (scalar.moments(source)[1] ** 2 or 1.0) * _mean_h(source)
