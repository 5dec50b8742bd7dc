"""Tables by rule, k-quants, product and residual codes: each against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nqbench_quantizers.kquants import Q2K, Q3K, Q4K
from nqbench_quantizers.pq import PQ, RVQ
from nqbench_quantizers.tabled import FP4, FP8, NF4

from nqbench.api import Diagonal, Source
from nqbench.api.tables import table_of
from nqbench.api.toolkit.gguf_blocks import TYPES, Blocks
from nqbench.testing.sources import laplace


def source(*shape: int, seed: int = 0) -> Source:
    return Source.of([("w", laplace(*shape, seed=seed))])


@pytest.mark.parametrize(("quantizer", "rule", "k"), [
    (NF4(group=8, scales="float32"), "nf4", 16), (FP4(group=8, scales="float32"), "fp4", 15),
    (FP8(granularity="group", group=8), "e4m3", 253),
    (FP8(granularity="group", group=8, layout="e5m2"), "e5m2", 247),
])  # fmt: skip
def test_every_weight_goes_to_the_nearest_entry_of_its_block_s_table(quantizer: NF4, rule: str, k: int) -> None:
    given = source(6, 20)
    w = given.weights.reshape(6, 20)
    value = quantizer.quantize(given).reconstruct().reshape(6, 20)
    table = torch.from_numpy(table_of(rule, k).copy())
    for start in (0, 8, 16):
        block = w[:, start : start + 8]
        scale = block.abs().amax(1, keepdim=True) / table.max()
        nearest = (block[..., None] - scale[..., None] * table).abs().amin(2)
        torch.testing.assert_close((block - value[:, start : start + 8]).abs(), nearest, atol=1e-7, rtol=1e-4)


def test_fp8_errs_no_more_than_torch_s_cast() -> None:
    given = source(4, 500)
    w = given.weights.reshape(4, 500)
    scale = w.abs().amax(1, keepdim=True) / 448
    cast = (w / scale).to(torch.float8_e4m3fn).float() * scale
    value = FP8().quantize(given).reconstruct().reshape(4, 500)
    torch.testing.assert_close((w - value).abs(), (w - cast).abs(), atol=1e-7, rtol=1e-4)


def test_scales_of_the_microscaling_formats_are_powers_of_two_that_reach_the_largest_weight() -> None:
    given = source(8, 64)
    q = FP4(group=32, powers=True, scales="bfloat16").quantize(given)
    scale = q.parameters["scale"]
    assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5))
    largest = given.weights.reshape(16, 32).abs().amax(1)
    assert ((largest / scale >= 4) & (largest / scale < 8)).all()  # 2^2 is the exponent of 6


@pytest.mark.parametrize(("quantizer", "block", "codes"), [(Q4K(), 32, 64), (Q3K(), 16, 32), (Q2K(), 16, 16)])
def test_a_k_quant_s_value_is_that_of_its_format(quantizer: Q4K, block: int, codes: int) -> None:
    """value = d c q - m c', a super-block of 256 weights with d and m; the last one of a row is shorter."""
    given = source(3, 300)
    q = quantizer.quantize(given)
    each = -(-300 // block)
    level = (q.symbols.reshape(3, 300).numpy() + q.side["offset"]).astype(np.float32)
    expected = np.empty((3, 300), dtype=np.float32)
    for row in range(3):
        for column in range(300):
            b, s = row * each + column // block, row * 2 + column // 256
            d = np.float32(q.parameters["step_unit"][s].half().float())
            expected[row, column] = d * np.float32(q.side["step"][b]) * level[row, column]
            if "shift" in q.side:
                m = np.float32(q.parameters["shift_unit"][s].half().float())
                expected[row, column] += m * np.float32(q.side["shift"][b])
    np.testing.assert_array_equal(q.reconstruct().reshape(3, 300).numpy(), expected)
    assert int(q.side["step"].max()) < codes
    coarse = type(quantizer)(rounds=0).quantize(given).reconstruct()
    assert (given.weights - q.reconstruct()).square().sum() < (given.weights - coarse).square().sum()


@pytest.mark.parametrize("name", ["q4_k", "q3_k", "q2_k"])
def test_a_k_quant_is_what_ggml_reads_of_its_blocks(name: str) -> None:
    """Packed into ggml's blocks, whose bytes are what the format says that a weight takes."""
    quantizer = {"q4_k": Q4K(), "q3_k": Q3K(), "q2_k": Q2K()}[name]
    q = quantizer.quantize(source(5, 512))
    kind = next(kind for kind in TYPES if kind.name == name)
    # ggml's scales of q3_k have a sign, in 6 bits that are counted from -32
    scales = q.side["step"].numpy() + kind.parts["scales"].zero
    numbers = {"codes": q.symbols.numpy(), "scales": scales, "d": q.parameters["step_unit"].half().numpy()}
    if "minima" in kind.parts:
        numbers |= {"minima": q.side["shift"].numpy(), "m": -q.parameters["shift_unit"].half().numpy()}
    numbers = {
        part: (array.view(np.uint16) if part in "dm" else array.astype(np.uint8)).reshape(10, -1)
        for part, array in numbers.items()
    }
    data = Blocks(kind, numbers).data()
    assert len(data) * 8 / (5 * 512) == {"q4_k": 4.5, "q3_k": 3.4375, "q2_k": 2.625}[name]
    value = q.reconstruct().numpy()
    np.testing.assert_array_equal(Blocks.of(data, kind).values(), value)
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    rows = np.frombuffer(data, dtype=np.uint8).reshape(5, -1)
    theirs = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[name.upper()])
    np.testing.assert_array_equal(theirs.reshape(-1), value)


def test_codes_with_a_codeword_for_every_vector_are_exact() -> None:
    given = source(5, 6)
    for quantizer in (PQ(k=16, d=2, half=False), PQ(k=10, d=3, books=2, half=False), RVQ(k=16, d=2, half=False)):
        torch.testing.assert_close(quantizer.quantize(given).reconstruct(), given.weights, atol=1e-6, rtol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_product_code_ends_at_lloyd_s_two_conditions(weighted: bool) -> None:
    """Each vector has the codeword of the least weighted distance; each codeword is the mean of its members."""
    given = source(20, 30)
    h = torch.rand(600, generator=torch.Generator().manual_seed(1)) + 0.1 if weighted else torch.ones(600)
    if weighted:
        given = given.with_(sensitivity=Diagonal(h))
    q = PQ(k=6, d=3, iterations=500, half=False).quantize(given)
    x, v, book = given.weights.reshape(200, 3), h.reshape(200, 3), q.parameters["codebook"]
    distance = (v[:, None] * (x[:, None] - book[None]).square()).sum(2)
    own = distance[torch.arange(200), q.symbols.long()]
    torch.testing.assert_close(own, distance.amin(1))
    for symbol in range(6):
        members = q.symbols == symbol
        mean = (v[members] * x[members]).sum(0) / v[members].sum(0)
        torch.testing.assert_close(book[symbol], mean, atol=1e-6, rtol=1e-4)


def test_every_further_book_of_a_residual_code_leaves_less() -> None:
    given = source(20, 32)
    errors = [
        float((given.weights - RVQ(k=8, d=4, books=m).quantize(given).reconstruct()).square().sum()) for m in (1, 2, 3)
    ]
    assert errors[0] > 1.2 * errors[1] > 1.2**2 * errors[2]


def test_vectors_end_with_their_row_and_leave_pruned_weights_out() -> None:
    w = laplace(4, 10)
    mask = torch.rand(4, 10, generator=torch.Generator().manual_seed(2)) < 0.6
    from nqbench.api import SourceTensor

    given = Source(w[mask], (SourceTensor("w", (4, 10), 0, int(mask.sum()), mask),))
    q = PQ(k=64, d=3, half=False).quantize(given)
    assert q.symbols.numel() == sum(-(-int(row.sum()) // 3) for row in mask)
    torch.testing.assert_close(q.reconstruct(), given.weights)
