"""Faults that lay beside what suites have: layouts, tiny weights, constants, inputs that are always 0."""

from __future__ import annotations

import pytest
import torch
from nqbench_quantizers.awq import AWQ
from nqbench_quantizers.ecsq import ECSQ
from nqbench_quantizers.gptq import GPTQ
from nqbench_quantizers.pq import PQ, RVQ
from nqbench_quantizers.tabled import FP4
from nqbench_quantizers.uniform import Uniform
from pydantic import ValidationError
from torch import Tensor

from nqbench.api import Diagonal, Moments, SecondMoments, Source, SourceTensor


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments(m: int, groups: int = 1) -> Tensor:
    x = drawn(groups, 4 * m, m, seed=1) * torch.linspace(0.3, 2, m)
    return x.mT @ x / (4 * m)


def case(kind: str) -> Source:
    shape, mask, packed = (24, 16), None, Moments(moments(16), 0).packed()
    if kind == "pruned":
        mask = drawn(24, 16, seed=2) > -1.2
    if kind == "transposed":
        packed = Moments(moments(24), 1).packed()
    if kind == "embedding":
        packed = Moments(drawn(1, 1, 24, seed=3).square() + 0.1, 1).packed()
    w = drawn(*shape)
    kept = w.reshape(-1) if mask is None else w[mask]
    return Source(kept, (SourceTensor("w", shape, 0, len(kept), mask, 1),), SecondMoments((packed,)))


@pytest.mark.parametrize("kind", ["pruned", "transposed", "embedding"])
@pytest.mark.parametrize("books", [1, 2, 3])
@pytest.mark.parametrize("method", [PQ, RVQ])
def test_refining_makes_no_vector_another_codebook_s(method: type[PQ] | type[RVQ], books: int, kind: str) -> None:
    """What a decoder reads after refinement is as near as before it, whatever the layout of the moments."""
    source = case(kind)
    errors = []
    for refinements in (0, 4):
        q = method(k=16, d=2, books=books, refinements=refinements).quantize(source)
        errors.append(float((q.reconstruct() - source.weights).square().mean()))
    assert errors[1] <= 1.25 * errors[0]


@pytest.mark.parametrize("size", [1e-6, 1e-8, 1e-12])
def test_codewords_that_float16_cannot_hold_stay_float32(size: float) -> None:
    w = drawn(512) * size
    errors = [
        float((PQ(k=16, d=2, half=half).quantize(Source(w)).reconstruct() - w).double().square().mean())
        for half in (True, False)
    ]
    assert errors[0] <= 1.01 * errors[1]


def test_figures_of_a_step_a_layer_are_those_of_all_weights() -> None:
    w = torch.cat([drawn(100) * 0.05, torch.zeros(900)])
    tensors = (SourceTensor("a", (100,), 0, 100), SourceTensor("b", (900,), 100, 1000))
    q = Uniform(step=0.5, granularity="layer").quantize(Source(w, tensors))
    counts = torch.bincount(q.symbols).double() / 1000
    entropy = -(counts[counts > 0] * counts[counts > 0].log2()).sum()
    assert q.statistics["entropy"] == pytest.approx(float(entropy))
    assert q.statistics["distortion"] == pytest.approx(float((q.reconstruct() - w).square().mean()), rel=1e-4)


def test_what_cannot_be_both_is_refused() -> None:
    with pytest.raises(ValidationError, match="powers: true needs scales that can be powers of two"):
        FP4(powers=True)
    with pytest.raises(ValidationError, match="curvature cannot be combined with a dither"):
        GPTQ(step=0.1, curvature=0.5, dither=True)


@pytest.mark.parametrize("beam_width", [1, 2])
@pytest.mark.parametrize("lam", [0.0, 0.1])
def test_weights_of_inputs_that_are_always_0_cost_nothing(lam: float, beam_width: int) -> None:
    gram = moments(20)
    gram[:, :3] = 0
    gram[:, :, :3] = 0
    w = drawn(16, 20).mul(0.5)
    source = Source(w.reshape(-1), (SourceTensor("w", (16, 20), 0, 320),), SecondMoments((Moments(gram, 0).packed(),)))
    source = source.with_(rate=_bits)
    value = GPTQ(step=0.2, lam=lam, beam_width=beam_width, damping=0).quantize(source).reconstruct().reshape(16, 20)
    assert not value[:, :3].any()
    assert value[:, 3:].any()


def _bits(counts):  # type: ignore[no-untyped-def]
    import numpy as np

    return -np.log2((counts + 1.0) / (counts + 1.0).sum())


def test_a_warm_start_is_the_caller_s_own_and_not_the_first_one_s() -> None:
    w = drawn(400)
    shared: dict[object, object] = {}

    def source(levels: int) -> Source:
        warm = Uniform(k=levels).quantize(Source(w))
        return Source(w, sensitivity=Diagonal(torch.ones(400)), previous=warm, shared=shared)

    method = ECSQ(lam=0.01)
    method.quantize(source(2))
    again, alone = method.quantize(source(9)), method.quantize(Source(w, previous=Uniform(k=9).quantize(Source(w))))
    assert torch.equal(again.reconstruct(), alone.reconstruct())


@pytest.mark.parametrize("outputs", [16, 12])
def test_a_stack_of_matrices_has_no_factors_along_its_outputs(outputs: int) -> None:
    w = drawn(3, outputs, 16)
    packed = Moments(moments(16, 3), 0).packed()
    given = Source(w.reshape(-1), (SourceTensor("w", tuple(w.shape), 0, w.numel()),), SecondMoments((packed,)))
    value = AWQ(bits=4, group=8).quantize(given).reconstruct()
    assert float((value - given.weights).square().mean()) < 0.02
