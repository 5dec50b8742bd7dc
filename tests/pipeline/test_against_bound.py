"""How far a network is from its weights and from the rate-distortion bound, as its record has it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from nqbench.api import Moments, QuantizedModel
from nqbench.pipeline import distortion
from nqbench.pipeline.distortion import against_bound, distortions, spectra_of, summed


def test_of_white_inputs_the_bound_is_that_of_the_weights_error() -> None:
    """H = I: half the logarithm of power over error, and that quotient itself; several layers by their weights."""
    weights = {"a": torch.randn(30, 8), "b": torch.randn(10, 4, 3)}
    deployed = {name: value + 0.1 * torch.randn(value.shape) for name, value in weights.items()}
    moments = {"a": torch.eye(8)[None], "b": torch.eye(12)[None]}
    found = against_bound(weights, deployed, moments, spectra_of(weights, moments))
    share = {n: float((weights[n] - deployed[n]).double().square().sum() / w.double().square().sum())
             for n, w in weights.items()}  # fmt: skip
    assert found["layer_error"] == pytest.approx((240 * share["a"] + 120 * share["b"]) / 360, rel=1e-5)
    bits = {name: -math.log2(part) / 2 for name, part in share.items()}
    assert found["bound_bits"] == pytest.approx((240 * bits["a"] + 120 * bits["b"]) / 360, rel=1e-5)


@pytest.mark.parametrize("packed", [
    torch.rand(1, 1, 6), torch.rand(4, 1, 6), torch.rand(1, 1, 1, 6), torch.randn(4, 6, 6), torch.randn(1, 2, 6, 6),
], ids=["diagonal", "diagonal by groups", "transposed", "groups", "transposed by groups"])  # fmt: skip
def test_the_error_of_outputs_is_the_trace_whatever_the_layout_and_however_many_rows_at_a_time(
    packed: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = packed if packed.shape[-2] == 1 else packed @ packed.mT
    moments = Moments.of(packed)
    weight = torch.randn((6 * len(moments.gram), 20) if moments.layout else (20, 6))
    error = torch.randn(weight.shape) / 8
    rows = moments.rows(error).double().reshape(len(moments.gram), -1, 6)
    whole = moments.gram.double() if moments.gram.shape[1] > 1 else moments.gram.double()[:, 0].diag_embed()
    trace = float(torch.einsum("gri,gij,grj->", rows, whole, rows))
    spectra = spectra_of({"a": weight}, {"a": packed})
    for chunk in (1, 13, 1 << 17):
        monkeypatch.setattr(distortion, "_CHUNK", chunk)
        found = against_bound({"a": weight}, {"a": weight - error}, {"a": packed}, spectra)
        assert found["layer_error"] * spectra["a"].total == pytest.approx(trace, rel=1e-4)


def test_a_layer_without_power_or_error_has_no_bound() -> None:
    weights, moments = {"a": torch.ones(3, 2)}, {"a": torch.eye(2)[None]}
    assert against_bound(weights, weights, moments, spectra_of(weights, moments)) == {}
    unseen = {"a": torch.zeros(1, 2, 2)}
    assert against_bound(weights, {"a": torch.zeros(3, 2)}, unseen, spectra_of(weights, unseen)) == {}


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_no_digit_of_a_distortion_depends_on_the_number_of_threads() -> None:
    found = set()
    generator = torch.Generator().manual_seed(0)
    weights, values, h = torch.randn(3, 300_000, generator=generator).unbind()
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        figures = distortions(QuantizedModel((), {}), [(weights, values, h.abs())])
        # as for a codec, whole tensors at a time
        found.add((figures["mse"], figures["weighted_mse"], summed((weights.double() - values).square())))
    assert len(found) == 1
    ((mse, weighted, whole),) = found
    errors = [(float(w) - float(q)) ** 2 for w, q in zip(weights, values, strict=True)]
    assert mse == pytest.approx(math.fsum(errors) / 300_000, rel=1e-14)
    assert whole == pytest.approx(math.fsum(errors), rel=1e-14)
    over = math.fsum(abs(float(one)) * error for one, error in zip(h, errors, strict=True))
    assert weighted == pytest.approx(over / 300_000, rel=1e-14)
