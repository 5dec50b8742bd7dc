"""Error feedback at fixed bits, a step for each column, lattices and priced scales: each against its formula."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from nqbench_quantizers.entquant import EntQuant
from nqbench_quantizers.gptq import GPTQ
from nqbench_quantizers.lattices import D4, E8
from nqbench_quantizers.rtn import RTN
from nqbench_quantizers.watersic import WaterSIC
from torch import Tensor

from nqbench.api import Diagonal, Moments, SecondMoments, Source, SourceTensor
from nqbench.api.formula import entries_of
from nqbench.testing.sources import laplace


def moments(m: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    """X X^T of correlated inputs, of sizes that are powers of ``spread``."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(m, m, generator=generator) @ torch.randn(m, 8 * m, generator=generator)
    x = mixed * spread ** torch.arange(m)[:, None]
    return x @ x.T / x.shape[1]


def layer(rows: int, m: int, h: Tensor, seed: int = 0) -> Source:
    return Source.of([("w", laplace(rows, m, seed=seed))], sensitivity=SecondMoments((h[None],)))


def cost(source: Source, value: Tensor, h: Tensor) -> float:
    e = (source.weights - value).reshape(-1, len(h)).double()
    return float(((e @ h.double()) * e).sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
def test_gptq_at_bits_is_the_surgeon_s_update_on_the_grids_of_its_groups(symmetric: bool, act_order: bool) -> None:
    """Column by column: round to the group's grid, divide the error by U_jj of H^-1 = U^T U, push it on along U_j."""
    h = moments(12)
    source = layer(5, 12, h)
    fields = {"bits": 3, "granularity": "group", "group": 4, "symmetric": symmetric}
    q = GPTQ(damping=0.01, act_order=act_order, **fields).quantize(source)  # type: ignore[arg-type]
    plain = RTN(**fields).quantize(source)  # type: ignore[arg-type]
    assert plain.structure is not None
    step = entries_of(plain, plain.structure, "step")[0].reshape(5, 3).double().numpy()
    zero = np.zeros((5, 3)) if symmetric else entries_of(plain, plain.structure, "zero")[0].reshape(5, 3).numpy()
    low, high = (-3, 3) if symmetric else (0, 7)
    order = torch.argsort(h.diagonal(), descending=True, stable=True).numpy() if act_order else np.arange(12)
    damped = h.double().numpy() + 0.01 * np.diag(h.double().numpy()).mean() * np.eye(12)
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    u = np.linalg.cholesky(inverse).T
    w = source.weights.reshape(5, 12).double().numpy()[:, order].copy()
    expected = np.empty((5, 12))
    for j, column in enumerate(order):
        s, z = step[:, column // 4], zero[:, column // 4]
        value = (np.clip(np.rint(w[:, j] / s) + z, low, high) - z) * s
        expected[:, column] = value
        w[:, j + 1 :] -= np.outer((w[:, j] - value) / u[j, j], u[j, j + 1 :])
    np.testing.assert_allclose(q.reconstruct().reshape(5, 12).numpy(), expected, atol=1e-6)


def test_gptq_at_bits_is_better_than_rounding_by_its_own_measure() -> None:
    h = moments(32)
    source = layer(20, 32, h)
    for granularity in ("global", "layer", "channel", "group"):
        fields = {"bits": 3, "granularity": granularity, "group": 8}
        feedback = GPTQ(**fields).quantize(source)  # type: ignore[arg-type]
        plain = RTN(**fields).quantize(source)  # type: ignore[arg-type]
        assert cost(source, feedback.reconstruct(), h) < 0.8 * cost(source, plain.reconstruct(), h)


@pytest.mark.parametrize("exponent", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("curvature", [0.0, 0.4])
def test_watersic_s_steps_make_every_column_cost_the_same(exponent: float, curvature: float) -> None:
    """s_j l_j is one number but for an eighth of an octave on either side, l the diagonal of the Cholesky factor that
    eliminates later columns first; the factors' geometric mean is 1. Steps of rows are ``gptq``'s of the columns so
    divided."""
    h = moments(16, spread=1.2)
    g = torch.tensor([0.2, 0.4, 0.4, 1.0, 2.0, 2.0])
    packed = Moments(h[None], 0, g).packed() if curvature else h[None]
    source = replace(layer(6, 16, h), sensitivity=SecondMoments((packed,)))
    q = WaterSIC(step=0.02, damping=0.01, exponent=exponent, curvature=curvature).quantize(source)
    if not exponent:
        same = GPTQ(step=0.02, damping=0.01, curvature=curvature).quantize(source)
        assert torch.equal(q.reconstruct(), same.reconstruct())
        return
    damped = h.double() + 0.01 * h.diagonal().double().mean() * torch.eye(16, dtype=torch.float64)
    l_jj = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1).diagonal()
    assert q.structure is not None
    factors = entries_of(q, q.structure, "equalize")[0].double()
    product = factors.log2() + exponent * l_jj.log2()
    assert float(product.max() - product.min()) <= 0.26
    assert abs(float(factors.log2().mean())) <= 0.13
    step = entries_of(q, q.structure, "step")[0].double()
    if curvature:
        cost = float((l_jj * factors).square().mean())
        wanted = 0.02 * (cost * g.double() / g.double().mean()) ** (-curvature / 2)
        assert float((step / wanted).log2().abs().max()) <= 0.13
    else:
        assert step.tolist() == pytest.approx([0.02])
    # and what is decoded lies on these steps, column by column
    levels = q.reconstruct().reshape(6, 16).double() / factors / step.reshape(-1, 1)
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("fields", [{}, {"granularity": "layer"}, {"curvature": 0.4}, {"beam_width": 4}])
def test_watersic_for_weighted_moments_is_gptq_for_the_others(fields: dict[str, Any]) -> None:
    """Moments in the unit of the loss have weights of outputs. Where no tensor has them, files are those of ``gptq``;
    where some have, the columns of the others have one step."""
    h, drawn = moments(16, spread=1.2), [laplace(6, 16, seed=at) for at in range(2)]
    weighted = Moments(h[None], 0, torch.linspace(0.5, 1.5, 6)).packed()
    method = WaterSIC(step=0.02, exponent_for="weighted", **fields)

    def source(*packed: Tensor) -> Source:
        return Source.of([(f"w{at}", w) for at, w in enumerate(drawn)], sensitivity=SecondMoments(packed))

    plain = source(h[None], h[None])
    mine, its = method.quantize(plain), GPTQ(step=0.02, **fields).quantize(plain)
    assert torch.equal(mine.symbols, its.symbols)
    assert mine.structure == its.structure
    assert mine.parameters.keys() == its.parameters.keys()
    assert all(torch.equal(mine.parameters[name], its.parameters[name]) for name in its.parameters)

    both = source(weighted, weighted)
    everywhere = WaterSIC(step=0.02, **fields).quantize(both)
    assert torch.equal(method.quantize(both).reconstruct(), everywhere.reconstruct())

    q = method.quantize(source(weighted, h[None]))
    assert q.structure is not None
    first, second = entries_of(q, q.structure, "equalize")
    assert float(first.max() / first.min()) > 2
    assert torch.equal(second, torch.ones(16))


@pytest.mark.parametrize("fields", [{}, {"granularity": "layer"}, {"curvature": 0.4}])
@pytest.mark.parametrize("others", [[], [(0, 7)], [(0, 7), (5, 7), (7,)]])
def test_watersic_takes_groups_with_tensors_of_no_weights(
    fields: dict[str, Any], others: list[tuple[int, ...]]
) -> None:
    shapes = [(5, 7), *others]
    drawn = [laplace(*shape, seed=at) if 0 not in shape else torch.zeros(shape) for at, shape in enumerate(shapes)]
    weights = [(f"w{at}", w) for at, w in enumerate(drawn)]
    h = moments(7, spread=1.3)
    grams = SecondMoments(tuple(h[None] if len(shape) > 1 else torch.rand(1, 1, 1) + 0.1 for shape in shapes))
    q = WaterSIC(step=0.01, damping=0.0, **fields).quantize(Source.of(weights, sensitivity=grams))
    assert q.structure is not None
    whole = torch.cat([w.reshape(-1) for w in drawn])
    assert float((q.reconstruct() - whole).abs().max()) < 0.5 * float(whole.abs().max())


def test_watersic_needs_fewer_bits_than_one_step_at_equal_error() -> None:
    """Inputs whose sizes differ: at high resolution the gain is that of the arithmetic over the geometric mean of the
    columns' d_j, half its logarithm in bits a weight."""
    h = moments(24, seed=3, spread=1.15)
    source = layer(40_000, 24, h)

    def entropy(q: object) -> float:
        """Bits a weight of an ideal code for each column of its own."""
        symbols = q.symbols.reshape(40_000, 24)  # type: ignore[attr-defined]
        bits = 0.0
        for column in symbols.T:
            p = torch.bincount(column).double() / 40_000
            bits -= float((p[p > 0] * p[p > 0].log2()).sum())
        return bits / 24

    one, own = GPTQ(step=0.001).quantize(source), WaterSIC(step=0.001).quantize(source)
    damped = h.double() + 0.01 * h.diagonal().double().mean() * torch.eye(24, dtype=torch.float64)
    errors = cost(source, one.reconstruct(), damped), cost(source, own.reconstruct(), damped)
    # at equal rate; a step's doubling is a bit and four times the error
    saved = entropy(one) - entropy(own) + 0.5 * np.log2(errors[0] / errors[1])
    d = torch.linalg.cholesky(damped.flip(0, 1)).diagonal().square()
    predicted = 0.5 * float(d.mean().log2() - d.log2().mean())
    assert predicted > 0.3
    assert abs(saved - predicted) < 0.05


@pytest.mark.parametrize(("quantizer", "d"), [(D4, 4), (E8, 8)])
def test_the_nearest_point_is_that_of_exhaustive_search(quantizer: type[D4], d: int) -> None:
    x = torch.randn(300, d, generator=torch.Generator().manual_seed(0)) * 0.7
    half = [0.0, 0.5] if d == 8 else [0.0]
    best = torch.full((300,), torch.inf)
    base = torch.floor(x)
    for shift in half:
        for corner in itertools.product((0, 1), repeat=d):
            point = base + torch.tensor(corner) + shift * (1 if d == 8 else 0)
            for minus in (0.0, 1.0) if shift else (0.0,):
                p = point - minus
                good = p.sum(1) % 2 == 0
                distance = torch.where(good, (x - p).square().sum(1), torch.inf)
                best = torch.minimum(best, distance)
    found = quantizer.nearest(x)
    assert (found.sum(1) % 2 == 0).all()
    mine = (x - found).square().sum(1)
    assert (mine <= best + 1e-5).all()


@pytest.mark.parametrize(("quantizer", "d", "moment"), [(D4, 4, 0.076603), (E8, 8, 0.071682)])
def test_the_mean_error_is_the_lattice_s_second_moment(quantizer: type[D4], d: int, moment: float) -> None:
    """Conway and Sloane, table 2.3: G = error per dimension / volume^(2/d); D4's cell has volume 2, E8's 1."""
    x = torch.rand(200_000, d, generator=torch.Generator().manual_seed(1)) * 64 - 32
    error = float((x - quantizer.nearest(x)).square().mean())
    volume = 2.0 if d == 4 else 1.0
    assert abs(error / volume ** (2 / d) / moment - 1) < 0.005


@pytest.mark.parametrize("quantizer", [D4(step=1.0, block=16), E8(step=2.0, block=16), D4(block=0)])
def test_a_lattice_s_values_are_its_points_rotated_back(quantizer: D4) -> None:
    source = Source.of([("w", laplace(40, 64))], seed=9)
    q = quantizer.quantize(source)
    scale = float(q.parameters["scale"].half().float())
    error = float((q.reconstruct() - source.weights).square().mean())
    moment, volume = (0.076603, 2.0) if quantizer.d == 4 else (0.071682, 1.0)
    assert error < 1.25 * moment * volume ** (2 / quantizer.d) * scale**2


def test_a_higher_price_gives_smaller_codes_and_no_price_the_least_error() -> None:
    source = Source.of([("w", laplace(30, 200))])
    results = [EntQuant(lam=lam, scales="float32").quantize(source) for lam in (0.0, 0.01, 0.1, 1.0)]
    errors = [float((q.reconstruct() - source.weights).square().sum()) for q in results]
    sizes = [float((q.symbols + q.side["offset"]).abs().float().mean()) for q in results]
    assert errors == sorted(errors)
    assert sizes == sorted(sizes, reverse=True)
    largest = source.weights.reshape(30, 200).abs().amax(1, keepdim=True) / 127
    rounded = (source.weights.reshape(30, 200) / largest).round() * largest
    assert errors[0] <= float((rounded.reshape(-1) - source.weights).square().sum()) * 1.0001


def priced(w: np.ndarray, h: np.ndarray, scales: np.ndarray, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """(sum h (w - s q)^2 / sum h w^2 + lam mean |q|, q) of a channel's kept weights, for each of the scales."""
    q = np.clip(np.rint(w / scales[:, None]), -127, 127)
    error = (h * (w - scales[:, None] * q) ** 2).sum(1) / (h * w * w).sum()
    return error + lam * np.abs(q).mean(1), q


def entquant_on_paper(w: np.ndarray, h: np.ndarray, lam: float, tries: int) -> tuple[float, float]:
    """The least objective of the grid, and that after the refit."""
    most = np.abs(w).max()
    costs, codes = priced(w, h, np.geomspace(most / 127, most, tries), lam)
    cost, q = costs.min(), codes[costs.argmin()]
    refit = (h * w * q).sum() / (h * q * q).sum() if np.any(h * q) else 0.0
    return cost, min(cost, priced(w, h, np.array([refit]), lam)[0][0]) if refit > 0 else cost


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_entquant_takes_its_grid_s_best_scale_refitted_and_comes_near_the_best_of_all(
    weighted: bool, masked: bool
) -> None:
    """Channels of nine weights, every scale tried one by one in float64; some sensitivities are 0."""
    w = laplace(6, 9, seed=3)
    generator = torch.Generator().manual_seed(4)
    h = torch.rand(6, 9, generator=generator) ** 4 * (torch.rand(6, 9, generator=generator) < 0.8)
    kept = torch.rand(6, 9, generator=generator) < 0.7 if masked else torch.ones(6, 9, dtype=torch.bool)
    place = SourceTensor("w", (6, 9), 0, int(kept.sum()), kept if masked else None)
    source = Source(w[kept], (place,), Diagonal(h[kept]) if weighted else None)
    refitted = 0
    for lam, tries in itertools.product((0.0, 0.02, 0.3), (2, 12, 400)):
        q = EntQuant(lam=lam, tries=tries, scales="float32").quantize(source)
        assert q.structure is not None
        steps = entries_of(q, q.structure, "step")[0].double().tolist()
        codes = torch.zeros(6, 9, dtype=torch.long).masked_scatter_(kept, q.symbols.long() + int(q.side["offset"]))
        for row, (step, mine) in enumerate(zip(steps, codes, strict=True)):
            x = w[row][kept[row]].double().numpy()
            price = h[row][kept[row]].double().numpy() if weighted else np.ones(len(x))
            (found,), (expected,) = priced(x, price, np.array([step]), lam)
            assert mine[kept[row]].tolist() == expected.tolist()
            before, after = entquant_on_paper(x, price, lam, tries)
            assert found == pytest.approx(after, rel=1e-5, abs=1e-9)
            refitted += after < before * (1 - 1e-3)
            best = priced(x, price, np.geomspace(np.abs(x).max() / 127, np.abs(x).max(), 4000), lam)[0].min()
            assert tries < 400 or found <= 1.03 * best + 2e-5  # without a price, a matter of 127 levels' last digits
    assert refitted >= 10
