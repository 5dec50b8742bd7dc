"""A tensor that a quantizer cannot take goes to a plain grid, is told of, and fails no file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from nqbench_quantizers.gptq import GPTQ
from nqbench_training.second_moments import SecondMoments
from nqbench_training.sequential import Sequential
from tiny_network import make_task

from nqbench.api import BadInput, Quantized, Source
from nqbench.api.toolkit.fallback import ERROR, plain_grid
from nqbench.pipeline.artifacts import load_quantized, save_quantized


class Fussy(GPTQ, name="fussy"):
    """Takes no tensor of the shape (6, 16)."""

    def quantize(self, source: Source) -> Quantized:
        if source.tensors[0].shape == (6, 16):
            raise BadInput("no six by sixteen")
        return super().quantize(source)


@pytest.mark.parametrize("correction", [0.0, 1.0])
@pytest.mark.parametrize("passes", ["one", "each"])
def test_the_others_go_on_and_the_notes_say_why(correction: float, passes: str, tmp_path: Path) -> None:
    task = make_task(quantizer=Fussy(step=0.1), granularity="layer", sensitivity=SecondMoments())
    was = task.weights()
    result = Sequential(fallback=True, correction=correction, passes=passes).train(task, None)  # type: ignore[arg-type]
    assert result.notes == {"6.weight": "rounded to a plain grid: no six by sixteen"}
    deployed = task.reconstruct(result.groups)
    assert all(torch.equal(deployed[name], task.parameter(name)) for name in task.names)
    w = was["6.weight"].double()
    error = float((deployed["6.weight"].double() - w).square().mean()) / float(w.var(unbiased=False))
    assert 0.3 * ERROR < error < 2 * ERROR
    save_quantized(result, tmp_path / "q.safetensors")
    assert load_quantized(tmp_path / "q.safetensors").notes == result.notes


def test_without_it_the_file_fails() -> None:
    task = make_task(quantizer=Fussy(step=0.1), granularity="layer", sensitivity=SecondMoments())
    with pytest.raises(BadInput, match="no six by sixteen"):
        Sequential().train(task, None)


@pytest.mark.parametrize(
    "weights",
    [
        torch.zeros(5),
        torch.full((4,), -0.3),
        torch.tensor([2.0]),
        torch.tensor([1e-30, 2e-30, -1e-30]),
        torch.tensor([1e18, 1.0, -2.0]),
        torch.cat([torch.randn(1000, generator=torch.Generator().manual_seed(0)), torch.tensor([1e4])]),
        torch.tensor([1e18, -1e18, 1.0]),
    ],
)
def test_a_plain_grid_takes_whatever_a_source_holds(weights: torch.Tensor) -> None:
    q = plain_grid(Source(weights))
    assert q.alphabet <= 1 << 16
    back = q.reconstruct().double()
    assert bool(torch.isfinite(back).all())
    if len(set(weights.tolist())) == 1:
        assert torch.equal(back.float(), weights), "equal weights stay as they are"
    step = float(q.parameters["step"])
    assert float((back - weights.double()).abs().max()) <= 0.51 * step
    assert math.isfinite(step)
