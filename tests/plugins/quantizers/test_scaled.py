"""Fixed codebooks and their scales: against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nqbench_quantizers.scaled import Binary, Fixed, PowersOfTwo, Ternary
from pydantic import ValidationError

from nqbench.api import Diagonal, Quantized, Quantizer, Source
from nqbench.api.toolkit import sorted_line
from nqbench.testing import torch_everywhere


def laplace(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=n).astype(np.float32))


def error(source: Source, q: Quantized) -> float:
    d = (source.weights.double() - q.reconstruct().double()).square()
    return float((d if source.h is None else d * source.h).sum())


def ternary_brute_force(w: np.ndarray, h: np.ndarray) -> float:
    """Least weighted error over every threshold, each with its best scale."""
    best = float((h * w**2).sum())
    for threshold in np.abs(w):
        on = np.abs(w) >= threshold
        a = (h * np.abs(w))[on].sum() / h[on].sum()
        best = min(best, float((h * (w - np.where(on, np.sign(w) * a, 0)) ** 2).sum()))
    return best


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-10, 10, width=16), min_size=1, max_size=30), st.booleans(), st.integers(0, 99))
def test_the_ternary_scale_equals_brute_force_over_thresholds(values: list[float], weighted: bool, seed: int) -> None:
    w = torch.tensor(values, dtype=torch.float32)
    h = torch.rand(w.numel(), generator=torch.Generator().manual_seed(seed)) + 0.05
    source = Source(w, sensitivity=Diagonal(h) if weighted else None)
    expected = ternary_brute_force(w.double().numpy(), h.double().numpy() if weighted else np.ones(w.numel()))
    assert error(source, Ternary().quantize(source)) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_binary_scale_is_the_weighted_mean_magnitude_and_zero_is_positive() -> None:
    w = torch.tensor([0.0, -0.0, -1e-40, 2.0, -3.0])
    h = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    q = Binary().quantize(Source(w, sensitivity=Diagonal(h)))
    assert q.symbols.tolist() == [1, 1, 0, 1, 0]
    assert float(q.parameters["scale"]) == pytest.approx((8 + 15) / 15)
    plain = Binary(scale=1).quantize(Source(w))
    assert plain.reconstruct().tolist() == [1, 1, -1, 1, -1]
    assert not plain.parameters


def test_plain_ternary_is_zero_below_one_half() -> None:
    w = torch.tensor([-0.5, -0.49, 0.0, 0.49, 0.5, 7.0])
    q = Ternary(scale=1).quantize(Source(w))
    assert q.reconstruct().tolist() == [-1, 0, 0, 0, 1, 1]
    assert q.zero == 1


@pytest.mark.parametrize("exponents", [0, 1, 5])
@pytest.mark.parametrize("scale", [1, 0.3])
def test_powers_of_two_equal_nearest_search(exponents: int, scale: float) -> None:
    w = laplace(3_000) * 0.3
    q = PowersOfTwo(exponents=exponents, scale=scale).quantize(Source(w))
    powers = [2.0**-c for c in range(exponents + 1)]
    table = torch.tensor(sorted([0.0, *powers, *(-p for p in powers)]), dtype=torch.float64)
    nearest = (w.double()[:, None] - table * float(np.float32(scale))).abs().amin(1)
    torch.testing.assert_close((q.reconstruct() - w).abs().double(), nearest, rtol=1e-6, atol=1e-7)
    assert q.alphabet == 2 * exponents + 3


@pytest.mark.parametrize(
    "quantizer", [PowersOfTwo(), Fixed(codebook=(-1.5, -0.5, 0.5, 1.5)), Fixed(codebook=(0, 1, 3))]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_learned_scale_is_as_good_as_a_scan(quantizer: Quantizer, weighted: bool) -> None:
    w = laplace(2_000) + 0.2
    source = Source(w, sensitivity=Diagonal(laplace(2_000, 1).abs()) if weighted else None)
    found = error(source, quantizer.quantize(source))
    scan = [
        error(source, quantizer.model_copy(update={"scale": float(a)}).quantize(source))
        for a in np.geomspace(0.01, 20, 400)
    ]
    assert found <= min(scan) * (1 + 1e-4)


@pytest.mark.parametrize("quantizer", [Binary(), Ternary(), PowersOfTwo(), Fixed(codebook=(-1, 0, 2))])
def test_constant_sensitivity_changes_nothing(quantizer: Quantizer) -> None:
    w = laplace(5_000)
    plain = quantizer.quantize(Source(w))
    for h in (1.0, 8.0):
        weighted = quantizer.quantize(Source(w, sensitivity=Diagonal(torch.full_like(w, h))))
        assert torch.equal(plain.symbols, weighted.symbols)
        torch.testing.assert_close(plain.parameters["scale"], weighted.parameters["scale"])


@pytest.mark.parametrize("quantizer", [Binary(), Ternary(), PowersOfTwo(), Fixed(codebook=(-1, 0, 2))])
@pytest.mark.parametrize("exact_below", [10**7, 1_000])
def test_the_torch_path_agrees(quantizer: Quantizer, exact_below: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_line, "EXACT_BELOW", exact_below)
    w = laplace(30_000)
    for sensitivity in (None, Diagonal(laplace(30_000, 1).abs())):
        ours = quantizer.quantize(Source(w, sensitivity=sensitivity))
        with torch_everywhere():
            theirs = quantizer.quantize(Source(w, sensitivity=sensitivity))
        torch.testing.assert_close(ours.parameters["scale"], theirs.parameters["scale"], rtol=1e-5, atol=0)
        assert int((ours.symbols != theirs.symbols).sum()) <= 2


def test_a_histogram_does_not_spoil_the_ternary_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(laplace(50_000))
    exact = error(source, Ternary().quantize(source))
    monkeypatch.setattr(sorted_line, "EXACT_BELOW", 1_000)
    assert error(source, Ternary().quantize(Source(source.weights))) <= exact * (1 + 1e-4)


def test_codebooks_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ValidationError, match="differ"):
        Fixed(codebook=(1.0, 1.0))
    with pytest.raises(ValidationError, match="no scale"):
        Fixed(codebook=(0.0,))
    with pytest.raises(ValidationError, match="positive"):
        Binary(scale=-1)
