"""Checks of a quantizer's movable parameters, of its reconstruction, and of its knob."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nqbench.api import Knob, Quantized, Quantizer
from nqbench.testing.check import check, require
from nqbench.testing.quantizers import sound
from nqbench.testing.sources import laplace, one, source_of, typical

STEP = 2.0**-7  # of the finite differences, relative to the parameter's size
TOLERANCE = 0.02  # float32 in, float64 sums: rounding is near 1e-4


@check("quantizer")
def base_form(quantizer: Quantizer) -> None:
    """A result of a base form reads back without the plugin as it does with it, to the bit."""
    q, values = sound(quantizer, source_of(quantizer, typical()))
    if q.form == "plugin":
        return
    require(torch.equal(q.reconstruct(), values), f"form '{q.form}' reads back otherwise than the plugin's reconstruct")


@check("quantizer")
def reconstruction_is_stable(quantizer: Quantizer) -> None:
    """Reconstructing twice gives the same, and from the result's own parameters too."""
    q, values = sound(quantizer, source_of(quantizer, typical()))
    require(torch.equal(quantizer.reconstruct(q), values), "a second reconstruction is different")
    given = quantizer.reconstruct(q, dict(q.parameters))
    require(torch.equal(given, values), "its own parameters, given, make another reconstruction")


@check("quantizer")
def differentiable(quantizer: Quantizer) -> None:
    """Reconstruct's gradient in each movable parameter agrees with finite differences."""
    q, values = sound(quantizer, source_of(quantizer, typical()))
    generator = torch.Generator().manual_seed(11)
    weight = torch.randn(values.numel(), generator=generator, dtype=torch.float64).to(values.device)
    for name, value in q.parameters.items():
        gradient = _gradient(quantizer, q, name, weight)
        require(gradient.abs().max() > 0, f"parameter '{name}' moves nothing: it belongs in side")
        size = float(value.abs().max()) or 1.0
        for _ in range(3):
            direction = torch.randn(value.shape, generator=generator).to(value.device)
            by_hand = _slope(quantizer, q, name, direction, STEP * size, weight)
            by_gradient = float((gradient.double() * direction.double()).sum())
            scale = float(gradient.double().norm() * direction.double().norm())
            require(
                abs(by_hand - by_gradient) <= TOLERANCE * scale,
                f"gradient in '{name}': {by_gradient:.5g}, by finite differences {by_hand:.5g}",
            )


def _gradient(quantizer: Quantizer, q: Quantized, name: str, weight: Tensor) -> Tensor:
    moving = q.parameters[name].detach().clone().requires_grad_(True)
    values = quantizer.reconstruct(q, {**q.parameters, name: moving})
    require(values.requires_grad, f"reconstruct is not differentiable in '{name}'")
    (gradient,) = torch.autograd.grad((values.double() * weight).sum(), moving, allow_unused=True)
    require(gradient is not None, f"reconstruct does not depend on the '{name}' that it is given")
    assert isinstance(gradient, Tensor)
    return gradient


def _slope(quantizer: Quantizer, q: Quantized, name: str, direction: Tensor, step: float, weight: Tensor) -> float:
    """Central difference of sum(weight * reconstruction) along a direction."""
    at = q.parameters[name]
    ends = []
    for sign in (1.0, -1.0):
        values = quantizer.reconstruct(q, {**q.parameters, name: at + sign * step * direction})
        ends.append(float((values.detach().double() * weight).sum()))
    return (ends[0] - ends[1]) / (2 * step)


def knob_of(quantizer: Quantizer) -> Knob | None:
    """The knob for the source that knobs are checked on."""
    return quantizer.knob(source_of(quantizer, one(laplace(64, 48))))


@check("quantizer", when=lambda quantizer: knob_of(quantizer) is not None)
def knob_field(quantizer: Quantizer) -> None:
    """The knob names a parameter, and both ends of its range are valid values of it."""
    knob = knob_of(quantizer)
    assert knob is not None
    require(knob.field in type(quantizer).model_fields, f"the knob turns '{knob.field}', which is no parameter")
    require(math.isfinite(knob.low) and math.isfinite(knob.high), f"the knob's range is {knob.low} to {knob.high}")
    require(knob.low < knob.high, f"the knob's range is empty: {knob.low} to {knob.high}")
    require(knob.scale == "linear" or knob.low > 0, f"a logarithmic knob starts at {knob.low}")
    for value in (knob.low, knob.high):
        _turned(quantizer, knob, value)


@check("quantizer", when=lambda quantizer: knob_of(quantizer) is not None)
def knob_direction(quantizer: Quantizer) -> None:
    """Turning the knob in the direction of more bytes gives more bytes, and no worse a reconstruction."""
    knob = knob_of(quantizer)
    assert knob is not None
    low, high = (_cost(_turned(quantizer, knob, value)) for value in (knob.low, knob.high))
    fewer, more = (low, high) if knob.more_bytes == "up" else (high, low)
    require(
        fewer[0] < more[0],
        f"'{knob.field}' says more_bytes='{knob.more_bytes}', yet {knob.low:g} gives {low[0]:.0f} bytes and "
        f"{knob.high:g} gives {high[0]:.0f}",
    )
    # the yardstick is its own objective's: a weighted quantizer may lose a little in plain distortion
    require(more[1] <= 1.05 * fewer[1], f"more bytes by '{knob.field}', yet the distortion rises")


def _turned(quantizer: Quantizer, knob: Knob, value: float) -> Quantizer:
    changed = {**quantizer.model_dump(), knob.field: round(value) if knob.integer else value}
    return type(quantizer).model_validate(changed)


def _cost(quantizer: Quantizer) -> tuple[float, float]:
    """(bytes by zeroth-order entropy and parameters, distortion by h where it is given) of the knobs' source."""
    source = source_of(quantizer, one(laplace(64, 48)))
    q, values = sound(quantizer, source)
    p = np.unique(q.symbols.cpu().numpy(), return_counts=True)[1] / q.symbols.numel()
    entropy = float(-(p * np.log2(p)).sum())
    parameters = sum(4 * value.numel() for value in q.parameters.values())
    error = (values - source.weights).double().square()
    h = torch.ones_like(error) if source.h is None else source.h.double()
    return q.symbols.numel() * entropy / 8 + parameters, float((h * error).mean())
