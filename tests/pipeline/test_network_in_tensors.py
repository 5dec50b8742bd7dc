"""A loaded network taken apart into tensors, and put together again, whatever its tensors share and hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nqbench.api import Model
from nqbench.container import as_stored
from nqbench.pipeline import filing
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.network import Network, fold_batchnorms


class Given(Model, name="given"):
    def fingerprint(self) -> str:
        return "given"


def of(module: nn.Module) -> Network:
    return Network.of(Given(), module.eval())


@pytest.mark.parametrize("variance", [1e12, 1e16])
@pytest.mark.parametrize("all_channels", [True, False])
def test_a_folded_batch_norm_keeps_its_scales_in_float16(variance: float, all_channels: bool) -> None:
    """Inputs of a huge variance make scales that float16 has as zero or a few units."""
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    norm = module[1]
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 8))
        norm.bias.copy_(torch.linspace(-1, 1, 8))
        norm.running_var.fill_(variance)
        if not all_channels:
            norm.running_var[:4] = 1.0
    network = of(module)
    x = norm.running_var.sqrt() * torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    folded = fold_batchnorms(network, {n: t for n, t in network.state.items() if n.startswith("1.")})
    like = nn.BatchNorm1d(8).eval()
    like.load_state_dict(
        {n[2:]: as_stored(t, "float16", parameter=n[2:] in ("weight", "bias")) for n, t in folded.items()}
    )
    torch.testing.assert_close(like(x), norm(x), rtol=2e-3, atol=2e-3)


class Centred(nn.BatchNorm1d):
    """Its scale is 1 + weight."""

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 + self.weight
        return functional.batch_norm(x, self.running_mean, self.running_var, scale, self.bias, False, 0.0, self.eps)


class Activated(nn.BatchNorm2d):
    """As timm's: the usual formula, written out, then an activation, in place."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.ndim == 4
        x = functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.0, self.eps
        )
        return functional.relu_(x)


class Sequences(nn.BatchNorm1d):
    """Takes three axes alone."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, steps = x.shape
        return super().forward(x.transpose(1, 2).reshape(batch * steps, channels)).view(batch, steps, channels)


class Doubtful(nn.BatchNorm1d):
    """No input that one could think of is what it takes."""

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return super().forward(x) * condition


def patched(bound: bool) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(8)
    usual = nn.BatchNorm1d.forward
    if bound:  # to this layer: a copy computes with its tensors, too
        norm.forward = lambda x: usual(norm, x) + norm.weight  # type: ignore[method-assign]
    else:
        norm.forward = MethodType(lambda self, x: usual(self, x).relu(), norm)  # type: ignore[method-assign]
    return norm


@pytest.mark.parametrize(
    ("make", "folds"),
    [
        (lambda: nn.BatchNorm1d(8), True),
        (lambda: nn.SyncBatchNorm(8), True),
        (lambda: Activated(8), True),
        (lambda: Activated(8).bfloat16(), True),
        (lambda: Sequences(8), True),
        (lambda: patched(bound=False), True),
        (lambda: Centred(8), False),
        (lambda: Doubtful(8), False),
        (lambda: patched(bound=True), False),
    ],
    ids=["usual", "sync", "activated", "half", "sequences", "patched", "centred", "doubtful", "bound"],
)
def test_a_batch_norm_of_another_formula_is_not_folded(make: Callable[[], nn.BatchNorm1d], folds: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = make()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(8, generator=generator))
        norm.bias.copy_(torch.randn(8, generator=generator))
        norm.running_mean.copy_(torch.randn(8, generator=generator))  # type: ignore[union-attr]
        norm.running_var.copy_(9 * torch.rand(8, generator=generator) + 0.2)  # type: ignore[union-attr]
    network = of(nn.Sequential(nn.Linear(4, 8), norm))
    raw = {n: t for n, t in network.state.items() if n.startswith("1.")}
    before = {n: t.clone() for n, t in raw.items()}
    state = torch.get_rng_state()
    folded = fold_batchnorms(network, raw)
    assert bool((folded["1.running_mean"] == 0).all()) is folds
    assert all(torch.equal(folded[n], t) for n, t in before.items()) is not folds
    assert all(torch.equal(t, before[n]) for n, t in network.state.items() if n in before), "the layer is as it was"
    assert [t.dtype for t in folded.values()] == [t.dtype for t in before.values()]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_view_that_lies_another_way_is_no_alias() -> None:
    module = nn.Linear(4, 4)
    kept = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    views = {"kept": kept, "again": kept, "transposed": kept.T, "bits": kept.view(torch.int32)}
    for name, view in views.items():
        module.register_buffer(name, view)
    network = of(module)
    assert network.aliases == {"again": "kept"}
    assert all(torch.equal(network.state[name], views[name]) for name in ("kept", "transposed", "bits"))


@pytest.mark.parametrize(("given", "asked"), [(None, 4 * (8 * 4 + 8)), (99, 99)])
def test_a_file_of_a_network_may_stand_for_as_much_as_that(
    monkeypatch: pytest.MonkeyPatch, given: int | None, asked: int
) -> None:
    """However small a part of the memory is left to strangers' files; a limit that somebody set holds."""
    seen: list[int | None] = []

    def answered(self: Decoder, request: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(request["limit"])
        return {"samples": [0.0], "tensors": [], "stored": []}

    monkeypatch.setattr(Decoder, "_ask", answered)
    monkeypatch.setattr(filing, "default_limit", lambda: 10)
    monkeypatch.setattr(filing, "network_of", lambda context: of(nn.Linear(4, 8).half()))
    with closing(Decoder(given)) as decoder:
        context: Any = SimpleNamespace(bench=SimpleNamespace(decoder=decoder))
        filing.decoded_own(context, Path("x.nqz"))
        assert seen == [asked]
        assert decoder.limit == given


def test_a_buffer_that_shows_one_number_many_times_is_filled_in_a_copy() -> None:
    module = nn.Linear(4, 4)
    module.register_buffer("gain", torch.ones(1).expand(4))
    network = of(module)
    values = {"gain": torch.arange(4.0), "weight": torch.eye(4)}
    variant = network.variant(values)
    assert torch.equal(variant.get_buffer("gain"), values["gain"])
    assert torch.equal(module.get_buffer("gain"), torch.ones(4))
