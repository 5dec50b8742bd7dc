"""Lattices: the law of the dithered error, the two entropies, and numbering of points."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nqbench_quantizers import points
from nqbench_quantizers.lattice import Lattice, RandomizedLattice

from nqbench.api import BadInput, Quantized, Source, scalar
from nqbench.testing import torch_everywhere

STEP = 0.5


def draw(law: str, n: int = 1_000_000) -> torch.Tensor:
    g = np.random.default_rng(5)
    if law == "laplace":
        w = g.laplace(size=n)
    elif law == "two-point":
        w = np.where(g.random(n) < 0.5, -0.3, 0.3)
    else:
        w = np.where(g.random(n) < 0.9, 0.0, g.laplace(size=n))
    return torch.from_numpy(w.astype(np.float32))


def error(source: Source, q: Quantized) -> float:
    return float((q.reconstruct() - source.weights).double().square().mean())


def rate_distortion(w: np.ndarray, distortion: float) -> float:
    """R(D) of the law of w, by Blahut and Arimoto on at most 161 source points and a fine reproduction alphabet."""
    values, counts = np.unique(w, return_counts=True)
    if values.size > 200:
        counts, edges = np.histogram(w, 161)
        values = (edges[1:] + edges[:-1]) / 2
    p = counts / counts.sum()
    y = np.union1d(np.linspace(values.min(), values.max(), 301), values)
    square = (values[:, None] - y) ** 2
    low, high = 1e-2, 1e4
    for _ in range(28):  # the slope at which the distortion is the asked one
        slope = math.sqrt(low * high)
        kernel = np.exp(-slope * (square - square.min(1, keepdims=True)))
        q = np.full(y.size, 1 / y.size)
        for _ in range(300):
            joint = kernel * q
            norm = joint.sum(1, keepdims=True).clip(min=1e-300)
            q = p @ (joint / norm)
        conditional = kernel * q / (kernel @ q).clip(min=1e-300)[:, None]
        at = float((p[:, None] * conditional * square).sum())
        low, high = (slope, high) if at > distortion else (low, slope)
    ratio = np.log2(np.where(conditional > 0, conditional, 1) / np.where(q > 0, q, 1))
    return float((p[:, None] * conditional * ratio).sum())


@pytest.mark.parametrize("zero", ["center", "edge"])
@pytest.mark.parametrize("law", ["laplace", "two-point", "spiky"])
def test_the_dithered_error_is_a_twelfth_of_the_squared_step_for_any_source(law: str, zero: str) -> None:
    source = Source(draw(law), seed=11)
    q = RandomizedLattice(step=STEP, zero=zero).quantize(source)
    assert error(source, q) == pytest.approx(STEP**2 / 12, rel=0.01)
    if law != "laplace":
        plain = error(source, Lattice(step=STEP, zero=zero).quantize(source))
        assert abs(plain / (STEP**2 / 12) - 1) > 0.5


@pytest.mark.parametrize("law", ["laplace", "two-point", "spiky"])
def test_the_conditional_entropy_is_within_the_universal_bound(law: str) -> None:
    """Ziv 1985: H(Q|U) <= R(D) + 0.754 bit at D = step^2 / 12, whatever the source; and knowing u never costs."""
    w = draw(law)
    bound = rate_distortion(w[:100_000].numpy(), STEP**2 / 12) + 0.754
    for zero in ("center", "edge"):
        figures = RandomizedLattice(step=STEP, zero=zero).quantize(Source(w, seed=1)).statistics
        assert figures["conditional_entropy"] <= bound
        assert figures["conditional_entropy"] <= figures["entropy"] + 1e-3


def test_the_conditional_entropy_is_that_of_the_symbols_given_the_dither() -> None:
    """Counted the slow way: symbols of all weights at each of many fixed dithers."""
    w = draw("laplace", 20_000)
    found = RandomizedLattice(step=STEP).quantize(Source(w)).statistics["conditional_entropy"]
    entropies = []
    for u in STEP * (np.arange(200) / 200 - 0.5):
        _, counts = np.unique(np.rint((w.double().numpy() + u) / STEP), return_counts=True)
        p = counts / counts.sum()
        entropies.append(-(p * np.log2(p)).sum())
    assert found == pytest.approx(np.mean(entropies), abs=2e-3)


def test_a_spike_on_a_boundary_costs_a_coder_that_does_not_know_the_dither() -> None:
    source = Source(draw("spiky"))
    center, edge = (RandomizedLattice(step=STEP, zero=z).quantize(source).statistics for z in ("center", "edge"))
    assert edge["entropy"] - edge["conditional_entropy"] > 0.5
    assert center["entropy"] - center["conditional_entropy"] < 0.1


@pytest.mark.parametrize("zero", ["center", "edge"])
@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_each_coordinate_goes_to_its_nearest_point(d: int, zero: str) -> None:
    w = draw("laplace", 1_001)
    q = Lattice(step=STEP, d=d, zero=zero).quantize(Source(w))
    x = w.double() / STEP
    nearest = x.round() if zero == "center" else x.floor() + 0.5
    torch.testing.assert_close(q.reconstruct().double(), nearest * STEP)
    assert q.symbols.numel() == -(-1_001 // d)
    table = q.parameters["codebook"].reshape(q.alphabet, -1).tolist()
    assert table == sorted(table)
    assert len({tuple(row) for row in table}) == q.alphabet
    assert q.ordered == (d == 1)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_dithered_values_lie_within_half_a_step_and_share_the_dither(d: int) -> None:
    w = draw("laplace", 4_001)
    source = Source(w, seed=3)
    q = RandomizedLattice(step=STEP, d=d).quantize(source)
    assert float((q.reconstruct() - w).abs().max()) <= STEP / 2 * (1 + 1e-5)
    again = RandomizedLattice(step=STEP, d=d).quantize(Source(w, seed=3))
    assert torch.equal(q.symbols, again.symbols)
    assert not torch.equal(q.reconstruct(), RandomizedLattice(step=STEP, d=d).quantize(Source(w, seed=4)).reconstruct())
    codebook = q.parameters["codebook"].clone().requires_grad_()
    q.reconstruct({"codebook": codebook}).sum().backward()
    assert float(codebook.grad.sum()) == 4_001  # the padding of the last vector has no gradient


def test_another_process_rebuilds_the_same_weights(tmp_path: Path) -> None:
    source = Source(draw("laplace", 100_000), seed=2**40 + 5)
    q = RandomizedLattice(step=STEP, d=2).quantize(source)
    np.savez(tmp_path / "q.npz", symbols=q.symbols, codebook=q.parameters["codebook"])
    code = f"""
import numpy as np, torch
from nqbench.api import Quantized
f = np.load("q.npz")
parameters = {{"codebook": torch.from_numpy(f["codebook"])}}
q = Quantized(torch.from_numpy(f["symbols"]), {q.alphabet}, ({source.n},), parameters, {dict(q.side)!r}, "dithered")
np.save("w.npy", q.reconstruct().numpy())
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert np.load(tmp_path / "w.npy").tobytes() == q.reconstruct().numpy().tobytes()


def test_points_are_numbered_alike_by_table_hash_and_renumbering(monkeypatch: pytest.MonkeyPatch) -> None:
    w = draw("laplace", 30_000)
    grid = points.grid((w, *scalar.extremes(Source(w))), None, 0.3, 4, "center")
    symbols, table, counts = points.distinct(grid)
    expected, inverse, members = np.unique(
        np.rint(w.double().numpy() / 0.3).reshape(-1, 4), axis=0, return_inverse=True, return_counts=True
    )
    for table_size, key_size in itertools.product((1 << 25, 1), (1 << 62, grid.span**3 * 7501)):
        monkeypatch.setattr(points, "_TABLE", table_size)
        monkeypatch.setattr(points, "_KEY", key_size)
        for path in (points.distinct(grid), _on_torch(grid), (symbols, table, counts)):
            assert np.array_equal(path[1].numpy(), expected)
            assert np.array_equal(path[0].numpy(), inverse.reshape(-1))
            assert np.array_equal(path[2].numpy(), members)


def _on_torch(grid: points.Grid) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with torch_everywhere():
        return points.distinct(grid)


def test_a_step_that_makes_too_many_points_is_refused() -> None:
    with pytest.raises(BadInput, match="larger step"):
        Lattice(step=1e-30).quantize(Source(torch.tensor([-1.0, 1.0])))
