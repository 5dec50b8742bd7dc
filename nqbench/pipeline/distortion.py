"""Distortion of a quantized network, how far it is from what theory allows, and its quantizer's own statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from nqbench.api import Moments, QuantizedModel
from nqbench.api.toolkit.bound import Spectrum

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


def spectra_of(weights: Mapping[str, Tensor], sensed: Mapping[str, Tensor]) -> dict[str, Spectrum]:
    """Of each tensor, by name, under the second moments of what it multiplies in the float network."""
    return {name: Spectrum.of(weight.detach(), sensed[name]) for name, weight in weights.items()}


def against_bound(
    weights: Mapping[str, Tensor], deployed: Mapping[str, Tensor], sensed: Mapping[str, Tensor],
    spectra: Mapping[str, Spectrum],
) -> dict[str, float]:  # fmt: skip
    """``layer_error``: the error of all layers' outputs, each as a share of its power, their mean by weights.
    ``bound_bits``: the bits per weight that Gaussian weights would need for the same errors
    (``nqbench.api.toolkit.bound``). Nothing where a layer has no power or no error."""
    bits, share, n = 0.0, 0.0, 0
    for name, weight in weights.items():
        whole = spectra[name].total
        error = _output_error(weight.double() - deployed[name].double(), sensed[name])
        if not (whole > 0 and error > 0):
            return {}
        bits += spectra[name].rate(error)
        share += weight.numel() * error / whole
        n += weight.numel()
    return {"layer_error": share / n, "bound_bits": bits / n} if n else {}


def _output_error(change: Tensor, packed: Tensor) -> float:
    """tr(E H E^T)."""
    moments = Moments.of(packed.double())
    rows = moments.rows(change).reshape(len(moments.gram), -1, moments.gram.shape[2])
    if moments.diagonal:
        return float((rows.square() * moments.gram).sum())
    return float(((rows @ moments.gram) * rows).sum())


def _statistics(model: QuantizedModel) -> dict[str, float]:
    total: dict[str, float] = {}
    share: dict[str, int] = {}
    for group in model.groups:
        for name, value in group.quantized.statistics.items():
            total[name] = total.get(name, 0.0) + float(value) * group.quantized.n
            share[name] = share.get(name, 0) + group.quantized.n
    return {name: value / max(share[name], 1) for name, value in total.items()}
