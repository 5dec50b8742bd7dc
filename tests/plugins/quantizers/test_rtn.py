"""Rounding to nearest: the formula weight by weight, the best scale by brute force, and what storing scales costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nqbench_quantizers.rtn import RTN

from nqbench.api import Diagonal, Source
from nqbench.testing.sources import laplace


def source(*shape: int, seed: int = 0, h: torch.Tensor | None = None) -> Source:
    given = Source.of([("w", laplace(*shape, seed=seed))])
    return given if h is None else given.with_(sensitivity=Diagonal(h))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [4, 5, 100])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_formula_weight_by_weight(bits: int, group: int, symmetric: bool) -> None:
    given = source(6, 12)
    w = given.weights.reshape(6, 12).numpy()
    expected = np.empty_like(w)
    for row in range(6):
        for start in range(0, 12, group):
            block = w[row, start : start + group]
            if symmetric:
                most = 2 ** (bits - 1) - 1
                scale = np.float32(np.abs(block).max()) * np.float32(1 / most)
                expected[row, start : start + group] = np.clip(np.rint(block / scale), -most, most) * scale
            else:
                most = 2**bits - 1
                low, high = min(block.min(), np.float32(0)), max(block.max(), np.float32(0))
                scale = (high - low) / np.float32(most)
                zero = np.rint(-low / scale)
                expected[row, start : start + group] = (np.clip(np.rint(block / scale) + zero, 0, most) - zero) * scale
    q = RTN(bits=bits, group=group, granularity="group", symmetric=symmetric).quantize(given)
    np.testing.assert_allclose(q.reconstruct().reshape(6, 12).numpy(), expected, rtol=2e-6, atol=1e-8)
    assert q.alphabet == 2**bits - symmetric


@pytest.mark.parametrize("weighted", [False, True])
def test_a_search_comes_near_the_best_scale_of_all(weighted: bool) -> None:
    """2,000 scales for each of 20 channels of 60 weights; 4 levels a side."""
    h = torch.rand(1200, generator=torch.Generator().manual_seed(3)) if weighted else None
    given = source(20, 60, h=h)
    w = given.weights.reshape(20, 60)
    weight = torch.ones_like(w) if h is None else h.reshape(20, 60)
    best = torch.full((20,), torch.inf)
    for share in np.linspace(0.05, 1.2, 2000):
        scale = w.abs().amax(1, keepdim=True) / 3 * float(share)
        error = (weight * (w - (w / scale).round().clamp(-3, 3) * scale).square()).sum(1)
        best = torch.minimum(best, error)

    def errors(**fields: object) -> torch.Tensor:
        value = RTN(bits=3, **fields).quantize(given).reconstruct().reshape(20, 60)  # type: ignore[arg-type]
        return (weight * (w - value).square()).sum(1)

    searched = errors(fit="search", shrink=0.2, tries=60)
    assert (searched <= errors() + 1e-9).all()
    assert searched.sum() <= 1.01 * best.sum()
    assert (searched >= best * 0.999).all()


@pytest.mark.parametrize(("kept", "bits"), [("float32", 32), ("float16", 16), ("bfloat16", 16), ("codes", 8)])
def test_scales_are_what_a_decoder_has(kept: str, bits: int) -> None:
    given = source(64, 64, seed=4)
    q = RTN(granularity="group", group=16, scales=kept).quantize(given)  # type: ignore[arg-type]
    step = q.reconstruct().reshape(64, 4, 16) / (q.symbols.reshape(64, 4, 16) + q.side["offset"])
    per_block = torch.nan_to_num(step, 0, 0, 0).amax(2).reshape(-1)
    exact = given.weights.reshape(256, 16).abs().amax(1) / 7
    tolerance = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2}.get(kept)
    if tolerance is None:
        torch.testing.assert_close(per_block, exact, atol=float(exact.max()) / 255, rtol=0)
    else:
        torch.testing.assert_close(per_block, exact, rtol=tolerance, atol=0)


def test_scales_that_a_half_would_lose_stay_floats() -> None:
    given = Source.of([("w", laplace(4, 8, scale=1e-7))])
    q = RTN(scales="float16").quantize(given)
    assert q.structure is not None
    assert not q.structure.stored
    torch.testing.assert_close(q.reconstruct(), given.weights, atol=float(given.weights.abs().max()) / 14, rtol=0)


def test_a_channel_of_zeros_deploys_as_zeros_and_its_neighbours_as_ever() -> None:
    w = laplace(3, 10)
    w[1] = 0
    value = RTN(symmetric=False).quantize(Source.of([("w", w)])).reconstruct().reshape(3, 10)
    assert not value[1].any()
    alone = RTN(symmetric=False).quantize(Source.of([("w", w[::2])])).reconstruct().reshape(2, 10)
    assert torch.equal(value[::2], alone)
