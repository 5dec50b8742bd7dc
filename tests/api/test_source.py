"""A source and its shared views: sums, histograms, placement of weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nqbench.api import BadInput, Diagonal, Source, chunks, scalar
from nqbench.api.toolkit import sorted_line
from nqbench.testing import torch_everywhere

floats = st.floats(-1e6, 1e6, width=32)


def laplace(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).laplace(size=n).astype(np.float32))


def test_what_cannot_be_quantized_is_refused_with_its_place() -> None:
    with pytest.raises(BadInput, match="weight 1 is nan"):
        Source(torch.tensor([0.0, float("nan")]))
    with pytest.raises(BadInput, match="empty"):
        Source(torch.empty(0))
    with pytest.raises(BadInput, match="2 sensitivities for 3 weights"):
        Source(torch.ones(3), sensitivity=Diagonal(torch.ones(2)))


def test_sensitivities_that_are_not_positive_are_floored() -> None:
    h = Diagonal(torch.tensor([2.0, -1.0, 0.0, float("nan"), 4.0])).values
    assert h.tolist() == pytest.approx([2.0, 3e-6, 3e-6, 3e-6, 4.0])


def test_views_are_computed_once_and_kept_under_other_seeds_but_not_other_weights() -> None:
    calls = []
    source = Source(torch.ones(3))
    for other in (source, source.with_(seed=4), source.with_(weights=torch.zeros(3))):
        other.view("key", lambda s: calls.append(s.n))
    assert len(calls) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(floats, min_size=1, max_size=40), st.lists(floats, max_size=8), st.booleans())
def test_placement_counts_the_edges_below_each_weight(values: list[float], edges: list[float], on_torch: bool) -> None:
    w = torch.tensor(values, dtype=torch.float32)
    cuts = torch.tensor(sorted(edges), dtype=torch.float64) + 1e-9  # not float32 numbers
    expected = [sum(edge < weight for edge in cuts.tolist()) for weight in w.tolist()]
    if on_torch:
        with torch_everywhere():
            assert scalar.assign(w, cuts).tolist() == expected
    else:
        assert scalar.assign(w, cuts).tolist() == expected


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("exact", [False, True])
def test_sums_over_intervals_are_those_of_the_members(
    weighted: bool, offset: float, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = laplace(20_000) + offset
    h = laplace(20_000, 1).abs() + 0.1
    monkeypatch.setattr(sorted_line, "EXACT_BELOW", 10**7 if exact else 1_000)
    source = Source(w, sensitivity=Diagonal(h) if weighted else None)
    line = scalar.line(source)
    assert line.exact == exact
    edges = torch.tensor([-1.3, -0.2, 0.0, 0.7], dtype=torch.float64) + offset
    found = line.sums(line.cut(edges))
    symbols = torch.bucketize(w.double(), edges)
    x, g = w.double() - line.shift, h.double() if weighted else torch.ones(20_000, dtype=torch.float64)
    for j in range(5):
        member = symbols == j
        expected = (member.sum(), g[member].sum(), (g * x)[member].sum(), (g * x * x)[member].sum())
        for ours, theirs in zip(found, expected, strict=True):
            # a bin of the histogram lies on one side of an edge as a whole
            assert float(ours[j]) == pytest.approx(float(theirs), rel=1e-9 if exact else 2e-3, abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_histogram_is_fine_where_the_weights_are_even_with_an_outlier(
    weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorted_line, "EXACT_BELOW", 1_000)
    w = torch.cat([laplace(300_000), torch.tensor([1e6])])
    line = scalar.line(Source(w, sensitivity=Diagonal(w.abs() + 1.0) if weighted else None))
    assert float(torch.diff(line.count).max()) <= 300_001 / (1 << 16) + 2
    assert float(line.count[-1]) == w.numel()
    assert bool((line.points[1:] > line.points[:-1]).all())


def test_the_torch_path_gives_the_same_line(monkeypatch: pytest.MonkeyPatch) -> None:
    w, h = laplace(30_000), laplace(30_000, 1).abs()
    for exact_below in (10**7, 1_000):
        monkeypatch.setattr(sorted_line, "EXACT_BELOW", exact_below)
        for sensitivity in (None, Diagonal(h)):
            ours = scalar.line(Source(w, sensitivity=sensitivity))
            with torch_everywhere():
                theirs = scalar.line(Source(w, sensitivity=sensitivity))
            torch.testing.assert_close(ours.points, theirs.points, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(ours.hw, theirs.hw, rtol=1e-9, atol=1e-7)


def test_the_number_of_threads_changes_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_line, "EXACT_BELOW", 1_000)
    monkeypatch.setattr(chunks, "CHUNK", 1_000)
    w, h = laplace(50_000), laplace(50_000, 1).abs()
    edges = torch.linspace(-3, 3, 30, dtype=torch.float64)
    before, seen = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        source = Source(w, sensitivity=Diagonal(h))
        symbols, sums = scalar.assign_and_sum(w, h, edges)
        seen.append((symbols.numpy().tobytes(), sums.numpy().tobytes(), scalar.line(source).hww.numpy().tobytes()))
    torch.set_num_threads(before)
    assert seen[0] == seen[1]


def test_passes_agree_with_one_another() -> None:
    w, h = laplace(10_000), laplace(10_000, 1).abs()
    source, edges = Source(w, sensitivity=Diagonal(h)), torch.linspace(-3, 3, 30, dtype=torch.float64)
    symbols, sums = scalar.assign_and_sum(w, source.h, edges, 0.1)
    assert torch.equal(symbols, scalar.assign(w, edges))
    torch.testing.assert_close(sums, scalar.symbol_sums(w, source.h, symbols, 31, 0.1))
    torch.testing.assert_close(sums, scalar.interval_sums(w, source.h, edges, 0.1))
    with torch_everywhere():
        torch.testing.assert_close(sums, scalar.assign_and_sum(w, source.h, edges, 0.1)[1])


def test_the_summary_is_numpys() -> None:
    w = laplace(3_000_000) + 7
    source = Source(w)
    mean, deviation = scalar.moments(source)
    assert mean == pytest.approx(float(w.double().mean()), rel=1e-12)
    assert deviation == pytest.approx(float(w.double().std(correction=0)), rel=1e-12)
    assert scalar.extremes(source) == (float(w.min()), float(w.max()))
    assert scalar.offset(source) == mean
    assert scalar.offset(Source(w - 7)) == 0.0
