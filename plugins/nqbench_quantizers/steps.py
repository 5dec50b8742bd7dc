"""The step of a grid, one for all tensors or one for each; and tensors whose weights are all equal, which define no
step.

A tensor whose weights all have the value c has a standard deviation of 0, so that a step in standard deviations would
be 0. Such a tensor is left out of the quantization: its symbol is a level L that the others use, and its own scale c /
L makes this level c, exactly or up to one rounding of scale or value. With a dither, which is added to each level, the
error is at most half of its step, |c| / 2L, and a tensor of zeros is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from nqbench.api import Diagonal, Former, Quantized, SecondMoments, Source, SourceTensor, scalar
from nqbench.api.quantized import GRIDS
from nqbench.api.toolkit.codebooks import entropy

FORMER_STEPS = Former("granularity", {"shared": "global", "std": "layer"})
"""Former name and values of a grid's parameter ``granularity``."""
SMALLEST_STEP = 2.0**-149
"""The smallest positive float32 number, of which every weight is a multiple; smaller steps are raised to it."""
_LEVELS = 1 << 10  # levels tried at either end of the alphabet


def step_scales(source: Source, granularity: Literal["global", "layer"]) -> Tensor:
    """(1,) or, for ``layer``, (tensors,) float64 on the CPU: the unit of each tensor's step.

    1, or for ``layer`` the standard deviation of the tensor's weights (1 for tensors without weights)."""
    if granularity == "global":
        return torch.ones(1, dtype=torch.float64)
    std = [scalar.moments(_alone(source, t))[1] if t.size else 1.0 for t in source.tensors]
    return torch.tensor(std, dtype=torch.float64)


def steps_of(step: float, scales: Tensor) -> Tensor:
    """(scales,) float32: step times each scale, none of them rounded to 0."""
    return (step * scales).clamp_min(SMALLEST_STEP).float()


def beside_constants(source: Source, quantize: Callable[[Source], Quantized]) -> Quantized:
    """``quantize`` of the tensors whose weights differ, with a scale per tensor, and the tensors of equal weights added
    to its result."""
    fixed = [_value(source, t) for t in source.tensors]
    if all(value is None for value in fixed):
        return quantize(source)
    values = [0.0 if value is None else value for value in fixed]
    if all(value is not None or not t.size for value, t in zip(fixed, source.tensors, strict=True)):
        symbols = torch.zeros(source.n, dtype=torch.int32, device=source.device)
        step = torch.tensor(values, dtype=torch.float32, device=source.device)
        figures = {"entropy": 0.0}
        return Quantized(symbols, 1, source.sizes, {"step": step}, {"offset": 1}, "grid", statistics=figures)
    return _put_beside(source, fixed, quantize(_others(source, fixed)))


def _alone(source: Source, tensor: SourceTensor) -> Source:
    return Source(source.weights[tensor.start : tensor.stop])


def _value(source: Source, tensor: SourceTensor) -> float | None:
    """The common value of the tensor's weights; None if they differ or there are none."""
    if not tensor.size:
        return None
    low, high = source.weights[tensor.start : tensor.stop].aminmax()
    return float(low) if bool(low == high) else None


def _others(source: Source, fixed: list[float | None]) -> Source:
    """The source with the tensors of equal weights emptied, so that every tensor keeps its index."""
    tensors, kept, start = [], [], 0
    for tensor, value in zip(source.tensors, fixed, strict=True):
        size = tensor.size if value is None else 0
        mask = tensor.mask if value is None else torch.zeros(tensor.shape, dtype=torch.bool, device=source.device)
        tensors.append(replace(tensor, start=start, stop=start + size, mask=mask))
        kept.append(slice(tensor.start, tensor.start + size))
        start += size
    sensitivity = source.sensitivity
    if isinstance(sensitivity, Diagonal):
        sensitivity = Diagonal(torch.cat([sensitivity.values[at] for at in kept]))
    weights = torch.cat([source.weights[at] for at in kept])
    assert sensitivity is None or isinstance(sensitivity, Diagonal | SecondMoments)
    return Source(weights, tuple(tensors), sensitivity, None, source.rate, source.seed)


def _put_beside(source: Source, fixed: list[float | None], q: Quantized) -> Quantized:
    q = _with_a_level(q)
    name = "step" if q.form in GRIDS else "scale"
    scales = q.parameters[name] if name in q.parameters else q.side[name]
    assert isinstance(scales, Tensor)
    symbols, own = _levels(q)
    parts = list(torch.split(q.symbols, list(q.sizes)))
    scales = scales.clone()
    for index, (tensor, value) in enumerate(zip(source.tensors, fixed, strict=True)):
        if value is not None:
            place, scales[index] = _exact(value, own)
            parts[index] = symbols[place].expand(tensor.size)
    held = {**q.parameters, name: scales} if name in q.parameters else q.parameters
    side = q.side if name in q.parameters else {**q.side, name: scales}
    symbols = torch.cat(parts)
    figures = _of_all(q, symbols)
    return replace(q, symbols=symbols, sizes=source.sizes, parameters=held, side=side, statistics=figures)


def _of_all(q: Quantized, symbols: Tensor) -> dict[str, float]:
    """The figures of a result with the symbols of constant tensors beside it, which have hardly any error. q: without
    them."""
    figures = dict(q.statistics)
    if "distortion" in figures:
        figures["distortion"] *= q.n / max(len(symbols), 1)
    if "entropy" in figures:
        figures["entropy"] = entropy(torch.bincount(symbols))
    return figures


def _with_a_level(q: Quantized) -> Quantized:
    """The result, with a level 1 added if 0 is its only level."""
    if bool((_levels(q)[1] != 0).any()):
        return q
    if q.form in GRIDS:
        return replace(q, alphabet=q.alphabet + 1)
    more = {name: torch.cat([v, v.new_ones(1)]) if name == "codebook" else v for name, v in q.parameters.items()}
    held = {name: torch.cat([v, v.new_zeros(1)]) if name == "codebook" else v for name, v in q.held.items()}
    return replace(q, alphabet=q.alphabet + 1, parameters=more, held=held)


def _levels(q: Quantized) -> tuple[Tensor, Tensor]:
    """(s,) int32 symbols at both ends of the alphabet, and their (s,) float32 levels before the scale."""
    device = q.symbols.device
    ends = torch.arange(min(_LEVELS, q.alphabet), dtype=torch.int32, device=device)
    symbols = torch.unique(torch.cat([ends, q.alphabet - 1 - ends]))
    if q.form in GRIDS:
        return symbols, symbols.float() + float(q.side["offset"])
    table = q.table
    assert table is not None
    return symbols, table[symbols.long()]


def _exact(value: float, levels: Tensor) -> tuple[int, Tensor]:
    """The index of the level and the scale whose product is nearest to the value; of equal ones, the largest level."""
    wanted = levels.new_tensor(value)
    used = levels != 0
    scales = torch.where(used, wanted / torch.where(used, levels, 1.0), 0.0)
    error = torch.where(used, (scales * levels - wanted).abs(), torch.inf)
    place = int(torch.where(error == error.min(), levels.abs(), -1.0).argmax())
    return place, scales[place]
