"""k-means: against brute force over partitions, and against itself."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nqbench_models.synthetic import sample
from nqbench_quantizers import kmeans as module
from nqbench_quantizers.kmeans import KMeans

from nqbench.api import Diagonal, Quantized, Source, scalar
from nqbench.api.toolkit import sorted_line
from nqbench.testing import torch_everywhere

sys.path.append(str(Path(__file__).parent))

from make_optima import CODEWORDS, LAWS, N
from make_optima import FILE as OPTIMA


def brute_force(w: np.ndarray, h: np.ndarray, k: int) -> float:
    """Least weighted squared error over all partitions of the sorted points into at most k intervals."""
    order = np.argsort(w, kind="stable")
    w, h = w[order].astype(np.float64), h[order].astype(np.float64)
    best = np.inf
    for parts in range(1, min(k, w.size) + 1):
        for inner in itertools.combinations(range(1, w.size), parts - 1):
            cuts = (0, *inner, w.size)
            cost = 0.0
            for a, b in itertools.pairwise(cuts):
                mean = (h[a:b] * w[a:b]).sum() / h[a:b].sum()
                cost += (h[a:b] * (w[a:b] - mean) ** 2).sum()
            best = min(best, cost)
    return best


def error(source: Source, q: Quantized) -> float:
    d = (source.weights.double() - q.reconstruct().double()).square()
    return float((d if source.h is None else d * source.h).sum())


def laplace(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=n).astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=9),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 99),
)
def test_optimal_equals_exhaustive_search(values: list[float], k: int, weighted: bool, seed: int) -> None:
    w = torch.tensor(values, dtype=torch.float32)
    h = torch.rand(len(values), generator=torch.Generator().manual_seed(seed)) + 0.1 if weighted else None
    source = Source(w, sensitivity=None if h is None else Diagonal(h))
    found = error(source, KMeans(k=k, optimal=True).quantize(source))
    h = torch.ones_like(w) if h is None else h
    scale = float((h * w.double().square()).sum())
    assert found == pytest.approx(brute_force(w.numpy(), h.numpy(), k), rel=1e-5, abs=1e-12 * scale + 1e-30)


@pytest.mark.parametrize("init", ["linear", "quantile", "kmeans++"])
@pytest.mark.parametrize("weighted", [False, True])
def test_distortion_never_rises_between_iterations(init: str, weighted: bool) -> None:
    w = laplace(20_000)
    source = Source(w, sensitivity=Diagonal(w.abs() + 0.1) if weighted else None)
    line = scalar.line(source)
    codebook, held = KMeans(k=12, init=init)._start(source, line)
    falls = []
    for _ in range(100):
        codebook, distortion = module.step(line, codebook, held)
        falls.append(float(distortion))
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(falls))
    assert falls[-1] < falls[0]


def test_every_weight_takes_its_nearest_codeword() -> None:
    w = laplace(5_000)
    q = KMeans(k=9).quantize(Source(w))
    c = q.parameters["codebook"]
    nearest = (w.double()[:, None] - c.double()).abs().argmin(1)
    assert torch.equal(nearest.int(), q.symbols)
    assert q.ordered


def test_fixed_codewords_stay_and_are_held() -> None:
    w = laplace(5_000)
    q = KMeans(k=5, fixed=(0.0, 0.5)).quantize(Source(w))
    c, held = q.parameters["codebook"], q.held["codebook"]
    assert c[held].tolist() == [0.0, 0.5]
    assert q.zero == int(torch.nonzero(c == 0)[0, 0])
    means = torch.stack([w[q.symbols == j].double().mean() for j in range(5)])
    torch.testing.assert_close(c[~held].double(), means[~held], rtol=1e-3, atol=1e-3)


def test_constant_sensitivity_changes_nothing() -> None:
    w = laplace(5_000)
    plain = KMeans(k=7, optimal=True).quantize(Source(w))
    for h in (1.0, 37.0):
        weighted = KMeans(k=7, optimal=True).quantize(Source(w, sensitivity=Diagonal(torch.full_like(w, h))))
        assert torch.equal(plain.symbols, weighted.symbols)
        torch.testing.assert_close(plain.parameters["codebook"], weighted.parameters["codebook"])


def test_a_warm_start_from_a_fixed_point_stays_there() -> None:
    source = Source(laplace(5_000))
    first = KMeans(k=6, optimal=True).quantize(source)
    again = KMeans(k=6).quantize(source.with_(previous=first))
    torch.testing.assert_close(again.parameters["codebook"], first.parameters["codebook"], rtol=1e-4, atol=1e-5)


def test_the_torch_path_agrees_with_the_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    w = laplace(30_000)
    h = torch.rand(30_000, generator=torch.Generator().manual_seed(1)) + 0.01
    for exact_below in (10**7, 1000):
        monkeypatch.setattr(sorted_line, "EXACT_BELOW", exact_below)
        for sensitivity in (None, Diagonal(h)):
            for quantizer in (KMeans(k=8), KMeans(k=8, optimal=True), KMeans(k=8, init="kmeans++")):
                ours = quantizer.quantize(Source(w, sensitivity=sensitivity))
                with torch_everywhere():
                    theirs = quantizer.quantize(Source(w, sensitivity=sensitivity))
                torch.testing.assert_close(
                    ours.parameters["codebook"], theirs.parameters["codebook"], rtol=1e-5, atol=0
                )
                assert int((ours.symbols != theirs.symbols).sum()) <= 2


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("k", CODEWORDS)
def test_optimal_is_within_a_thousandth_of_the_exact_optimum(law: str, k: int) -> None:
    """The exact optimum is kmeans1d's, kept in a file: see make_optima.py."""
    optimum = json.loads(OPTIMA.read_text(encoding="utf-8"))["mse"][f"{law} {k}"]
    source = Source(torch.from_numpy(sample(N, law, 1.0, 0)))
    mse = error(source, KMeans(k=k, optimal=True).quantize(source)) / N
    # codewords are float32: they may fall short of it by their rounding, no more
    assert optimum * (1 - 1e-6) <= mse <= 1.001 * optimum
