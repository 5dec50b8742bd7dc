"""``lossless``: every bit of every float comes back, in fewer bytes than exponents by themselves take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nqbench_coders.lossless import Lossless

from nqbench.api import CorruptFile

DTYPES = {torch.float32: 32, torch.float16: 16, torch.bfloat16: 16, torch.float64: 64}


def of_bits(bits: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    width = DTYPES[dtype]
    return torch.from_numpy(bits.astype(f"uint{width}").view(f"int{width}")).view(dtype)


def came_back(tensors: dict[str, torch.Tensor], codec: Lossless) -> int:
    """Bytes, once all bits are compared."""
    arrays = {name: codec.array_of(tensor) for name, tensor in tensors.items()}
    data = codec.compress(arrays, 0)
    back = codec.decompress(data, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        whole = codec.tensor_of(back[name], tensor.dtype)
        assert whole.dtype == tensor.dtype
        assert whole.shape == tensor.shape
        assert arrays[name].tobytes() == back[name].tobytes()
    return len(data)


@st.composite
def states(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors of any bits, of weights, of few values, of weights and outliers; of any shape and dtype."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tensors = {}
    for i in range(draw(st.integers(0, 4))):
        shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3, 7, 40]), max_size=4)))
        dtype, kind = (
            draw(st.sampled_from(list(DTYPES))),
            draw(st.sampled_from(["bits", "weights", "few", "mixed", "zeros"])),
        )
        weights = torch.from_numpy(np.array(rng.laplace(0, 10.0 ** rng.integers(-6, 4), shape)))
        bits = np.array(rng.integers(0, 1 << DTYPES[dtype], shape, dtype=np.uint64))
        if kind == "few":
            values = rng.integers(0, 1 << DTYPES[dtype], 5, dtype=np.uint64)
            bits = np.array(values[rng.integers(0, 5, shape)])
        tensor = weights.to(dtype) if kind in ("weights", "mixed", "zeros") else of_bits(bits, dtype)
        if kind == "zeros":
            tensor = tensor * torch.from_numpy(np.array(rng.integers(-1, 2, shape)))  # 0 and -0
        if kind == "mixed":
            tensor = torch.where(torch.from_numpy(np.array(rng.random(shape) < 0.1)), of_bits(bits, dtype), tensor)
        tensors[str(i)] = tensor.to(dtype)
    return tensors


@settings(max_examples=150, deadline=None)
@given(tensors=states(), coder=st.sampled_from(["context", "rans"]))
def test_every_bit_comes_back(tensors: dict[str, torch.Tensor], coder: str) -> None:
    came_back(tensors, Lossless.model_validate({"coder": coder}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_there_are_of_sixteen_bits_come_back(dtype: torch.dtype) -> None:
    came_back({"all": of_bits(np.random.default_rng(0).permutation(1 << 16), dtype)}, Lossless())


def test_bits_that_a_wider_dtype_adds_cost_nothing() -> None:
    weights = torch.from_numpy(np.random.default_rng(1).laplace(0, 0.1, (200, 300))).to(torch.bfloat16)
    narrow = came_back({"w": weights}, Lossless())
    assert came_back({"w": weights.float()}, Lossless()) <= narrow + 8
    assert came_back({"w": weights.double()}, Lossless()) <= narrow + 8


def test_few_values_cost_their_entropy() -> None:
    """A quantized network stored as floats: 16 values, equally often, are 4 bits a weight and a table of 64 bytes."""
    rng = np.random.default_rng(2)
    weights = torch.from_numpy(rng.normal(size=16).astype(np.float32))[torch.from_numpy(rng.integers(0, 16, 40000))]
    assert came_back({"w": weights}, Lossless()) <= 40000 * 4 / 8 * 1.01 + 64 + 64


@pytest.mark.parametrize("kept", [0.1, 0.5])
def test_pruned_weights_cost_no_more_than_where_they_are(kept: float) -> None:
    rng = np.random.default_rng(3)
    mask = rng.random(60000) < kept
    weights = np.where(mask, rng.normal(size=60000), 0).astype(np.float32)
    alone = came_back({"w": torch.from_numpy(weights[mask])}, Lossless())
    entropy = -(kept * np.log2(kept) + (1 - kept) * np.log2(1 - kept)) * 60000 / 8
    assert came_back({"w": torch.from_numpy(weights)}, Lossless()) < 1.01 * (alone + entropy)


@pytest.mark.parametrize(("dtype", "mantissa"), [(torch.float32, 23), (torch.bfloat16, 7), (torch.float16, 10)])
def test_independent_weights_cost_less_than_exponents_by_themselves(dtype: torch.dtype, mantissa: int) -> None:
    """Of a Gaussian, exponents, with one table, and the other bits as they are: H(exponent) + 1 + bits of the mantissa;
    and scales that differ by filter are found, which one table does not see."""
    rng = np.random.default_rng(4)
    plain = torch.from_numpy(rng.normal(0, 0.02, (64, 1000))).to(dtype)
    scaled = torch.from_numpy(rng.normal(0, 0.02, (64, 1000)) * np.exp(rng.normal(0, 1, (64, 1)))).to(dtype)
    for weights, part in ((plain, 1.0), (scaled, 0.985)):
        exponents = torch.frexp(weights.double())[1].numpy().reshape(-1)
        counts = np.unique(exponents, return_counts=True)[1]
        bits = -(counts * np.log2(counts / counts.sum())).sum() / counts.sum() + 1 + mantissa
        assert 8 * came_back({"w": weights}, Lossless()) < part * bits * weights.numel()


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), coder=st.sampled_from(["context", "rans"]))
def test_damaged_bytes_are_refused_or_give_floats(seed: int, coder: str) -> None:
    rng = np.random.default_rng(seed)
    codec = Lossless.model_validate({"coder": coder})
    arrays = {
        "a": rng.laplace(size=(6, 5)).astype(np.float32),
        "b": (rng.integers(0, 3, 40) * 0.5).astype(np.float16),
        "c": rng.integers(0, 1 << 16, 20).astype(np.uint16),
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    data = bytearray(codec.compress(arrays, 0))
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(0, min(len(data), 60) if rng.random() < 0.5 else len(data))] = rng.integers(0, 256)
    if rng.random() < 0.2:
        data = data[: rng.integers(0, len(data))]
    try:
        back = codec.decompress(bytes(data), shapes)
    except CorruptFile:
        return
    assert {name: array.shape for name, array in back.items()} == shapes


def test_bits_of_bfloat16_are_of_no_other_dtype() -> None:
    codec = Lossless()
    weights = of_bits(np.arange(1 << 16), torch.bfloat16)
    with pytest.raises(ValueError, match="uint16 for a tensor of float16"):
        codec.tensor_of(codec.array_of(weights), torch.float16)
    assert torch.equal(
        codec.tensor_of(codec.array_of(weights), torch.bfloat16).view(torch.int16), weights.view(torch.int16)
    )
