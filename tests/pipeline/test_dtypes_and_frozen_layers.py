"""What a network's dtypes and frozen layers change of a file's figures, and what they must not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_networks import BUILDERS, CLASSES, INPUTS, Own, own_trial, run
from torch import nn

from nqbench.container import read
from nqbench.pipeline.decoder import Decoder
from nqbench.registry import registry


def _net(*, frozen: bool = False, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(INPUTS, 40), nn.ReLU(), nn.Linear(40, CLASSES))
    if frozen:
        net[0].requires_grad_(False)
    return net.to(dtype)


class _Narrow(nn.Module):
    """A bfloat16 network that takes float32 inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _net(dtype=torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.net(x.bfloat16())
        return outputs.float()


BUILDERS["plain"] = _net
BUILDERS["frozen"] = lambda: _net(frozen=True)
BUILDERS["bfloat16"] = _Narrow


@pytest.mark.parametrize("training", [(), (("finetune", {"epochs": 1}),), (("straight-through", {"epochs": 1}),)])
@pytest.mark.parametrize("sensitivity", [None, ("hessian", {}), ("fisher", {}), ("hutchinson", {}), ("adam", {})])
def test_a_frozen_layer_is_a_weight_like_any_other(
    decoder: Decoder, tmp_path: Path, training: tuple[tuple[str, dict[str, int]], ...], sensitivity: object
) -> None:
    # a frozen bias stays what it is in a training, so that the files differ in nothing where nothing trains
    fields = {"training": training, "sensitivity": sensitivity, "unquantized": "float16"}
    plain = run(decoder, own_trial("plain", **fields), tmp_path)
    frozen = run(decoder, own_trial("frozen", **fields), tmp_path)
    assert frozen["weights"] == plain["weights"] == 40 * INPUTS + 40 * CLASSES
    assert frozen["parts"]["raw_parameters"] == 2 * (40 + CLASSES)
    if not training:
        assert frozen["decoded_sha256"] == plain["decoded_sha256"]
        assert frozen["file_bytes"] == plain["file_bytes"]
        assert frozen["ratio"] == plain["ratio"]


def test_a_bfloat16_network_has_a_ratio_to_its_own_bytes_too(decoder: Decoder, tmp_path: Path) -> None:
    figures = run(decoder, own_trial("bfloat16"), tmp_path)
    numbers = 40 * INPUTS + 40 + 40 * CLASSES + CLASSES
    assert figures["file_ratio"] == 4 * numbers / figures["file_bytes"]
    assert figures["own_ratio"] == 2 * numbers / figures["file_bytes"]
    assert figures["ratio"] == figures["file_ratio"]
    (path,) = tmp_path.iterdir()
    assert {t.dtype for t in read(path, registry()).tensors.values()} == {torch.bfloat16}


def test_a_network_from_a_small_file_has_a_ratio_to_that_file(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights were quantized before (GGUF), so that a comparison with float32 would count what others did."""
    monkeypatch.setattr(Own, "stored_bytes", lambda self: 300)
    figures = run(decoder, own_trial("plain"), tmp_path)
    assert figures["own_ratio"] == 300 / figures["file_bytes"] < 1 < figures["file_ratio"]
