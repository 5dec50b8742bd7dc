"""Entropy-constrained scalar quantization: against exhaustive search, its optimum, and its own promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nqbench_quantizers import ecsq as module
from nqbench_quantizers import lagrangian
from nqbench_quantizers.ecsq import ECSQ, Code, ECSQOptimal
from nqbench_quantizers.uniform import Uniform

from nqbench.api import Diagonal, Quantized, Source, scalar
from nqbench.api.toolkit import sorted_line
from nqbench.testing import torch_everywhere


def draw(law: str, n: int, seed: int = 0) -> torch.Tensor:
    g = np.random.default_rng(seed)
    if law == "laplace":
        w = g.laplace(size=n)
    elif law == "gaussian":
        w = g.standard_normal(n)
    else:
        w = np.where(g.random(n) < 0.8, 0.05, 1.0) * g.standard_normal(n) + np.where(g.random(n) < 0.5, 0, 0.5)
    return torch.from_numpy(w.astype(np.float32))


def gamma(n: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(7).gamma(0.5, size=n).astype(np.float32)) + 1e-3


def objective(source: Source, q: Quantized, lam: float) -> float:
    """J from the symbols and the deployed values alone."""
    d = (source.weights.double() - q.reconstruct().double()).square()
    h = 1.0 if source.h is None else source.h.double()
    p = torch.bincount(q.symbols).double() / source.n
    p = p[p > 0]
    return float((d * h).mean() - lam * (p * p.log2()).sum())


def exhaustive(w: np.ndarray, lam: float) -> float:
    """Least J over all partitions of the distinct values into intervals."""
    values, counts = np.unique(w.astype(np.float64), return_counts=True)
    n, best = counts.sum(), np.inf
    for size in range(values.size):
        for inner in itertools.combinations(range(1, values.size), size):
            total = 0.0
            for a, b in itertools.pairwise((0, *inner, values.size)):
                c, v = counts[a:b], values[a:b]
                mean = (c * v).sum() / c.sum()
                total += (c * (v - mean) ** 2).sum() / n - lam * c.sum() / n * math.log2(c.sum() / n)
            best = min(best, total)
    return best


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-8, 8), min_size=1, max_size=12), st.floats(1e-3, 10))
def test_optimal_equals_exhaustive_search(values: list[int], lam: float) -> None:
    w = torch.tensor(values, dtype=torch.float32)
    source = Source(w)
    q = ECSQOptimal(lam=lam).quantize(source)
    assert objective(source, q, lam) == pytest.approx(exhaustive(w.numpy(), lam), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("law", ["laplace", "gaussian", "mixture"])
def test_it_ends_within_one_percent_of_the_optimum_at_a_million_weights(law: str) -> None:
    source = Source(draw(law, 1_000_000))
    for relative in (1e-3, 1e-2, 0.1, 1.0):
        ours = ECSQ(lam=relative, unit="variance").quantize(source).statistics
        best = ECSQOptimal(lam=relative, unit="variance").quantize(source).statistics
        assert ours["lagrangian"] <= 1.01 * best["lagrangian"]


def test_the_reported_objective_is_that_of_the_symbols() -> None:
    for h in (None, Diagonal(gamma(20_000))):
        source = Source(draw("laplace", 20_000), sensitivity=h)
        q = ECSQ(lam=0.05).quantize(source)
        assert q.statistics["lagrangian"] == pytest.approx(objective(source, q, 0.05), rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_objective_never_rises(weighted: bool) -> None:
    w, lam = draw("mixture", 20_000), 0.01
    source = Source(w, sensitivity=Diagonal(gamma(20_000)) if weighted else None)
    line = scalar.line(source)
    for code in ECSQ(lam=lam)._starts(source, lam):
        values = []
        for _ in range(40):
            if weighted:
                assert source.h is not None
                code = lagrangian.weighted_step(w, source.h, code, lam, 0.0)
            else:
                code = lagrangian.step(line, code, lam)
            used = code.counts > 0
            code = Code(code.codebook[used], code.counts[used], code.j)
            values.append(float(code.j))
        assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(values))


def test_every_weighted_assignment_is_the_cheapest_of_all_codewords() -> None:
    w, h = draw("laplace", 4_000), gamma(4_000)
    codebook = torch.from_numpy(np.sort(np.random.default_rng(3).normal(size=23)))
    price = torch.from_numpy(np.random.default_rng(4).exponential(size=23))
    cost = h.double()[:, None] * (w.double()[:, None] - codebook).square() + price
    symbols = lagrangian.assign(w, h, codebook, price)
    chosen = cost.gather(1, symbols.long()[:, None])[:, 0]
    torch.testing.assert_close(chosen, cost.amin(1), rtol=1e-12, atol=0)
    with torch_everywhere():
        assert torch.equal(lagrangian.assign(w, h, codebook, price), symbols)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 10_000))
def test_of_equally_cheap_codewords_it_is_the_first_also_where_weights_count_nothing(k: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    w = torch.from_numpy(g.integers(-4, 5, 200).astype(np.float32) / 2)  # halves: costs are exact, and often equal
    h = torch.from_numpy(g.choice([0.0, 0.0, 0.25, 1.0], 200).astype(np.float32))
    codebook = torch.from_numpy(np.sort(g.choice(np.arange(-8, 9), k, replace=False)) / 2.0)
    price = torch.from_numpy(g.choice([0.25, 0.5, 1.0, np.inf], k))
    price[int(g.integers(k))] = 0.5
    cost = h.double()[:, None] * (w.double()[:, None] - codebook).square() + price
    expected = torch.from_numpy(cost.numpy().argmin(1).astype(np.int32))
    assert torch.equal(lagrangian.assign(w, h, codebook, price), expected)
    count, total, _, _ = lagrangian.assign_and_sum(w, h, codebook, price, 0.0)
    assert torch.equal(count.long(), torch.bincount(expected.long(), minlength=k))
    torch.testing.assert_close(total, torch.bincount(expected.long(), h.double(), minlength=k))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000))
def test_the_envelope_gives_the_cheapest_codeword_everywhere(k: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    codebook = torch.from_numpy(np.sort(g.normal(size=k)))
    price = torch.from_numpy(g.exponential(size=k) * g.choice([0.01, 1.0, 3.0]))
    if k > 2:
        price[int(g.integers(k))] = torch.inf
    x = torch.linspace(-6, 6, 997, dtype=torch.float64)
    best = ((x[:, None] - codebook).square() + price).amin(1)
    edges = lagrangian.edges(codebook, price)
    with torch_everywhere():
        torch.testing.assert_close(lagrangian.edges(codebook, price), edges, rtol=1e-9, atol=1e-9)
    place = torch.searchsorted(edges, x)
    torch.testing.assert_close((x - codebook[place]).square() + price[place], best, rtol=1e-6, atol=1e-6)


def test_unit_sensitivities_change_nothing_and_a_scale_moves_lambda_along() -> None:
    w = draw("laplace", 20_000)
    plain = ECSQ(lam=0.02).quantize(Source(w))
    for scale in (1.0, 64.0):
        weighted = ECSQ(lam=0.02 * scale).quantize(Source(w, sensitivity=Diagonal(torch.full_like(w, scale))))
        assert torch.equal(plain.symbols, weighted.symbols)
    h = gamma(20_000)
    one = ECSQ(lam=0.02).quantize(Source(w, sensitivity=Diagonal(h)))
    other = ECSQ(lam=0.02 * 64).quantize(Source(w, sensitivity=Diagonal(64 * h)))
    assert torch.equal(one.symbols, other.symbols)
    relative = ECSQ(lam=0.02, unit="variance")
    assert torch.equal(
        relative.quantize(Source(w, sensitivity=Diagonal(h))).symbols,
        relative.quantize(Source(w, sensitivity=Diagonal(64 * h))).symbols,
    )


def test_the_weighted_step_with_unit_sensitivities_is_the_unweighted_one() -> None:
    w = draw("mixture", 20_000)
    source, lam = Source(w), 0.01
    start = ECSQ(lam=lam)._starts(source, lam)[0]
    ours = lagrangian.step(scalar.line(source), start, lam)
    theirs = lagrangian.weighted_step(w, torch.ones_like(w), start, lam, 0.0)
    torch.testing.assert_close(ours.counts, theirs.counts)
    torch.testing.assert_close(ours.codebook, theirs.codebook)
    torch.testing.assert_close(ours.j, theirs.j)


def test_at_low_rate_it_beats_the_uniform_quantizer_of_the_same_distortion() -> None:
    source = Source(draw("laplace", 200_000))
    for lam, gain in ((0.5, 0.05), (1.0, 0.05)):
        ours = ECSQ(lam=lam).quantize(source).statistics
        steps = [Uniform(step=s).quantize(source).statistics for s in np.linspace(0.3, 6, 200)]
        same = min(s["entropy"] for s in steps if s["distortion"] <= ours["distortion"])
        assert ours["entropy"] < same - gain * ours["entropy"] / 10


def test_many_weights_are_converged_on_a_sample_first_and_end_as_low(monkeypatch: pytest.MonkeyPatch) -> None:
    w, h = draw("laplace", 60_000), gamma(60_000)
    whole = ECSQ(lam=0.02).quantize(Source(w, sensitivity=Diagonal(h)))
    monkeypatch.setattr(module, "_SAMPLED_ABOVE", 1_000)
    monkeypatch.setattr(module, "_SAMPLE", 10_000)
    sampled = ECSQ(lam=0.02).quantize(Source(w, sensitivity=Diagonal(h)))
    assert sampled.statistics["lagrangian"] <= 1.001 * whole.statistics["lagrangian"]


def test_the_torch_path_agrees_with_the_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    w, h = draw("laplace", 30_000), gamma(30_000)
    for exact_below in (10**7, 1_000):
        monkeypatch.setattr(sorted_line, "EXACT_BELOW", exact_below)
        for sensitivity in (None, Diagonal(h)):
            for quantizer in (ECSQ(lam=0.02), ECSQ(lam=0.02, k=12), ECSQOptimal(lam=0.05)):
                ours = quantizer.quantize(Source(w, sensitivity=sensitivity))
                with torch_everywhere():
                    theirs = quantizer.quantize(Source(w, sensitivity=sensitivity))
                a, b = ours.parameters["codebook"], theirs.parameters["codebook"]
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
                assert int((ours.symbols != theirs.symbols).sum()) <= 2
