"""Random codes: what a seed draws against another implementation of it, choices against a search through all, files."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import pytest
import torch
from nqbench_quantizers.random_code import RandomCodeQuantizer, nearest

from nqbench.api import BadInput, Coder, Group, Source, SourceTensor, philox
from nqbench.api.toolkit.random_code import RandomCode, reconstructed
from nqbench.container import Contents, decode, encode, sections_of
from nqbench.registry import registry


def generated(counter: int, key: int, stream: int) -> list[int]:
    """Philox4x32-10 as its paper says it, one counter at a time."""
    x, k, word = [counter % 2**32, counter >> 32, stream, 0], [key % 2**32, key >> 32], 2**32
    for _ in range(10):
        a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [b // word ^ x[1] ^ k[0], b % word, a // word ^ x[3] ^ k[1], a % word]
        k = [(k[0] + 0x9E3779B9) % word, (k[1] + 0xBB67AE85) % word]
    return x


@pytest.mark.parametrize("seed", [0, 5, 2**40 + 17])
def test_codewords_and_shuffle_are_what_the_generator_says(seed: int) -> None:
    code = RandomCode(seed, 8, 5, (7, 6))
    deviation = math.sqrt(16 * (256**2 - 1) / 12)
    for c in range(code.alphabet):
        for j in range(code.d):
            total = sum(sum(word.to_bytes(4, "little")) for word in generated(c * code.d + j, seed, 0))
            wanted = torch.tensor(total - 2040.0) * torch.tensor(1 / deviation)
            assert float(code.codewords(c, c + 1)[0, j]) == float(wanted)
    keys = [(words[0] << 31) | (words[1] >> 1) for words in (generated(i, seed, 1) for i in range(code.n))]
    assert code.order().tolist() == sorted(range(code.n), key=lambda i: keys[i])


def test_compiled_and_plain_loops_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    code = RandomCode(2**50 + 3, 5000, 40, (150_001,))
    symbols = torch.arange(code.blocks) % code.alphabet
    compiled = code.order(), code.drawn(symbols), code.codewords(17, 4000)
    monkeypatch.setattr(philox, "_COMPILED_FROM", 1 << 40)
    plain = code.order(), code.drawn(symbols), code.codewords(17, 4000)
    assert all(map(torch.equal, compiled, plain))


def test_codewords_are_normal_to_their_fourth_moment() -> None:
    drawn = RandomCode(3, 1 << 12, 64, (1,)).codewords(0, 1 << 12).double()
    n = drawn.numel()
    assert abs(float(drawn.mean())) < 4 / math.sqrt(n)
    assert abs(float(drawn.var()) - 1) < 4 * math.sqrt(2 / n)
    kurtosis = float(drawn.pow(4).mean() / drawn.square().mean() ** 2)
    assert abs(kurtosis - 3 + 0.075) < 4 * math.sqrt(24 / n)
    assert abs(float((drawn[1:] * drawn[:-1]).mean())) < 4 / math.sqrt(n)


def source(weights: torch.Tensor, sizes: tuple[int, ...], seed: int = 1) -> Source:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = tuple(SourceTensor(f"t{i}", (s,), b, b + s) for i, (s, b) in enumerate(zip(sizes, starts, strict=True)))
    return Source(weights, parts, seed=seed)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_nearest_codeword_is_that_of_a_search_through_all(weighted: bool) -> None:
    torch.manual_seed(0)
    code = RandomCode(4, 32, 4, (9, 6))
    w, scale = torch.randn(15), torch.tensor([0.5, 2.0])
    h = torch.rand(15) + 0.1 if weighted else None
    found = nearest(code, w, scale, h)
    best = torch.zeros(code.blocks)
    for block in range(code.blocks):
        costs = []
        for symbol in range(code.alphabet):
            symbols = torch.zeros(code.blocks, dtype=torch.int64)
            symbols[block] = symbol
            error = (code.values(symbols, scale) - w).square() * (1 if h is None else h)
            costs.append(float(error[code.order()[block * 4 : block * 4 + 4]].sum()))
        best[block] = costs.index(min(costs))
    assert found.tolist() == best.tolist()


def test_errors_of_a_gaussian_source_are_above_the_rate_distortion_bound_and_fall_with_the_block() -> None:
    torch.manual_seed(1)
    w = torch.randn(6000)
    errors = []
    for bits, d in ((2, 2), (6, 6), (12, 12)):  # a bit a weight: the longer the block, the nearer the bound of 1/4
        plugin = RandomCodeQuantizer(bits=bits, d=d)
        errors.append(float((plugin.reconstruct(plugin.quantize(source(w, (6000,)))) - w).square().mean()))
    assert 0.25 < errors[2] < errors[1] < errors[0] < 0.6


@pytest.mark.parametrize(("size", "d", "most"), [(1e-30, 5, 0.6), (1.0, 5, 0.6), (2.0**60, 5, 0.6), (2.0**60, 450, 1)])
def test_weights_of_any_size_are_coded(size: float, d: int, most: float) -> None:
    """Squares of the largest, as many as a block has, are no float32 numbers."""
    torch.manual_seed(2)
    w = torch.randn(900).sign() * size
    plugin = RandomCodeQuantizer(bits=10, d=d)
    values = plugin.reconstruct(plugin.quantize(source(w, (500, 400))))
    assert float(((values - w) / size).square().mean()) < most


def test_a_tensor_of_which_nothing_is_kept_and_one_of_zeros_and_blocks_longer_than_all() -> None:
    plugin = RandomCodeQuantizer(bits=4, d=1000)
    w = torch.cat([torch.zeros(5), torch.ones(3)])
    q = plugin.quantize(source(w, (5, 0, 3)))
    assert q.symbols.numel() == 1
    values = plugin.reconstruct(q)
    assert values[:5].tolist() == [0.0] * 5
    assert bool(torch.isfinite(values).all())


def test_codewords_that_nobody_could_wait_for_are_refused_in_a_line() -> None:
    with pytest.raises(BadInput, match="2\\^20 codewords of 300 numbers take too long"):
        RandomCodeQuantizer(bits=20, d=300).quantize(source(torch.randn(400), (400,)))


def test_scales_are_differentiable() -> None:
    plugin = RandomCodeQuantizer(bits=4, d=3)
    q = plugin.quantize(source(torch.randn(20), (12, 8)))
    scale = q.parameters["scale"].clone().requires_grad_()
    plugin.reconstruct(q, {"scale": scale}).sum().backward()
    drawn = RandomCode.of(q).drawn(q.symbols)
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad, torch.stack([drawn[:12].sum(), drawn[12:].sum()]))


@pytest.mark.parametrize(
    "changes",
    [
        {"form": "lookup"},
        {"side": {"codebook": torch.empty(0, 3)}},
        {"side": {"codebook": torch.empty(0, 3), "seed": -1}},
        {"side": {"codebook": torch.empty(0, 3), "seed": 1.5}},
        {"side": {"codebook": torch.zeros(1, 3), "seed": 1}},
        {"side": {"codebook": torch.empty(0), "seed": 1}},
        {"side": {"codebook": torch.tensor(1.0), "seed": 1}},
        {"parameters": {"scale": torch.tensor([1.0, torch.inf])}},
        {"side": {"codebook": torch.empty(0, 1 << 17), "seed": 1}},
        {"alphabet": 1 << 24},
        {"symbols": torch.zeros(6, dtype=torch.int32)},
        {"parameters": {}},
        {"parameters": {"scale": torch.ones(3)}},
    ],
)
def test_what_is_no_random_code_is_refused_in_a_line(changes: dict[str, object]) -> None:
    q = RandomCode(1, 4, 3, (12, 8)).result(torch.zeros(7), torch.ones(2))
    assert reconstructed(q).shape == (20,)
    with pytest.raises(BadInput, match="random code"):
        reconstructed(replace(q, **changes))  # type: ignore[arg-type]


def test_a_file_has_the_bits_of_the_blocks_and_little_else() -> None:
    """4,096 weights in blocks of 32 by 8 bits: 128 bytes of symbols, however long the codewords are."""
    w, plugin, known = torch.randn(64, 64), RandomCodeQuantizer(bits=8, d=32), registry()
    q = plugin.quantize(Source(w.reshape(-1), (SourceTensor("0.weight", (64, 64), 0, 4096),), seed=9))
    contents = Contents(
        order=("0.weight",),
        shapes={"0.weight": (64, 64)},
        dtypes={"0.weight": torch.float32},
        raw={},
        parameters=frozenset({"0.weight"}),
        groups=(Group(("0.weight",), q),),
        quantizer=plugin,
        coder=cast(Coder, known.make("coder", "raw")),
    )
    data, written = encode(contents, known)
    assert written.parts["symbols"] == 128
    assert len(data) < 128 + 220
    assert torch.equal(decode(sections_of(data), known).tensors["0.weight"].reshape(-1), reconstructed(q) + 0.0)
