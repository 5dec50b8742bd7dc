"""Lattice quantization of vectors, plain and with a dither that the decoder generates again [1802.02271; Ziv 1985].

The concatenated weights are cut into vectors of d in order; the last one is padded, and its padding is dropped after
decoding. With step s, each coordinate is rounded to the grid point
    q = s * round(w / s)                (``zero: center``: zero is mid-cell, the paper's boundaries (b)), or
    q = s * (floor(w / s) + 1/2)        (``zero: edge``: zero is on a boundary, (a)).
``randomized-lattice`` draws u_i ~ Uniform(-s/2, s/2) once per vector i, quantizes w + u_i and decodes q - u_i. The
error of each coordinate is then uniform on the cell and independent of the source: its mean square is s^2 / 12.

The symbols are indices of the distinct lattice points that occur, in lexicographic order; the codebook holds those
points, (k,) or (k, d), and fine-tuning moves them. The decoder generates u from the seed in the file.

Statistics, in bits per weight: ``entropy`` is H(Q), the rate of a coder that does not know the dither;
``conditional_entropy`` is H(Q|U), the rate of one that does: the entropy of the empirical distribution of the weights
on the lattice shifted by u, averaged over ``_DITHERS`` values of u at the middles of equal slices of the cell. For d =
1 the distribution is read from the sorted weights. For d > 1 it is counted on at most ``_VECTORS`` of the vectors,
evenly spaced; unless there are far fewer points than vectors, both entropies are biased low.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import BadInput, Knob, Quantized, Quantizer, Source, dither, gaussian_step, scalar
from nqbench_quantizers import points
from nqbench_quantizers.steps import steps_of

_DITHERS = 16
_VECTORS = 1 << 19
_CELLS = 1 << 20  # with more cells, only the points that occur are counted


class Lattice(Quantizer, name="lattice", paper="arXiv:1802.02271, section 3"):
    """Maps vectors of d weights to the nearest point of a cubic lattice; the points that occur are the codebook."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"step": 0.5, "d": 2, "zero": "edge"}]})

    step: float = Field(gt=0, examples=[0.1])
    """Distance of neighbouring lattice points in each coordinate."""
    d: int = Field(1, ge=1, le=64)
    """Number of weights in a vector."""
    zero: Literal["center", "edge"] = "center"
    """Whether zero lies in the middle of a cell or on a boundary between cells."""
    unit: Literal["absolute", "std"] = "absolute"
    """Unit of the step: 1, or the standard deviation of the weights."""

    def quantize(self, source: Source) -> Quantized:
        return self._quantize(source, None)

    def dimension(self) -> int:
        return self.d

    def knob(self, source: Source) -> Knob:
        unit = (scalar.moments(source)[1] or 1.0) if self.unit == "absolute" else 1.0
        # a fine lattice in many dimensions has so many points that each vector has one of its own
        low = unit * (1 / 32 if self.d == 1 else 1 / 4)
        return Knob("step", low, unit * 6, "log", more_bytes="down", start=unit * gaussian_step(2))

    def absolute_step(self, source: Source) -> float:
        """The step in the weights' unit, as a float32 number."""
        if self.unit == "std":
            return float(steps_of(self.step, torch.tensor(scalar.moments(source)[1], dtype=torch.float64)))
        step = float(torch.tensor(self.step, dtype=torch.float32))
        if not 0 < step < math.inf:
            raise BadInput(f"a step of {self.step:g} cannot be written as a float32 number")
        return step

    def _quantize(self, source: Source, seed: int | None) -> Quantized:
        if self.unit == "std" and scalar.moments(source)[1] == 0:
            return self._constant(source, scalar.extremes(source)[0])
        step = self.absolute_step(source)
        u = None if seed is None else dither(seed, step, -(-source.n // self.d), source.device)
        grid = points.grid((source.weights, *scalar.extremes(source)), u, step, self.d, self.zero)
        symbols, table, counts = points.distinct(grid)
        scalar.check_alphabet(table.shape[0], "take a larger step")
        codebook = points.positions(table, step, self.zero)
        figures = {"codewords": float(table.shape[0]), "entropy": scalar.entropy(counts) / self.d}
        if seed is not None:
            figures["conditional_entropy"] = conditional_entropy(source, step, self.d, self.zero)
        return Quantized(
            symbols=symbols,
            alphabet=table.shape[0],
            sizes=source.sizes,
            parameters={"codebook": codebook[:, 0] if self.d == 1 else codebook},
            side={} if seed is None else {"seed": seed, "dither_step": step},
            form="lookup" if seed is None else "dithered",
            statistics=figures,
        )

    def _constant(self, source: Source, value: float) -> Quantized:
        """If all weights are equal, a step in standard deviations would be 0: their value is the only point, and no
        dither is drawn."""
        codebook = torch.full((1, self.d) if self.d > 1 else (1,), value, dtype=torch.float32, device=source.device)
        symbols = torch.zeros(-(-source.n // self.d), dtype=torch.int32, device=source.device)
        figures = {"codewords": 1.0, "entropy": 0.0}
        return Quantized(symbols, 1, source.sizes, {"codebook": codebook}, statistics=figures)


class RandomizedLattice(Lattice, name="randomized-lattice", paper="arXiv:1802.02271, section 3; Ziv 1985"):
    """A lattice shifted for each vector by a random dither, which the decoder generates from the seed in the file."""

    def uses_seed(self) -> bool:
        return True

    def quantize(self, source: Source) -> Quantized:
        return self._quantize(source, source.seed)


def conditional_entropy(source: Source, step: float, d: int, zero: Literal["center", "edge"]) -> float:
    """H(Q|U) in bits per weight; see the module's docstring."""
    middles = [step * ((m + 0.5) / _DITHERS - 0.5) for m in range(_DITHERS)]
    low, high = scalar.extremes(source)
    if d == 1 and (high - low) / step < _CELLS:
        line = scalar.line(source)
        entropies = [scalar.entropy(_shifted_counts(line, step, u, zero)) for u in middles]
    else:
        vectors = source.n // d or 1
        chosen = torch.arange(0, vectors, max(1, vectors // _VECTORS), device=source.device)
        place = chosen[:, None] * d + torch.arange(d, device=source.device)
        sample = source.weights[place.clamp_max(source.n - 1)].reshape(-1)
        entropies = []
        for u in middles:
            shift = torch.full((chosen.numel(),), u, dtype=torch.float32, device=source.device)
            _, _, counts = points.distinct(points.grid((sample, *scalar.extremes(source)), shift, step, d, zero))
            entropies.append(scalar.entropy(counts))
    return math.fsum(entropies) / len(entropies) / d


def _shifted_counts(line: scalar.Line, step: float, u: float, zero: Literal["center", "edge"]) -> Tensor:
    """Members of each cell of the lattice for w + u, from the cumulative counts of the sorted weights."""
    half = 0.5 if zero == "center" else 0.0
    low, high = (math.floor((float(line.points[i]) + u) / step + half) for i in (0, -1))
    edges = (torch.arange(low + 1, high + 1, dtype=torch.float64, device=line.points.device) - half) * step - u
    count, _, _, _ = line.sums(line.cut(edges))
    return count
