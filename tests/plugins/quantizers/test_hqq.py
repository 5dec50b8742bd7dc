"""Half-quadratic zero points: the iteration against its formula in scalar loops, and what it is to be no worse than."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from nqbench_quantizers.block_peers import HQQPackage
from nqbench_quantizers.hqq import HQQ
from torch import Tensor

from nqbench.api import Source
from nqbench.testing.sources import laplace

EXACT: dict[str, Any] = {"scales": "float32", "zeros": "float32"}


def decoded(quantizer: HQQ | HQQPackage, w: Tensor) -> Tensor:
    return quantizer.quantize(Source.of([("w", w)])).reconstruct().reshape(w.shape)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.02


def zero_by_hand(w: list[float], bits: int, p: float, beta: float, kappa: float, iterations: int) -> float:
    """The zero point that the module's text defines, in the unit of weights, where beta is beta s^(p - 2)."""
    most = 2**bits - 1
    s = (max(w) - min(w)) / most

    def level(x: float, z: float) -> int:
        return min(max(round(x / s + z), 0), most)

    def objective(z: float) -> float:
        return sum(abs(x - s * (level(x, z) - z)) ** p for x in w)

    z = best = -min(w) / s
    for t in range(iterations):
        now = beta * kappa**t * s ** (p - 2)
        total = 0.0
        for x in w:
            q = level(x, z)
            error = x - s * (q - z)
            e = math.copysign(max(abs(error) - abs(error) ** (p - 1) / now, 0.0), error) if error else 0.0
            total += q - (x - e) / s
        z = total / len(w)
        if objective(z) < objective(best):
            best = z
    return best


@pytest.mark.parametrize(("bits", "p", "beta", "kappa"), [(2, 0.7, 7.0, 1.01), (3, 0.5, 12.0, 1.3), (4, 0.9, 5.0, 1.0)])
@pytest.mark.parametrize("iterations", [1, 2, 12])
def test_zero_points_are_those_of_the_formula(bits: int, p: float, beta: float, kappa: float, iterations: int) -> None:
    w = laplace(20, 24, seed=bits)
    hqq = HQQ(bits=bits, group=24, p=p, beta=beta, kappa=kappa, iterations=iterations, **EXACT)
    zero = hqq.quantize(Source.of([("w", w)])).parameters["zero"]
    wanted = torch.tensor([zero_by_hand(row, bits, p, beta, kappa, iterations) for row in w.double().tolist()])
    torch.testing.assert_close(zero, wanted, atol=1e-4, rtol=1e-4)
    first = HQQ(bits=bits, group=24, iterations=0, **EXACT).quantize(Source.of([("w", w)])).parameters["zero"]
    assert (zero != first).sum() > 1


@pytest.mark.parametrize("kept", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("p", [0.4, 0.7, 1.0])
def test_no_group_has_a_larger_objective_than_with_its_first_zero_point(bits: int, p: float, kept: str) -> None:
    w = torch.cat([laplace(15, 64), normal(15, 64), 0.3 + 1e-3 * normal(5, 64)])
    fields: dict[str, Any] = {"bits": bits, "p": p, "scales": "float32", "zeros": kept}
    errors = [(w - decoded(HQQ(iterations=n, **fields), w)).abs().pow(p).sum(1) for n in (0, 20)]
    assert (errors[1] <= errors[0] * (1 + 1e-4))[:30].all()
    assert (errors[1] <= errors[0] * 1.01).all()  # a step of 1e-5 is small beside the float32 rounding of 0.3
    if bits < 8 or kept == "float32":
        assert errors[1].sum() < 0.995 * errors[0].sum()


@pytest.mark.parametrize("bits", [2, 4])
def test_weights_times_a_factor_decode_to_values_times_the_factor(bits: int) -> None:
    w = laplace(30, 50)
    for scales, powers in (("float32", (-90, -9, 1, 30)), ("float16", (-3, 3))):
        hqq = HQQ(bits=bits, group=32, scales=scales)  # type: ignore[arg-type]
        for power in powers:
            assert torch.equal(decoded(hqq, w * 2.0**power), decoded(hqq, w) * 2.0**power)
    errors = [(w - decoded(HQQ(bits=bits, group=32, **EXACT), c * w) / c).abs().pow(0.7).mean() for c in (1.0, 7.3)]
    torch.testing.assert_close(errors[1], errors[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("draw", [laplace, normal])
def test_errors_are_no_larger_than_those_of_the_authors_package(draw: Any, group: int, bits: int) -> None:
    pytest.importorskip("hqq", reason="the package hqq is not installed")
    w = draw(200, 256)
    mine, theirs = (w - decoded(one(bits=bits, group=group), w) for one in (HQQ, HQQPackage))
    assert mine.abs().pow(0.7).mean() < 0.99 * theirs.abs().pow(0.7).mean()
    assert mine.abs().mean() < 0.99 * theirs.abs().mean()
    assert mine.square().mean() < 1.002 * theirs.square().mean()


@pytest.mark.parametrize("kept", ["float16", "bfloat16"])
def test_zero_points_take_two_bytes_and_cost_little(kept: str) -> None:
    w = laplace(100, 64)
    q = HQQ(group=32, zeros=kept).quantize(Source.of([("w", w)]))  # type: ignore[arg-type]
    assert q.structure is not None
    assert q.structure.stored["zero"] == getattr(torch, kept)
    rounded, exact = ((w - decoded(HQQ(group=32, zeros=z), w)).abs().mean() for z in (kept, "float32"))  # type: ignore[arg-type]
    assert rounded < 1.02 * exact


@pytest.mark.parametrize("kept", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bits", [2, 4])
def test_nearly_equal_weights_far_from_zero_are_decoded_within_their_type_s_precision(bits: int, kept: str) -> None:
    """A zero point of thousands, as the range alone would ask for, would be off by whole levels."""
    for spread in (1e-2, 1e-4, 1e-6):
        drawn = torch.rand(20, 32, generator=torch.Generator().manual_seed(1))
        w = torch.cat([0.5 + spread * drawn, -0.5 - spread * drawn])
        q = HQQ(bits=bits, group=32, scales="float32", zeros=kept).quantize(Source.of([("w", w)]))  # type: ignore[arg-type]
        if kept != "float32":
            assert q.structure is not None
            assert "zero" in q.structure.stored
        error = (w - q.reconstruct().reshape(w.shape)).abs().max()
        eps = torch.finfo(getattr(torch, kept)).eps
        assert error <= max(0.6 * spread / (2**bits - 1), 0.5 * 8 * max(eps, 2.0**-20)) * 1.1


@pytest.mark.parametrize("value", [0.0, 0.3, -0.7])
def test_a_group_of_one_value_is_deployed_as_it_was(value: float) -> None:
    w = torch.full((3, 5), value)
    torch.testing.assert_close(decoded(HQQ(scales="float32"), w), w)
