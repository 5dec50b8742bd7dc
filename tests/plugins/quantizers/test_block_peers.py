"""Other libraries' codes give what the libraries themselves deploy, up to their scales' float16."""

from __future__ import annotations

import pytest
import torch
from nqbench_quantizers.block_peers import HQQPackage, Quanto, TorchAO

from nqbench.api import Source
from nqbench.testing.sources import laplace


def test_hqq_deploys_what_its_package_dequantizes() -> None:
    library = pytest.importorskip("hqq.core.quantize", reason="the package hqq is not installed")
    w = laplace(12, 32)
    codes, meta = library.Quantizer.quantize(w, nbits=4, group_size=16, axis=1, device="cpu")
    theirs = library.Quantizer.dequantize(codes, meta).float().reshape(w.shape)
    mine = HQQPackage(group=16).quantize(Source.of([("w", w)])).reconstruct().reshape(w.shape)
    torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-3 * float(w.abs().max()))


def test_quanto_deploys_what_its_package_dequantizes() -> None:
    quanto = pytest.importorskip("optimum.quanto", reason="the package optimum-quanto is not installed")
    w = laplace(12, 32)
    scale, shift = quanto.MaxOptimizer()(w, quanto.qint4, axis=0, group_size=None)
    # its own dequantization compiles C++ first: its formula is scale q - shift
    theirs = scale * ((w + shift) / scale).round().clamp(0, 15) - shift
    mine = Quanto(granularity="channel").quantize(Source.of([("w", w)])).reconstruct().reshape(w.shape)
    torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-3 * float(w.abs().max()))


def test_torchao_deploys_what_its_package_dequantizes() -> None:
    ao = pytest.importorskip("torchao.quantization.quant_primitives", reason="the package torchao is not installed")
    w = laplace(12, 32)
    scale, zero = ao.choose_qparams_affine(w, ao.MappingType.ASYMMETRIC, (1, 16), torch.uint8, quant_min=0, quant_max=7)
    codes = ao.quantize_affine(w, (1, 16), scale, zero, torch.uint8, quant_min=0, quant_max=7)
    theirs = ao.dequantize_affine(codes, (1, 16), scale, zero, torch.uint8, quant_min=0, quant_max=7)
    mine = TorchAO(bits=3, group=16).quantize(Source.of([("w", w)])).reconstruct().reshape(w.shape)
    torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-3 * float(w.abs().max()))


@pytest.mark.parametrize(("peer", "package"), [(HQQPackage, "hqq"), (Quanto, "optimum.quanto"), (TorchAO, "torchao")])
def test_groups_of_one_value_are_kept(peer: type, package: str) -> None:
    pytest.importorskip(package, reason="the package is not installed")
    w = torch.cat([torch.full((1, 8), -0.75), torch.zeros(1, 8), torch.full((1, 8), 0.5), laplace(1, 8)])
    value = peer(group=8).quantize(Source.of([("w", w)])).reconstruct().reshape(4, 8)
    assert torch.equal(value[:3], w[:3])
