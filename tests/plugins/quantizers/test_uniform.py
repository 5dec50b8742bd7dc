"""Uniform quantization: its cells, its centroids, its grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nqbench_quantizers.uniform import Uniform, step_for
from pydantic import ValidationError

from nqbench.api import BadInput, Diagonal, Source
from nqbench.testing import torch_everywhere


def gaussian(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(n).astype(np.float32))


@pytest.mark.parametrize("zero", ["center", "edge"])
def test_codewords_are_the_means_of_cells_one_step_wide(zero: str) -> None:
    w, step = gaussian(4_000), 0.25
    q = Uniform(step=step, zero=zero).quantize(Source(w))
    x = w.double() / step
    cell = x.round() if zero == "center" else x.floor()
    expected = [w[cell == i].double().mean() for i in cell.unique()]
    torch.testing.assert_close(q.parameters["codebook"].double(), torch.stack(expected), rtol=1e-6, atol=1e-9)
    assert torch.equal(q.symbols.long(), cell.unique(return_inverse=True)[1])


def test_weighted_centroids_minimize_the_weighted_error() -> None:
    w = gaussian(4_000)
    h = w.square() + 0.1
    q = Uniform(k=8).quantize(Source(w, sensitivity=Diagonal(h)))
    for j, c in enumerate(q.parameters["codebook"].tolist()):
        member = q.symbols == j
        mean = (h[member].double() * w[member]).sum() / h[member].double().sum()
        assert c == pytest.approx(float(mean), rel=1e-5)


@pytest.mark.parametrize("zero", ["center", "edge"])
def test_middles_stay_on_the_grid_and_err_at_most_half_a_step(zero: str) -> None:
    w = gaussian(4_000)
    q = Uniform(step=0.1, zero=zero, centroids="middle").quantize(Source(w))
    values = q.reconstruct()
    assert q.form == "grid"
    assert list(q.parameters) == ["step"]
    assert float((values - w).abs().max()) <= 0.05 + 1e-6
    assert q.zero == (None if zero == "edge" else -round(q.side["offset"]))


@pytest.mark.parametrize("zero", ["center", "edge"])
@pytest.mark.parametrize("k", [2, 3, 16, 255])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.1, 5.0), (2.0, 3.0), (-7.0, -6.9)])
def test_k_cells_cover_the_extremes_and_fewer_would_not_do(low: float, high: float, k: int, zero: str) -> None:
    step = step_for(low, high, k, zero)
    index = np.rint if zero == "center" else np.floor
    count = int(index(high / step) - index(low / step)) + 1
    assert count <= k
    assert (high - low) / step <= k
    if low < 0 < high and k > 3:
        assert (high - low) / step >= k - 2  # zero's place can cost a cell at each end


def test_a_step_per_tensor_follows_its_deviation() -> None:
    a, b = gaussian(3_000, 1), 10 * gaussian(3_000, 2)
    source = Source.of([("a", a), ("b", b)])
    q = Uniform(step=0.5, granularity="layer", centroids="middle").quantize(source)
    expected = [0.5 * float(t.double().std(correction=0)) for t in (a, b)]
    assert q.parameters["step"].tolist() == pytest.approx(expected, rel=1e-6)
    worst = (q.reconstruct() - source.weights).abs().split(3_000)
    assert [float(e.max()) for e in worst] == pytest.approx([e / 2 for e in expected], rel=0.05)
    shared = Uniform(step=0.5, granularity="layer").quantize(source)
    assert shared.side["scale"].numel() == 2
    assert float((shared.reconstruct() - source.weights).square().mean()) <= float(
        (q.reconstruct() - source.weights).square().mean()
    )


def test_the_zero_cell_can_be_held_at_zero() -> None:
    source = Source(gaussian(4_000))
    free = Uniform(step=0.5).quantize(source)
    held = Uniform(step=0.5, fixed_zero=True).quantize(source)
    assert free.zero is None
    assert held.zero is not None
    assert held.held["codebook"].tolist() == (held.parameters["codebook"] == 0).tolist()
    assert torch.equal(free.symbols, held.symbols)


def test_high_rate_loses_a_quarter_bit_to_the_gaussian_bound() -> None:
    """Gish and Pierce 1968: H = R(D) + (1/2) log2(2 pi e / 12) = R(D) + 0.2546 bit."""
    w = gaussian(10_000_000)
    q = Uniform(step=0.05).quantize(Source(w))
    bound = 0.5 * np.log2(1.0 / q.statistics["distortion"])
    assert q.statistics["entropy"] - bound == pytest.approx(0.2546, abs=0.005)


def test_the_torch_path_gives_the_same_bytes() -> None:
    w = gaussian(30_000)
    for quantizer in (Uniform(k=20), Uniform(step=0.01, zero="edge")):
        ours = quantizer.quantize(Source(w, sensitivity=Diagonal(w.abs())))
        with torch_everywhere():
            theirs = quantizer.quantize(Source(w, sensitivity=Diagonal(w.abs())))
        assert torch.equal(ours.symbols, theirs.symbols)
        torch.testing.assert_close(ours.parameters["codebook"], theirs.parameters["codebook"], rtol=1e-6, atol=0)


def test_a_step_that_needs_too_many_symbols_is_refused() -> None:
    with pytest.raises(BadInput, match="larger step"):
        Uniform(step=1e-9).quantize(Source(torch.tensor([-1.0, 1.0])))


def test_step_and_k_exclude_each_other() -> None:
    assert Uniform().k == 16
    with pytest.raises(ValidationError, match="not both"):
        Uniform(k=4, step=0.1)
