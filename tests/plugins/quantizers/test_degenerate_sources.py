"""Sources that have no spread, no scale, no curvature, or far too much of it.

For every quantizer of this repository: the result is finite; a source of one value is that value, wherever the method's
levels are not fixed in the weights' unit; and the distortion is no more than that of deploying zeros, or than the
method's own bound where its levels are fixed (half a step a weight; the nearest codeword; for error feedback a quarter
of a squared step for each unit of the moments' trace).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from nqbench.api import BadInput, Diagonal, Quantized, Quantizer, SecondMoments, Source, SourceTensor
from nqbench.api.source import LARGEST_WEIGHT
from nqbench.registry import registry
from nqbench.testing import configurations

MORE = [
    ("uniform", {"step": 0.2, "granularity": "layer"}),
    ("uniform", {"k": 8, "granularity": "layer"}),
    ("uniform", {"k": 8, "granularity": "layer", "fixed_zero": True}),
    ("uniform", {"step": 0.2, "granularity": "layer", "centroids": "middle"}),
    ("uniform", {"step": 0.2, "granularity": "layer", "centroids": "middle", "zero": "edge"}),
    ("uniform", {"k": 8, "centroids": "middle"}),
    ("uniform", {"k": 8, "zero": "edge", "centroids": "middle"}),
    ("lattice", {"step": 0.2, "unit": "std"}),
    ("lattice", {"step": 0.2, "unit": "std", "zero": "edge", "d": 3}),
    ("randomized-lattice", {"step": 0.2, "unit": "std"}),
    ("randomized-lattice", {"step": 0.2, "unit": "std", "d": 2, "zero": "edge"}),
    ("ecsq", {"lam": 0.1, "unit": "variance"}),
    ("ecsq-optimal", {"lam": 0.1, "unit": "variance"}),
    ("kmeans", {"k": 4, "optimal": True}),
    ("kmeans", {"k": 4, "init": "kmeans++"}),
    ("kmeans", {"k": 4, "fixed": [0.0]}),
    ("gptq", {"step": 0.2, "granularity": "layer"}),
    ("gptq", {"step": 0.2, "granularity": "layer", "lam": 0.1, "descents": 1, "act_order": True}),
    ("gptq", {"step": 0.2, "granularity": "layer", "beam_width": 4}),
    ("gptq", {"step": 0.2, "granularity": "layer", "dither": True}),
    ("fixed", {"codebook": [-1.0, 0.5, 3.0]}),
]
QUANTIZERS: list[Quantizer] = [
    one
    for entry in registry().all("quantizer")
    if entry.distribution == "nqbench" and not hasattr(entry.cls, "library")
    for one in configurations(entry.cls)
]
QUANTIZERS += [registry().make("quantizer", name, fields) for name, fields in MORE]
FREE = ("uniform", "kmeans", "ecsq", "ecsq-optimal", "binary", "ternary", "powers-of-two", "fixed")
"""Quantizers whose levels follow the weights, unless a step or a scale is given in the weights' unit."""

scales = st.sampled_from([1.0, 0.05, 1e-20, 1e-37, 1e-42, 2.0**-149, 1e6, 1e17, LARGEST_WEIGHT])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """(O, m) float32: zeros, one value, two values next to each other, rows of zeros, one huge weight, noise."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    scale = draw(scales)
    kind = draw(st.sampled_from(["zeros", "one value", "adjacent", "zero rows", "one huge", "noise"]))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) * 0.2
    value = torch.tensor(scale * draw(st.sampled_from([1.0, -1.0, 0.7, -0.3])))
    if kind == "zeros":
        return torch.zeros(shape)
    if kind == "one value":
        return value.expand(shape).clone()
    if kind == "adjacent":
        return torch.where(noise > 0, value, torch.nextafter(value, torch.tensor(0.0)))
    if kind == "zero rows":
        noise[::2] = 0.0
    if kind == "one huge":
        noise = noise * 1e-3
        noise[0, 0] = draw(st.sampled_from([-1e15, 1e15, LARGEST_WEIGHT]))
        return noise
    return (noise.clamp(-1, 1) * scale).float()


@st.composite
def sources(draw: st.DrawFn, quantizer: Quantizer) -> tuple[Source, list[Tensor]]:
    parts = draw(st.lists(tensors(), min_size=1, max_size=3))
    places, start = [], 0
    for number, part in enumerate(parts):
        places.append(SourceTensor(f"t{number}", tuple(part.shape), start, start + part.numel()))
        start += part.numel()
    sensitivity: Diagonal | SecondMoments | None = None
    if "second-moments" in quantizer.takes:
        sensitivity = SecondMoments(tuple(draw(moments(part.shape[1]))[None] for part in parts))
    elif "diagonal" in quantizer.takes and draw(st.booleans()):
        base = torch.rand(start, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
        sensitivity = Diagonal(base.clamp_max(0.5) * draw(st.sampled_from([0.0, 1.0, 1e-44, 3e38])))
    rate = registry().make("coder", "huffman").rate if quantizer.uses_rate() else None
    weights = torch.cat([part.reshape(-1) for part in parts])
    return Source(weights, tuple(places), sensitivity, None, rate, draw(st.integers(0, 9))), parts


@st.composite
def moments(draw: st.DrawFn, m: int) -> Tensor:
    """(m, m): none, of rank 1, with inputs that are never other than 0, huge, tiny, whole."""
    x = torch.randn(m, 2 * m, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    kind = draw(st.sampled_from(["none", "rank 1", "dead inputs", "huge", "tiny", "whole"]))
    if kind == "rank 1":
        x = torch.ones(m, 1)
    if kind == "dead inputs":
        x[::2] = 0.0
    return x @ x.T * {"none": 0.0, "huge": 1e36, "tiny": 1e-44}.get(kind, 1.0)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_degenerate_source_is_quantized_no_worse_than_it_must_be(quantizer: Quantizer, data: st.DataObject) -> None:
    source, parts = data.draw(sources(quantizer))
    knob = quantizer.knob(source)
    assert knob is None or 0 <= knob.low <= knob.high < math.inf
    try:
        q = quantizer.quantize(source)
    except BadInput as error:
        if "take a larger step" not in str(error):  # float32 does not hold so fine a grid so far from zero
            raise
        return
    values = quantizer.reconstruct(q).double()
    assert bool(torch.isfinite(values).all())
    assert all(math.isfinite(figure) for figure in q.statistics.values())
    if "second-moments" in quantizer.takes:
        _held_to_the_feedbacks_bound(source, q, values)
    else:
        _held_to_zero_or_half_a_step(quantizer, source, values)
    _one_value_stays(quantizer, source, parts, values, structured=q.structure is not None)


def _held_to_zero_or_half_a_step(quantizer: Quantizer, source: Source, values: Tensor) -> None:
    w = source.weights.double()
    h = torch.ones_like(w) if source.h is None else source.h.double()
    error = (w - values).abs()
    fields = quantizer.model_dump()
    if isinstance(fields.get("scale"), int | float):  # levels fixed in the weights' unit: each weight has its nearest
        levels = torch.tensor(quantizer.levels()).double() * fields["scale"]  # type: ignore[attr-defined]
        nearest = (w[:, None] - levels).abs().min(1).values
        assert bool((error <= nearest * (1 + 1e-6) + 1e-45).all())
        return
    half = 0.0
    if fields.get("step") is not None:
        relative = fields.get("unit") == "std" or fields.get("granularity") == "layer"
        spread = max(
            _deviation(source.weights), *(_deviation(source.weights[t.start : t.stop]) for t in source.tensors)
        )
        half = 0.5 * fields["step"] * (spread if relative else 1.0)
        half = half * (1 + 1e-5) + 1e-44 + 2e-7 * float(w.abs().max())
    elif fields.get("centroids") == "middle":  # k cells
        half = 2 * float(w.max() - w.min()) / (fields["k"] - 1) + 1e-44 + 1e-6 * float(w.abs().max())
    bound = torch.maximum((h * w * w).sum(), (h * half**2).sum())
    assert float((h * error * error).sum()) <= float(bound) * (1 + 1e-5) + 1e-85


def _deviation(weights: Tensor) -> float:
    return float(weights.double().std(unbiased=False)) if weights.numel() else 0.0


def _held_to_the_feedbacks_bound(source: Source, q: Quantized, values: Tensor) -> None:
    """sum over rows of e H e^T <= step^2 / 4 trace(H + damping): each target is rounded to a level, or to 0 if dead."""
    if source.rate is not None or "beam" in str(q.statistics) or q.structure is not None:
        return  # with a structure a row has several steps: the methods' own tests hold them to their bounds
    steps = q.parameters["step"].double().abs().expand(len(source.tensors))
    assert isinstance(source.sensitivity, SecondMoments)
    for t, h, step in zip(source.tensors, source.sensitivity.matrices, steps, strict=True):
        w = source.weights[t.start : t.stop].double()
        e = (w - values[t.start : t.stop]).reshape(t.shape)
        h = h[0].double()
        trace = float(h.diagonal().sum())
        output = float(((e @ h) * e).sum())
        # 2^-22: float32 steps and values
        slack = trace * t.size * (2.0**-22 * float(w.abs().max())) ** 2
        assert output <= t.shape[0] * float(step) ** 2 / 4 * trace * 1.02 + slack + 1e-80


def _one_value_stays(
    quantizer: Quantizer, source: Source, parts: Sequence[Tensor], values: Tensor, structured: bool
) -> None:
    fields = quantizer.model_dump()
    each = fields.get("granularity") == "layer"
    whole = fields.get("unit") == "std" or (
        quantizer.name in FREE and fields.get("step") is None and fields.get("scale", "learned") == "learned"
    )
    for t, part in zip(source.tensors, parts, strict=True):
        wanted = part.reshape(-1).double()
        alone = bool((source.weights == source.weights[0]).all())
        if bool((wanted == wanted[0]).all()) and (each or (whole and alone)):
            got = values[t.start : t.stop]
            if fields.get("dither") and not alone and float(wanted[0]) != 0:
                room = 0.51 * float(wanted[0].abs())  # of its own step: the dither is added to its level
            elif quantizer.name in ("zn", "d4", "e8") and not alone:
                continue  # a lattice has no point for one value among others: it is as good as its cells
            elif quantizer.name in ("fixed", "powers-of-two") or (each and not alone) or structured:
                # two roundings: of a scale, which may be tiny, and of its product with a level, 2^24 at most
                room = 2.0**-22 * float(wanted[0].abs()) + 2.0**-125
            else:
                room = 0.0
            if quantizer.name == "fixed" and float(wanted[0]) < 0 and min(fields["codebook"]) >= 0:
                continue
            assert float((got - wanted).abs().max()) <= room


@pytest.mark.parametrize("quantizer", [q for q in QUANTIZERS if "second-moments" in q.takes], ids=str)
@pytest.mark.parametrize("first", [False, True])
def test_nothing_is_asked_of_the_moments_of_a_tensor_without_weights(quantizer: Quantizer, first: bool) -> None:
    """Neither of one of no places nor of one that is wholly pruned; the others are quantized as without them."""
    w = torch.randn(4, 6, generator=torch.Generator().manual_seed(5)) * 0.1
    x = torch.randn(6, 20, generator=torch.Generator().manual_seed(6))
    gone = torch.zeros(4, 6, dtype=torch.bool)
    odd, own = torch.full((1, 5, 5), torch.nan), (x @ x.T)[None]
    rate = registry().make("coder", "huffman").rate if quantizer.uses_rate() else None
    at = 0 if first else 24
    empty = [SourceTensor("none", (3, 0), at, at), SourceTensor("gone", (4, 6), at, at, gone)]
    whole = SourceTensor("w", (4, 6), 0, 24)
    parts = [*empty, whole] if first else [whole, *empty]
    h = [odd, odd, own] if first else [own, odd, odd]
    q = quantizer.quantize(Source(w.reshape(-1), tuple(parts), SecondMoments(tuple(h)), rate=rate))
    assert q.sizes == ((0, 0, 24) if first else (24, 0, 0))
    alone = quantizer.quantize(Source(w.reshape(-1), (whole,), SecondMoments((own,)), rate=rate))
    torch.testing.assert_close(quantizer.reconstruct(q), quantizer.reconstruct(alone))


@pytest.mark.parametrize("quantizer", [q for q in QUANTIZERS if "second-moments" in q.takes], ids=str)
@pytest.mark.parametrize("bad_first", [False, True])
@pytest.mark.parametrize(
    ("bad", "told"),
    [(torch.eye(5)[None], "do not fit bad"), (torch.full((1, 6, 6), torch.nan), "moments of bad are not finite")],
)
def test_moments_that_do_not_fit_or_are_not_finite_are_refused_with_their_tensor(
    quantizer: Quantizer, bad: Tensor, told: str, bad_first: bool
) -> None:
    w = torch.randn(4, 6, generator=torch.Generator().manual_seed(5)) * 0.1
    rate = registry().make("coder", "huffman").rate if quantizer.uses_rate() else None
    parts = [("good", torch.eye(6)[None]), ("bad", bad)][:: -1 if bad_first else 1]
    given = Source.of(
        [(name, w) for name, _ in parts], sensitivity=SecondMoments(tuple(h for _, h in parts)), rate=rate
    )
    with pytest.raises(BadInput, match=told):
        quantizer.quantize(given)


def test_a_weight_that_no_network_has_is_refused_with_its_place_and_value() -> None:
    for bad in (-1e30, math.inf, math.nan):
        with pytest.raises(BadInput, match=rf"weight 1 is {bad:g}".replace("+", r"\+")):
            Source(torch.tensor([0.1, bad, 3.0]))
