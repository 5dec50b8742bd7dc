"""How far a network is from the rate-distortion bound, as its record has it."""

from __future__ import annotations

import math

import pytest
import torch

from nqbench.pipeline.distortion import against_bound, spectra_of


def test_of_white_inputs_the_bound_is_that_of_the_weights_error() -> None:
    """H = I: half the logarithm of power over error, and that quotient itself; several layers by their weights."""
    weights = {"a": torch.randn(30, 8), "b": torch.randn(10, 4, 3)}
    deployed = {name: value + 0.1 * torch.randn(value.shape) for name, value in weights.items()}
    moments = {"a": torch.eye(8)[None], "b": torch.eye(12)[None]}
    found = against_bound(weights, deployed, moments, spectra_of(weights, moments))
    share = {n: float((weights[n] - deployed[n]).double().square().sum() / w.double().square().sum())
             for n, w in weights.items()}  # fmt: skip
    assert found["layer_error"] == pytest.approx((240 * share["a"] + 120 * share["b"]) / 360, rel=1e-5)
    bits = {name: -math.log2(part) / 2 for name, part in share.items()}
    assert found["bound_bits"] == pytest.approx((240 * bits["a"] + 120 * bits["b"]) / 360, rel=1e-5)


def test_a_layer_without_power_or_error_has_no_bound() -> None:
    weights, moments = {"a": torch.ones(3, 2)}, {"a": torch.eye(2)[None]}
    assert against_bound(weights, weights, moments, spectra_of(weights, moments)) == {}
    unseen = {"a": torch.zeros(1, 2, 2)}
    assert against_bound(weights, {"a": torch.zeros(3, 2)}, unseen, spectra_of(weights, unseen)) == {}
