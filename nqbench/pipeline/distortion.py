"""Distortion of a quantized network, how far it is from what theory allows, and its quantizer's own statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from nqbench.api import Moments, QuantizedModel
from nqbench.api.toolkit.bound import Spectrum

_CHUNK = 1 << 17  # weights at a time: the float64 temporaries stay in the processor's cache


def distortions(model: QuantizedModel, parts: Iterable[tuple[Tensor, Tensor, Tensor | None]]) -> dict[str, Any]:
    """``mse`` = mean (w_i - q_i)^2 and, with h, ``weighted_mse`` = mean h_i (w_i - q_i)^2, over the kept weights.

    parts: w, q and h of a tensor after another, each (n,) float32. ``statistics``: the quantizer's own figures,
    averaged over the groups by their weights.
    """
    square, weighted, total, has_weights = 0.0, 0.0, 0, False
    for weights, values, h in parts:
        for at in range(0, weights.numel(), _CHUNK):
            some = slice(at, at + _CHUNK)
            d = weights[some].double() - values[some]
            squares = d.square()
            square += summed(squares)
            if h is not None:
                weighted += summed(squares * h[some])
        total += weights.numel()
        has_weights = has_weights or h is not None
    figures: dict[str, Any] = {"mse": square / max(total, 1), "statistics": _statistics(model)}
    if has_weights:
        figures["weighted_mse"] = weighted / max(total, 1)
    return figures


def summed(values: Tensor) -> float:
    """The sum, the same with any number of threads on the CPU: PyTorch's own and BLAS's are split among them."""
    values = values.detach()
    return float(values.numpy().sum()) if values.device.type == "cpu" else float(values.sum())


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
        error = _output_error(weight, deployed[name], sensed[name])
        if not (whole > 0 and error > 0):
            return {}
        bits += spectra[name].rate(error)
        share += weight.numel() * error / whole
        n += weight.numel()
    return {"layer_error": share / n, "bound_bits": bits / n} if n else {}


def _output_error(weight: Tensor, values: Tensor, packed: Tensor) -> float:
    """tr(E H E^T) of E = weight - values, some rows at a time: in float64 a large embedding would be gigabytes."""
    moments = Moments.of(packed.double())
    groups, _, m = moments.gram.shape
    was, now = (moments.rows(tensor).reshape(groups, -1, m) for tensor in (weight, values))
    each = max(1, _CHUNK // max(groups * m, 1))
    error = 0.0
    for at in range(0, was.shape[1], each):
        rows = was[:, at : at + each].double() - now[:, at : at + each].double()
        error += float((rows.square() * moments.gram if moments.diagonal else (rows @ moments.gram) * rows).sum())
    return error


def _statistics(model: QuantizedModel) -> dict[str, float]:
    total: dict[str, float] = {}
    share: dict[str, int] = {}
    for group in model.groups:
        for name, value in group.quantized.statistics.items():
            total[name] = total.get(name, 0.0) + float(value) * group.quantized.n
            share[name] = share.get(name, 0) + group.quantized.n
    return {name: value / max(share[name], 1) for name, value in total.items()}
