"""Bits by equal slopes, companded levels, factors by activations, a quadratic rate: each against its formula."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from nqbench_quantizers.awq import AWQ
from nqbench_quantizers.cerwu import CERWU
from nqbench_quantizers.gptq import GPTQ
from nqbench_quantizers.radio import Radio
from nqbench_quantizers.rtn import RTN
from torch import Tensor

from nqbench.api import Coder, Diagonal, SecondMoments, Source, SourceTensor
from nqbench.api.formula import entries_of
from nqbench.api.tables import table_of
from nqbench.testing.sources import laplace


def moments(m: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    """X X^T of correlated inputs, of sizes that are powers of ``spread``."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(m, m, generator=generator) @ torch.randn(m, 8 * m, generator=generator)
    x = mixed * spread ** torch.arange(m)[:, None]
    return x @ x.T / x.shape[1]


def cost(change: Tensor, h: Tensor) -> float:
    e = change.reshape(-1, len(h)).double()
    return float(((e @ h.double()) * e).sum())


# -- radio -----------------------------------------------------------------------------------------------------------
def groups_of(q, source: Source, size: int) -> tuple[Tensor, Tensor]:
    """Of groups of equal size: bits that the symbols show, G S^2."""
    depth = (q.alphabet + 1).bit_length() - 2
    at = (q.symbols + 1).reshape(-1, size)
    # an odd multiple of 2^(depth - b) is a level of b bits
    bits = torch.tensor([max(depth - ((int(v) & -int(v)).bit_length() - 1) for v in row) for row in at])
    h = torch.ones(source.n) if source.h is None else source.h
    w, h = source.weights.reshape(-1, size).double(), h.reshape(-1, size).double()
    mean = (h * w).sum(1, keepdim=True) / h.sum(1, keepdim=True)
    return bits, (h * (w - mean).square()).mean(1)


@pytest.mark.parametrize("bits", [1.0, 2.0, 3.3])
def test_no_other_bits_of_the_groups_have_a_smaller_distortion(bits: float) -> None:
    """All allocations of up to 5 bits to 6 groups are tried: none within the budget that was used has a smaller sum of
    G S^2 4^-b."""
    generator = torch.Generator().manual_seed(3)
    deviations = torch.tensor([0.01, 0.3, 0.05, 0.1, 0.02, 0.5])
    w = torch.randn(6, 256, generator=generator) * deviations[:, None]
    h = torch.tensor([9.0, 1.0, 4.0, 0.1, 2.0, 0.5])[:, None].expand(6, 256).reshape(-1)
    source = Source.of([("w", w)], sensitivity=Diagonal(h))
    q = Radio(bits=bits, granularity="channel", most=5).quantize(source)
    mine, per = groups_of(q, source, 256)
    assert float(mine.double().mean()) <= bits
    distortion = float((per * 4.0**-mine).sum())
    for other in itertools.product(range(6), repeat=6):
        if sum(other) <= int(mine.sum()):
            assert float((per * 4.0 ** -torch.tensor(other)).sum()) >= distortion * (1 - 1e-9)
    assert sum(mine.tolist()) >= 6 * bits - 1, "a bit was left that no group took"


def test_companded_levels_have_the_error_of_panter_and_dite() -> None:
    """For a Laplace source at high rates D = (integral p^(1/3))^3 / 12 4^-b = 4.5 S^2 4^-b."""
    u = (torch.arange(1 << 18, dtype=torch.float64) + 0.5) / (1 << 18) - 0.5
    w = (-0.1 / math.sqrt(2) * u.sign() * torch.log1p(-2 * u.abs())).float()
    source = Source.of([("w", w)])
    for bits in (6, 7):
        q = Radio(bits=bits, granularity="layer", scales="float32").quantize(source)
        error = float((q.reconstruct() - w).double().square().mean())
        assert error == pytest.approx(4.5 * 0.01 * 4.0**-bits, rel=0.05)


def test_the_table_s_coarser_grids_are_the_companders_of_fewer_bits() -> None:
    """sigma(level) = (2 q + 1) / 2^(b + 1)."""
    table = torch.from_numpy(table_of("laplace", 31).copy()).double()
    sigma = (1 + table.sign() * (1 - torch.exp(-math.sqrt(2) * table.abs() / 3))) / 2
    torch.testing.assert_close(sigma, torch.arange(1, 32).double() / 32, rtol=1e-6, atol=1e-7)


def test_steps_without_companding_leave_all_groups_the_same_weighted_error() -> None:
    """G_n s_n^2 / 12 = theta in each group that is not below it."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(8, 512, generator=generator) * torch.logspace(-1, 1, 8)[:, None]
    h = torch.logspace(1, -1, 8)[:, None].expand(8, 512).reshape(-1) * 0.5
    source = Source.of([("w", w)], sensitivity=Diagonal(h))
    q = Radio(bits=4.0, companding=False, granularity="channel", scales="float32").quantize(source)
    error = (h.reshape(8, 512) * (q.reconstruct().reshape(8, 512) - w).square()).mean(1)
    torch.testing.assert_close(error, error.mean().expand(8), rtol=0.15, atol=0)
    p = torch.stack([torch.bincount(row - row.min(), minlength=4000) for row in q.symbols.reshape(8, 512)]) / 512
    entropy = float(torch.special.entr(p.double()).sum(1).mean()) / math.log(2)
    # 4 bits are those of the bound; a grid takes log2(2 pi e / 12) / 2 = 0.254 more; 512 weights show a little less
    assert entropy == pytest.approx(4.254, abs=0.1)


# -- awq -------------------------------------------------------------------------------------------------------------
def test_awq_is_the_best_exponent_of_all_that_are_tried() -> None:
    h = moments(16, spread=1.3)
    source = Source.of([("w", laplace(6, 16))], sensitivity=SecondMoments((h[None],)))
    q = AWQ(bits=3, group=8, tries=10).quantize(source)
    errors = []
    for step in range(10):
        size = h.diagonal().double().sqrt() ** (step / 10)
        factor = (1 / (size / (size.max() * size.min()).sqrt())).half().float()
        value = RTN(bits=3, group=8, symmetric=False, granularity="group", scales="float16").quantize(
            Source.of([("w", laplace(6, 16) / factor)])
        )
        errors.append(cost(source.weights - (value.reconstruct().reshape(6, 16) * factor).reshape(-1), h))
    assert cost(source.weights - q.reconstruct(), h) == pytest.approx(min(errors), rel=1e-5)
    assert min(errors) < 0.95 * errors[0], "no exponent is better than none: the test tells nothing"
    assert q.structure is not None
    assert q.structure.arrays["equalize"].per.by == "channel"


def test_awq_finds_the_input_channels_of_every_layout() -> None:
    """The same matrix as a linear layer, transposed, as a convolution in two groups, as experts, pruned: the factors
    follow the inputs, so the values are those of the linear layer where its groups are the same."""
    h = moments(6, spread=1.6)
    w = laplace(4, 6)
    fields = {"bits": 3, "granularity": "layer", "symmetric": True, "exponent": 0.5, "scales": "float32"}

    def value(tensor: Tensor, gram: Tensor, mask: Tensor | None = None) -> Tensor:
        kept = tensor.reshape(-1) if mask is None else tensor[mask]
        part = SourceTensor("w", tuple(tensor.shape), 0, kept.numel(), mask)
        return AWQ(**fields).quantize(Source(kept, (part,), SecondMoments((gram,)))).reconstruct()  # type: ignore[arg-type]

    linear = value(w, h[None]).reshape(4, 6)
    torch.testing.assert_close(value(w.T.contiguous(), h[None, None]).reshape(6, 4).T, linear)
    torch.testing.assert_close(value(w.T.reshape(1, 6, 4).contiguous(), h[None, None, None]).reshape(6, 4).T, linear)
    assert value(w.reshape(4, 2, 3), h[None]).shape == (24,)  # 2 channels of 3 places each
    mask = torch.ones(4, 6, dtype=torch.bool)
    torch.testing.assert_close(value(w, h[None], mask).reshape(4, 6), linear)
    factors = (
        AWQ(**fields).quantize(Source.of([("w", w)], sensitivity=SecondMoments((h[None],)))).parameters["equalize"]
    )  # type: ignore[arg-type]
    size = h.diagonal().sqrt().sqrt()
    torch.testing.assert_close(1 / factors, size / (size.max() * size.min()).sqrt(), rtol=1e-3, atol=0)


# -- cerwu -----------------------------------------------------------------------------------------------------------
def test_cerwu_chooses_each_level_as_if_later_ones_paid_a_quadratic_rate() -> None:
    """For every column: the level of least error, true bits so far, and gamma q^2 / (2 s^2 ln 2) bits for each later
    weight, which are then free to be any numbers: worked out by solving for them."""
    h, lam, gamma, step = moments(4, seed=5), 0.0008, 1.0, 0.02
    w = laplace(3, 4, seed=7, scale=0.04)
    source = Source.of([("w", w)], sensitivity=SecondMoments((h[None],))).with_(rate=Coder().rate)
    fields = {"step": step, "damping": 0.0, "sweeps": 1, "reach": 3}
    q = CERWU(lam=lam, unit="absolute", gamma=gamma, **fields).quantize(source)  # type: ignore[arg-type]
    mine = q.symbols.reshape(3, 4) + int(q.side["offset"])
    x = (w / step).double().numpy()
    damped = h.double().numpy() + 1e-8 * float(h.diagonal().double().mean()) * np.eye(4)
    price_of_square = lam / step**2 * gamma / (2 * max(float((x**2).mean()), 1 / 12) * math.log(2))
    pulled = np.linalg.solve(damped + price_of_square * np.eye(4), damped @ x.T).T
    first = np.rint(pulled).astype(int)  # the first sweep's prices are those of rounding
    span = int(np.ceil(np.abs(pulled).max())) + 1
    bits = Coder().rate(np.bincount((first + span).reshape(-1), minlength=2 * span + 1))
    for row in range(3):
        chosen: list[int] = []
        for j in range(4):
            best = None
            for level in range(-span, span + 1):
                head = np.array([*chosen, level], dtype=float)
                later = np.arange(j + 1, 4)
                error = x[row, : j + 1] - head
                if later.size:
                    a = damped[np.ix_(later, later)] + price_of_square * np.eye(later.size)
                    b = damped[np.ix_(later, later)] @ x[row, later] + damped[np.ix_(later, np.arange(j + 1))] @ error
                    free = np.linalg.solve(a, b)
                else:
                    free = np.zeros(0)
                whole = np.concatenate([error, x[row, later] - free])
                total = (
                    whole @ damped @ whole + price_of_square * float(free @ free) + lam / step**2 * bits[level + span]
                )
                if best is None or total < best[0] - 1e-9:
                    best = (total, level)
            assert best is not None
            chosen.append(best[1])
        assert mine[row].tolist() == chosen
    assert len(set(mine.reshape(-1).tolist())) > 2, "all levels are alike: the test tells nothing"
    assert mine.tolist() != GPTQ(lam=lam, unit="absolute", **fields).quantize(source).symbols.reshape(3, 4).tolist()  # type: ignore[arg-type]


def test_cerwu_without_its_quadratic_rate_is_gptq_with_a_price() -> None:
    h = moments(12, seed=2)
    source = Source.of([("w", laplace(8, 12))], sensitivity=SecondMoments((h[None],))).with_(rate=Coder().rate)
    one, other = CERWU(step=0.03, lam=0.2, gamma=0.0).quantize(source), GPTQ(step=0.03, lam=0.2).quantize(source)
    assert torch.equal(one.symbols, other.symbols)
    pulled = CERWU(step=0.03, lam=0.2).quantize(source)
    assert pulled.statistics["entropy"] < one.statistics["entropy"]


def test_entries_of_awq_are_as_a_decoder_has_them() -> None:
    h = moments(16, spread=1.3)
    q = AWQ(group=8, exponent=0.7).quantize(Source.of([("w", laplace(6, 16))], sensitivity=SecondMoments((h[None],))))
    assert q.structure is not None
    (read,) = entries_of(q, q.structure, "equalize")
    assert torch.equal(read, q.parameters["equalize"])
