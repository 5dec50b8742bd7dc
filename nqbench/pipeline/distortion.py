"""Distortion of a quantized network, and the statistics that its quantizer reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nqbench.api import QuantizedModel

_CHUNK = 1 << 17  # weights at a time: the float64 temporaries stay in the processor's cache


def distortions(model: QuantizedModel, deployed: Sequence[Tensor], weights: Tensor, h: Tensor | None) -> dict[str, Any]:
    """``mse`` = mean (w_i - q_i)^2 and, with h, ``weighted_mse`` = mean h_i (w_i - q_i)^2, over the kept weights.

    weights, h: (n,) float32 in the groups' order; deployed: q, a tensor a group. ``statistics``: the quantizer's own
    figures, averaged over the groups by their weights.
    """
    square, weighted, start = 0.0, 0.0, 0
    for values in deployed:
        n = values.numel()
        for at in range(0, n, _CHUNK):
            stop = min(at + _CHUNK, n)
            d = weights[start + at : start + stop].double() - values[at:stop]
            square += float(d @ d)
            if h is not None:
                weighted += float(d @ (d * h[start + at : start + stop]))
        start += n
    n = max(weights.numel(), 1)
    figures: dict[str, Any] = {"mse": square / n, "statistics": _statistics(model)}
    if h is not None:
        figures["weighted_mse"] = weighted / n
    return figures


def _statistics(model: QuantizedModel) -> dict[str, float]:
    total: dict[str, float] = {}
    share: dict[str, int] = {}
    for group in model.groups:
        for name, value in group.quantized.statistics.items():
            total[name] = total.get(name, 0.0) + float(value) * group.quantized.n
            share[name] = share.get(name, 0) + group.quantized.n
    return {name: value / max(share[name], 1) for name, value in total.items()}
