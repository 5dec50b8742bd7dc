"""What a network's dtypes and frozen layers change of a file's figures, and what they must not change; which buffers
ratios count."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_networks import BUILDERS, CLASSES, INPUTS, Own, own_trial, run
from torch import nn

from nqbench.container import read, read_sections
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.network import Network
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


class _Buffers(nn.Module):
    """Two batch norms, one of them under two names, an instance norm with statistics, and a learnt code book."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, 8), nn.Linear(8, CLASSES)
        self.norm, self.plain = nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False)
        self.again = self.norm
        self.instance = nn.InstanceNorm1d(8, track_running_stats=True)
        self.register_buffer("code", torch.randn(100, 8))
        for norm in (self.norm, self.plain):
            norm.running_mean = torch.randn(8)
            norm.running_var = torch.rand(8) + 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.again(self.plain(self.norm(self.first(x))))
        hidden = self.instance(hidden[:, :, None])[:, :, 0] + self.code.mean(0)
        outputs: torch.Tensor = self.last(hidden)
        return outputs


BUILDERS["buffers"] = _Buffers
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


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def test_a_ratio_leaves_out_the_statistics_of_batch_norms_and_counts_every_other_buffer(
    decoder: Decoder, tmp_path: Path
) -> None:
    figures = run(decoder, own_trial("buffers"), tmp_path)
    # a mean and a variance of eight float32 and an int64 each, once
    assert figures["batchnorm_bytes"] == 2 * (2 * 4 * 8 + 8)
    parameters = 8 * INPUTS + 8 + 8 * CLASSES + CLASSES + 2 * 8
    assert figures["ratio"] == 4 * parameters / (figures["file_bytes"] - figures["batchnorm_bytes"])
    (path,) = tmp_path.iterdir()
    sections = read_sections(path)
    assert sum(sections.buffers.values()) == figures["parts"]["raw_buffers"] == sections.parts["raw_buffers"]
    assert sections.buffers["code"] == 4 * 100 * 8


@pytest.mark.parametrize("unquantized", ["float32", "float16-all"])
@pytest.mark.parametrize("fold_batchnorm", [False, True])
def test_batch_norms_bytes_are_those_of_the_file_however_they_are_stored(
    decoder: Decoder, tmp_path: Path, unquantized: str, fold_batchnorm: bool
) -> None:
    figures = run(decoder, own_trial("buffers", unquantized=unquantized, fold_batchnorm=fold_batchnorm), tmp_path)
    each = 4 if unquantized == "float32" else 2
    # a counter is of one element; the norm that is folded is not: it has two names
    assert figures["batchnorm_bytes"] == 2 * (2 * each * 8 + 8)


@pytest.mark.parametrize("export", ["scripted", "exported"])
def test_an_exported_network_has_its_batch_norms_statistics_too(export: str) -> None:
    net = nn.Sequential(nn.Linear(INPUTS, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)).eval()
    x = torch.randn(2, INPUTS)
    module = torch.jit.script(net) if export == "scripted" else torch.export.export(net, (x,)).module()
    assert Network.of(Own(network="plain"), module).statistics == {f"1.{name}" for name in STATISTICS}
