"""Compiled loops over rows with a scale each give the bits that torch's operations give."""

from __future__ import annotations

import pytest
import torch
from nqbench_quantizers import block_levels
from nqbench_quantizers.rtn import RTN
from nqbench_quantizers.tabled import FP4, FP8, NF4

from nqbench.api import Quantizer, Source, chunks


def rows() -> torch.Tensor:
    """Noise of many sizes; zeros, one value, denormal and huge numbers; halves that are rounded to even."""
    noise = torch.randn(40, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(-40, 17, 40)[:, None]
    odd = torch.zeros(4, 24)
    odd[1], odd[2, 3], odd[3] = 0.7, 1e-45, torch.arange(24) / 2 - 6
    return torch.cat([noise, odd])


@pytest.mark.parametrize(("lowest", "highest"), [(-7, 7), (0, 15), (-32767, 32767)])
@pytest.mark.parametrize("with_zero", [False, True])
def test_levels_and_extremes(monkeypatch: pytest.MonkeyPatch, lowest: int, highest: int, with_zero: bool) -> None:
    w = rows()
    scale = w.abs().amax(1) / highest
    scale[-1] = 1.0
    zero = torch.randint(0, 9, (len(w),)).float() if with_zero else None
    mine = (*block_levels.extremes(w), block_levels.grid_levels(w, scale, zero, lowest, highest))
    monkeypatch.setattr(chunks, "on_torch", lambda tensor: True)
    theirs = (*block_levels.extremes(w), block_levels.grid_levels(w, scale, zero, lowest, highest))
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert theirs[2].dtype == mine[2].dtype == torch.int32


@pytest.mark.parametrize("quantizer", [RTN(bits=4), RTN(symmetric=False, granularity="group", group=7, bits=3),
                                       NF4(group=8), FP4(group=5), FP8(), FP8(layout="e5m2")])  # fmt: skip
def test_whole_quantizers(monkeypatch: pytest.MonkeyPatch, quantizer: Quantizer) -> None:
    source = Source.of([("a", rows().clamp(-1e18, 1e18)), ("b", torch.ones(3)), ("c", torch.zeros(2, 0))])
    mine = quantizer.quantize(source)
    monkeypatch.setattr(chunks, "on_torch", lambda tensor: True)
    theirs = quantizer.quantize(source.with_(shared={}))
    assert torch.equal(mine.symbols, theirs.symbols)
    assert torch.equal(mine.reconstruct(), theirs.reconstruct())
