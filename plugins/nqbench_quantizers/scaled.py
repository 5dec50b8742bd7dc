"""Fixed codebooks, with or without a learned scale [1707.04319, section 4.2 and its appendix].

Objective: min over a > 0 and assignments of sum_i h_i (w_i - a c_j(i))^2, the codewords c_j given, h_i = 1 without a
sensitivity. With ``scale: learned``, a is the only parameter; if ``scale`` is a number, a is fixed (``scale: 1``: the
codebook itself).

* ``binary``, {-a, a}: sign(w), sign(0) = +1; a = sum h |w| / sum h.
* ``ternary``, {-a, 0, a}: with |w| in descending order, j* = argmax_j sum_{i<=j} h |w| / sqrt(sum_{i<=j} h), a is the
  mean |w| of those j*, and weights with |w| <= a / 2 are zero: the exact optimum. With a fixed scale a, weights with
  |w| < a / 2 are zero.
* ``powers-of-two``, {0, +-1, +-1/2, ..., +-2^-C}, and ``fixed``, any codebook: the nearest codeword. The scale is found
  by alternating between assignment and a = sum h w c / sum h c^2, which never increases the objective, from several
  starts.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from nqbench.api import Knob, Quantized, Quantizer, Source, scalar

_STARTS = 512
_OCTAVES = 15.0  # how far below the extremes the search for a scale begins
_QUERIES = 1 << 20  # scaled codewords looked up at a time
_BELOW = -5e-324  # an edge just under zero


class _Scaled(Quantizer):
    """A fixed codebook times a scale, fixed or learned."""

    takes = frozenset({"none", "diagonal"})

    scale: Literal["learned"] | float = "learned"
    """``learned``, or the number that the codebook is multiplied by."""

    @model_validator(mode="after")
    def _positive(self) -> _Scaled:
        if self.scale != "learned" and not float(self.scale) > 0:
            raise ValueError("scale must be 'learned' or a positive number")
        return self

    def levels(self) -> tuple[float, ...]:
        """The codewords before the scale, ascending."""
        raise NotImplementedError

    def learn(self, source: Source) -> float:
        """The scale that minimizes the objective."""
        table = torch.tensor(self.levels(), dtype=torch.float32, device=source.device)
        return alternate(source, table.double())

    def edges(self, table: Tensor, scale: float) -> Tensor:
        """(k - 1,) float64 edges between the cells of the scaled table; a weight on an edge belongs to the lower
        cell."""
        return scalar.midpoints(table) * scale

    def quantize(self, source: Source) -> Quantized:
        table = torch.tensor(self.levels(), dtype=torch.float32, device=source.device)
        learned = self.scale == "learned"
        # the scale as the decoder has it
        scale = torch.tensor([self.learn(source) if learned else self.scale], dtype=torch.float32, device=source.device)
        edges = self.edges(table, float(scale))
        shift = scalar.offset(source)
        symbols, sums = scalar.assign_and_sum(source.weights, source.h, edges, shift)
        error = scalar.distortion(sums, table.double() * float(scale), shift) / float(sums[1].sum())
        held = {} if learned or self.scale == 1 else {"scale": scale}
        return Quantized(
            symbols=symbols,
            alphabet=table.numel(),
            sizes=source.sizes,
            parameters={"scale": scale} if learned else {},
            side={"codebook": table, **held},
            statistics={"scale": float(scale), "distortion": error, "entropy": scalar.entropy(sums[0])},
        )


class Binary(_Scaled, name="binary", paper="arXiv:1707.04319, theorem A.2"):
    """{-a, a}: the sign of each weight, a the (sensitivity-weighted) mean magnitude or a number."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"scale": 1}]})

    def levels(self) -> tuple[float, ...]:
        return (-1.0, 1.0)

    def edges(self, table: Tensor, scale: float) -> Tensor:
        return torch.tensor([_BELOW], dtype=torch.float64, device=table.device)

    def learn(self, source: Source) -> float:
        line = scalar.line(magnitudes(source))
        return float(line.shift + line.hw[-1] / line.h[-1])


class Ternary(_Scaled, name="ternary", paper="arXiv:1707.04319, theorem A.3"):
    """{-a, 0, a}: a and the zeroed weights are chosen jointly, with the exact optimum; or a is a fixed number."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"scale": 1}]})

    def levels(self) -> tuple[float, ...]:
        return (-1.0, 0.0, 1.0)

    def edges(self, table: Tensor, scale: float) -> Tensor:
        half = torch.tensor([-scale / 2, scale / 2], dtype=torch.float64, device=table.device)
        if self.scale == "learned":  # zero where |w| <= a / 2
            return torch.stack([torch.nextafter(half[0], half.new_tensor(-torch.inf)), half[1]])
        return torch.stack([half[0], torch.nextafter(half[1], half.new_tensor(-torch.inf))])

    def learn(self, source: Source) -> float:
        size = magnitudes(source)
        line = scalar.line(size)
        h = line.h[-1] - line.h[:-1]
        first = line.hw[-1] - line.hw[:-1] + line.shift * h
        best = (first / h.sqrt()).argmax()
        scale = float(first[best] / h[best])
        if line.exact:
            return scale
        # a bin of the sorted weights may hold many: the threshold is determined on the weights themselves
        for _ in range(3):
            half = torch.tensor([scale / 2], dtype=torch.float64, device=source.device)
            sums = scalar.interval_sums(size.weights, size.h, half, 0.0)
            scale = float(sums[2, 1] / sums[1, 1])
        return scale


class PowersOfTwo(_Scaled, name="powers-of-two", paper="arXiv:1707.04319, theorem A.1"):
    """{0, +-1, +-1/2, ..., +-2^-C} times a scale; each weight is rounded to the nearest."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"exponents": 2, "scale": 1}]})

    exponents: int = Field(4, ge=0, le=60)
    """C: the smallest magnitude is 2^-C; there are 2 C + 3 codewords."""

    def levels(self) -> tuple[float, ...]:
        powers = [2.0**-c for c in range(self.exponents + 1)]
        return (*(-p for p in powers), 0.0, *reversed(powers))

    def knob(self, source: Source) -> Knob:
        return Knob("exponents", 0, 8, "linear", integer=True, more_bytes="up")


class Fixed(_Scaled, name="fixed", paper="arXiv:1707.04319, section 4.2"):
    """A codebook given by the user, times a scale; each weight is rounded to the nearest codeword."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"codebook": [-1.0, -0.25, 0.0, 0.25, 1.0], "scale": 1}]})
    _smallest: ClassVar[float] = 1e-30

    codebook: tuple[float, ...] = Field(min_length=1, max_length=65536, examples=[(-1.5, -0.5, 0.0, 0.5, 1.5)])
    """The codewords before the scale, in any order."""

    @model_validator(mode="after")
    def _distinct(self) -> Fixed:
        if torch.unique(torch.tensor(self.codebook, dtype=torch.float32)).numel() != len(self.codebook):
            raise ValueError("codewords must differ as float32 numbers")
        if self.scale == "learned" and max(abs(c) for c in self.codebook) < self._smallest:
            raise ValueError("a codebook of zeros has no scale to learn: write scale: 1")
        return self

    def levels(self) -> tuple[float, ...]:
        return tuple(sorted(self.codebook))


def magnitudes(source: Source) -> Source:
    """|w| as a source, with the same sensitivity; cached."""
    return source.view("magnitudes", lambda s: Source(s.weights.abs(), s.tensors, s.sensitivity))


def alternate(source: Source, table: Tensor) -> float:
    """The scale a of an ascending (k,) float64 codebook, by alternation from many starts between the source's extremes
    and a small fraction of them, all at once; the best result is returned."""
    line = scalar.line(source)
    largest = max(abs(x) for x in scalar.extremes(source))
    if largest == 0.0:
        return 1.0 if 0.0 in table else 0.0
    count = max(32, min(_STARTS, _QUERIES // table.numel()))
    exponents = torch.linspace(1.0, -_OCTAVES, count, dtype=torch.float64, device=table.device)
    scales = largest / float(table.abs().max()) * 2.0**exponents
    if source.previous is not None and "scale" in source.previous.parameters:
        scales = torch.cat([scales, source.previous.parameters["scale"].to(scales)])
    for iterations, survivors in ((8, 16), (60, 1)):
        for _ in range(iterations):
            scales, gain = rescale(line, table, scales)
        order = gain.argsort(descending=True, stable=True)[:survivors]
        scales, gain = scales[order], gain[order]
    # where no scale lowers the error (a codebook of one sign, weights of the other) the scale is 0
    return float(scales[0]) if float(gain[0]) > 0 or 0.0 in table else 0.0


def rescale(line: scalar.Line, table: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """One alternation for each of (s,) scales: weights are assigned to their nearest codeword, then a = sum h w c / sum
    h c^2.

    Returns the new scales, and how much each lowers the objective against a scale of 0: sum h w^2 minus the objective,
    which is (sum h w c)^2 / sum h c^2.
    """
    edges = (scales[:, None] * scalar.midpoints(table)).reshape(-1)
    inner = line.cut(edges)[1:-1].reshape(scales.numel(), -1)
    ends = torch.tensor([0, line.points.numel()], device=inner.device).expand(scales.numel(), 2)
    positions = torch.cat([ends[:, :1], inner, ends[:, 1:]], 1)
    h = torch.diff(line.h[positions])
    whole = torch.diff(line.hw[positions]) + line.shift * h  # sum h w: hw is about the shift
    cross, square = (whole * table).sum(1), (h * table * table).sum(1)
    usable = (cross > 0) & (square > 0)
    square = torch.where(usable, square, 1.0)
    return torch.where(usable, cross / square, scales), torch.where(usable, cross * cross / square, 0.0)
