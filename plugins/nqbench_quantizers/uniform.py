"""Uniform quantization with reconstruction by centroids [1612.01543, section 4.1; Gish and Pierce 1968].

Thresholds are spaced by one step s: ``zero: center`` puts them at (i + 1/2) s, so that zero lies in the middle of a
cell, ``zero: edge`` at i s. Each cell that has members gets one codeword:

* ``centroids: mean``: the mean of its members, c_j = sum h w / sum h, which minimizes sum h (w - c_j)^2. The result is
  a look-up table without the empty cells. The cell around zero gets the mean of its members as well, which is close to
  0 but not 0; with ``fixed_zero`` it is exactly 0, so that ``positions: zero`` can merge it with pruned weights.
* ``centroids: middle``: the middle of the cell. The result stays on the grid, and its only parameter is the step.

``granularity: layer`` gives each tensor t the step s * sigma_t (sigma_t its standard deviation): all tensors share one
codebook of w / sigma_t, and its means minimize sum h sigma_t^2 (w / sigma_t - c_j)^2.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from nqbench.api import BadInput, Diagonal, Knob, Quantized, Quantizer, Source, chunks, gaussian_step, scalar
from nqbench.api.chunks import CHUNK, in_chunks
from nqbench_quantizers.steps import FORMER_STEPS, SMALLEST_STEP, beside_constants, step_scales, steps_of

_LARGEST_CELL = 1 << 23  # (cell + 1/2) is exact in float32 up to here


class Uniform(Quantizer, name="uniform", paper="arXiv:1612.01543, section 4.1"):
    """Equally spaced thresholds; each cell is decoded as the mean of its members, or as its middle."""

    takes = frozenset({"none", "diagonal"})
    former_fields = {"steps": FORMER_STEPS}

    step: float | None = Field(None, gt=0)
    """Distance of the thresholds, in the weights' unit (for ``granularity: layer``, in standard deviations)."""
    k: int | None = Field(None, ge=2, le=65536)
    """Largest number of cells between the extreme weights, instead of a step; 16 if neither is given."""
    zero: Literal["center", "edge"] = "center"
    """Whether zero lies in the middle of a cell or on a threshold."""
    centroids: Literal["mean", "middle"] = "mean"
    """The value of a cell: the (sensitivity-weighted) mean of its weights, or its middle."""
    granularity: Literal["global", "layer"] = "global"
    """One step for all tensors, or one per tensor proportional to its standard deviation."""
    fixed_zero: bool = False
    """Decode the cell around zero as exactly 0 (``zero: center``, ``centroids: mean``)."""

    @model_validator(mode="before")
    @classmethod
    def _default_cells(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("k") is None and given.get("step") is None:
            return {**given, "k": 16}
        return given

    @model_validator(mode="after")
    def _one_resolution(self) -> Uniform:
        if (self.k is None) == (self.step is None):
            raise ValueError("give either a step or a number of cells k, not both")
        if self.fixed_zero and (self.zero == "edge" or self.centroids == "middle"):
            raise ValueError("fixed_zero needs zero: center and centroids: mean")
        return self

    def quantize(self, source: Source) -> Quantized:
        middle = self.centroids == "middle" and self.k is not None
        if self.granularity == "layer" or (middle and scalar.moments(source)[1] == 0):
            return beside_constants(source, self._quantize)
        return self._quantize(source)

    def _quantize(self, source: Source) -> Quantized:
        scales = step_scales(source, self.granularity)
        step = self._step(source, scales)
        steps = steps_of(step, scales)
        cell, low, high = grid_cells(source, steps.double().tolist(), self.zero)
        count = high - low + 1
        scalar.check_alphabet(count, "take a larger step")
        if self.centroids == "middle":
            if max(abs(low), abs(high)) >= _LARGEST_CELL:
                raise BadInput("the weights lie too many steps from zero: take a larger step")
            offset = low + (0.5 if self.zero == "edge" else 0.0)
            parameters = {"step": steps.to(source.device)}
            return Quantized(cell, count, source.sizes, parameters, {"offset": offset}, form="grid")
        if self.granularity == "layer":
            q = _with_scales(source, cell, count, steps_of(1.0, scales))
        else:
            q = scalar.from_symbols(source, cell, count)
        return self._hold_zero(q, cell, -low) if self.fixed_zero and low <= 0 <= high else q

    def knob(self, source: Source) -> Knob:
        if self.k is not None:
            return Knob("k", 2, max(2, min(4096, source.n)), "log", integer=True, more_bytes="up")
        deviation = 1.0 if self.granularity == "layer" else scalar.moments(source)[1] or 1.0
        low, high = scalar.extremes(source)
        finest = (high - low) / (deviation if self.granularity == "global" else high - low or 1.0) / 2**20
        start = deviation * gaussian_step(2)
        return Knob("step", deviation * max(1 / 256, finest), deviation * 4, "log", more_bytes="down", start=start)

    def _step(self, source: Source, scales: Tensor) -> float:
        if self.step is not None:
            return self.step
        assert self.k is not None
        if self.granularity == "global":
            low, high = scalar.extremes(source)
        else:
            ends = [source.weights[t.start : t.stop].aminmax() for t in source.tensors if t.size]
            owned = [s for s, t in zip(scales.tolist(), source.tensors, strict=True) if t.size]
            low = min(float(e.min) / s for e, s in zip(ends, owned, strict=True))
            high = max(float(e.max) / s for e, s in zip(ends, owned, strict=True))
        return step_for(low, high, self.k, self.zero)

    def _hold_zero(self, q: Quantized, cell: Tensor, zero: int) -> Quantized:
        members = torch.nonzero(cell == zero)
        if not members.numel():
            return q
        symbol = int(q.symbols[members[0, 0]])
        table = q.parameters["codebook"].clone()
        table[symbol] = 0.0
        held = torch.zeros(table.numel(), dtype=torch.bool, device=table.device)
        held[symbol] = True
        figures = {k: v for k, v in q.statistics.items() if k != "distortion"}
        return replace(q, parameters={"codebook": table}, held={"codebook": held}, statistics=figures)


def _with_scales(source: Source, cell: Tensor, count: int, scales: Tensor) -> Quantized:
    sizes = torch.tensor(source.sizes)
    spread = scales.repeat_interleave(sizes).to(source.device)
    h = spread.double().square() if source.h is None else source.h * spread.double().square()
    # in units of its mean, since absolute values may exceed float32
    relative = Source(source.weights / spread, source.tensors, Diagonal(h / h.mean()))
    q = scalar.from_symbols(relative, cell, count)
    side = {"scale": scales.to(source.device)}
    figures = {name: v * float(h.mean()) if name == "distortion" else v for name, v in q.statistics.items()}
    return Quantized(q.symbols, q.alphabet, q.sizes, q.parameters, side, statistics=figures)


def grid_cells(source: Source, steps: list[float], zero: Literal["center", "edge"]) -> tuple[Tensor, int, int]:
    """The cell of each weight, counted from the lowest: ((n,) int32, lowest, highest).

    Cell i is round(w / step) (half to even) for ``center`` and floor(w / step) for ``edge``, in float64: the same on
    every device. steps: one, or one per tensor.
    """
    spans = [(t.start, t.stop) for t in source.tensors] if len(steps) > 1 else [(0, source.n)]
    ends = [
        _index(float(end), step, zero)
        for (start, stop), step in zip(spans, steps, strict=True)
        if stop > start
        for end in source.weights[start:stop].aminmax()
    ]
    low, high = min(ends), max(ends)
    scalar.check_alphabet(high - low + 1, "take a larger step")
    out = torch.empty(source.n, dtype=torch.int32, device=source.device)
    for (start, stop), step in zip(spans, steps, strict=True):
        _cells(source.weights[start:stop], step, zero, low, out[start:stop])
    return out, low, high


def _cells(weights: Tensor, step: float, zero: Literal["center", "edge"], low: int, out: Tensor) -> None:
    if chunks.on_torch(weights):
        for a in range(0, weights.numel(), CHUNK):
            x = weights[a : a + CHUNK].double() / step
            out[a : a + CHUNK] = (x.round_() if zero == "center" else x.floor_()).sub_(low)
        return
    from nqbench_quantizers import kernels

    w, o = weights.numpy(), out.numpy()
    in_chunks(w.size, lambda at: kernels.grid_cells(w[at], step, zero == "center", low, o[at]))


def _index(w: float, step: float, zero: Literal["center", "edge"]) -> int:
    x = np.float64(w) / np.float64(step)
    if not math.isfinite(x):
        raise BadInput(f"a step of {step:g} is too small for weights of {w:g}: take a larger step")
    return int(np.rint(x)) if zero == "center" else math.floor(x)


def step_for(low: float, high: float, k: int, zero: Literal["center", "edge"]) -> float:
    """The smallest step (found by bisection) whose grid covers [low, high] with at most k cells."""
    if high <= low:
        return float(np.float32(abs(high))) or 1.0

    def count(step: float) -> int:
        at = max(float(np.float32(step)), SMALLEST_STEP)
        return _index(high, at, zero) - _index(low, at, zero) + 1

    short, enough = (high - low) / k, (high - low) / (k - 1)
    while count(enough) > k:  # e.g. two cells, one centred at zero, and weights on both sides
        enough *= 2
        if enough > 1e30 * (high - low):
            raise BadInput(f"no grid with zero on its {zero} covers the weights in {k} cells")
    while enough - short > 1e-6 * enough:
        middle = (short + enough) / 2
        short, enough = (short, middle) if count(middle) <= k else (middle, enough)
    return max(float(np.float32(enough)), SMALLEST_STEP)
