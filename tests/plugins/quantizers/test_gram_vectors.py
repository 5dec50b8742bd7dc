"""Product and residual codes under the layers' whole second moments: by brute force, and never worse than without."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from nqbench_quantizers.gram_vectors import Layer, improved
from nqbench_quantizers.pq import PQ, RVQ
from nqbench_training.finetune import FineTune
from torch import Tensor

from nqbench import save
from nqbench.api import Diagonal, Moments, SecondMoments, Source, SourceTensor
from nqbench.testing.sources import laplace
from nqbench.testing.tiny import tiny_task


def moments(m: int, groups: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(groups, m, m, generator=generator) @ torch.randn(groups, m, 8 * m, generator=generator)
    return mixed @ mixed.mT / (8 * m)


def cost(w: Tensor, value: Tensor, h: Tensor, damping: float = 0.01) -> float:
    damped = h.double() + damping * h.double().diagonal(dim1=1, dim2=2).mean() * torch.eye(h.shape[1])
    e = (w.double() - value.double().reshape(w.shape)).reshape(len(h), -1, h.shape[1])
    return float(((e @ damped) * e).sum())


def test_codebooks_are_the_solution_of_their_normal_equations() -> None:
    """cost = sum over rows (w - A c) H (w - A c)^T for the 0/1 matrix A of a row's codewords: solved densely."""
    h, w, d, k = moments(6).double(), laplace(40, 6).double(), 2, 3
    symbols = torch.randint(k, (40, 3, 1), generator=torch.Generator().manual_seed(1))
    layer = Layer(w, h, torch.ones_like(w), symbols, d)
    book = improved(torch.zeros(k, d, dtype=torch.float64), [layer])
    normal, right = torch.zeros(k * d, k * d, dtype=torch.float64), torch.zeros(k * d, dtype=torch.float64)
    for row in range(40):
        a = torch.zeros(6, k * d, dtype=torch.float64)
        for vector, j in itertools.product(range(3), range(d)):
            a[vector * d + j, int(symbols[row, vector, 0]) * d + j] = 1
        normal += a.T @ h[0] @ a
        right += a.T @ h[0] @ w[row]
    torch.testing.assert_close(book.reshape(-1), torch.linalg.solve(normal, right), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_each_choice_is_the_best_of_all_codewords_with_the_others_held(groups: int, summed: bool) -> None:
    """After a vector is chosen, no other codeword in its place has a smaller cost of the whole layer."""
    h, w, d, k, m = moments(6, groups).double(), laplace(4, 6, seed=3).double(), 2, 4, 2
    books = torch.randn(m * k, d, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 0.05
    shape = (4, 3, m) if summed else (4, 3, 1)
    symbols = torch.randint(k, shape, generator=torch.Generator().manual_seed(1))
    offset = torch.arange(m) if summed else (torch.arange(3) % m)[:, None]
    layer = Layer(w, h, torch.ones_like(w), symbols + k * offset, d)
    before = layer.cost(books)
    layer.choose(books, m, summed)
    after = layer.cost(books)
    assert after < before
    # the last vector was chosen with all others as they are now
    for row, place in itertools.product(range(4), range(shape[2])):
        if place < shape[2] - 1:
            continue
        first = k * (place if summed else 2 % m)
        for other in range(first, first + k):
            changed = layer.symbols.clone()
            changed[row, 2, place] = other
            assert Layer(w, h, layer.diagonal, changed, d).cost(books) >= after - 1e-12


@pytest.mark.parametrize("quantizer", [PQ(k=8, d=2), PQ(k=8, d=2, books=2), PQ(k=6, d=4, half=False), RVQ(k=8, d=4)])
def test_whole_second_moments_leave_less_error_in_the_output_than_their_diagonal(quantizer: PQ | RVQ) -> None:
    h, w = moments(10), laplace(64, 10)
    source = Source.of([("w", w)], sensitivity=SecondMoments((h,)))
    diagonal = h[0].diagonal() * 1.01
    plain = Source.of([("w", w)], sensitivity=Diagonal(diagonal.expand(64, 10).reshape(-1)))
    mine = cost(w, quantizer.quantize(source).reconstruct(), h)
    theirs = cost(w, quantizer.quantize(plain).reconstruct(), h)
    unrefined = cost(w, quantizer.model_copy(update={"refinements": 0}).quantize(source).reconstruct(), h)
    assert mine < 0.9 * min(theirs, unrefined)


def test_layers_that_are_pruned_transposed_or_never_seen_take_part() -> None:
    """Several tensors share codebooks: each under its own metric, whatever its layout; the result is not worse than
    without a round of it."""
    mask = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    whole, pruned, turned, unseen = laplace(20, 7), laplace(12, 6, seed=1), laplace(5, 8, seed=2), laplace(3, 4, seed=3)
    parts, start = [], 0
    for value, own in ((whole, None), (pruned, mask), (turned, None), (unseen, None)):
        size = value.numel() if own is None else int(own.sum())
        parts.append(SourceTensor("", tuple(value.shape), start, start + size, own))
        start += size
    packed = (moments(7), moments(6, seed=1), Moments(moments(5, seed=2), 1).packed(), torch.zeros(1, 1, 4))
    weights = torch.cat([whole.reshape(-1), pruned[mask], turned.reshape(-1), unseen.reshape(-1)])
    source = Source(weights, tuple(parts), SecondMoments(packed))
    for quantizer in (PQ(k=6, d=3, books=2), RVQ(k=6, d=3)):
        values = [quantizer.model_copy(update={"refinements": r}).quantize(source).reconstruct() for r in (0, 4)]
        costs = [cost(whole, v[:140].reshape(20, 7), packed[0]) for v in values]
        assert torch.isfinite(values[1]).all()
        assert costs[1] < costs[0]


def test_fine_tuning_moves_the_centroids_of_product_codes_and_lowers_the_loss() -> None:
    task = tiny_task(quantizer=PQ(k=4, d=2), granularity="layer")
    start = [g.quantized.parameters["codebook"].clone() for g in task.quantize()]
    tuned = FineTune(epochs=2, lr=0.5).train(task, None)
    assert any(not torch.equal(a, g.quantized.parameters["codebook"]) for a, g in zip(start, tuned.groups, strict=True))


SMALL = [
    PQ(), PQ(d=1), PQ(k=40, d=2, books=2), PQ(k=64, d=3, half=False), PQ(books=7, d=2), RVQ(), RVQ(k=40, d=2, books=3),
    RVQ(k=30, d=1, half=False),
]  # fmt: skip


def given(kind: str) -> Source:
    """Few weights, with vectors that are equal, some or all."""
    w = {"few": laplace(10, 9), "of few values": laplace(12, 15).sign() * 0.25, "zeros": torch.zeros(4, 6)}.get(kind)
    if w is not None:
        return Source.of([("w", w)], sensitivity=SecondMoments((moments(w.shape[1]),)) if kind == "few" else None)
    mask = torch.rand(10, 9, generator=torch.Generator().manual_seed(2)) < 0.6
    w = laplace(10, 9)
    if kind == "huge":
        w[0, 0] = 1e6  # beyond float16
        return Source.of([("w", w)], sensitivity=Diagonal(torch.rand(90) + 0.1))
    return Source(w[mask], (SourceTensor("w", (10, 9), 0, int(mask.sum()), mask),))


@pytest.mark.parametrize("kind", ["few", "of few values", "zeros", "huge", "pruned"])
@pytest.mark.parametrize("quantizer", SMALL, ids=str)
def test_codewords_without_a_vector_are_left_out_and_nothing_else_changes(
    quantizer: PQ | RVQ, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = given(kind)
    q = quantizer.quantize(source)
    with monkeypatch.context() as patch:
        patch.setattr("nqbench_quantizers.pq._used", lambda book, symbols: (book, symbols))
        whole = quantizer.quantize(source)
    assert whole.alphabet == quantizer.k
    values, wanted = quantizer.reconstruct(q), quantizer.reconstruct(whole)
    assert torch.equal(values.view(torch.int32), wanted.view(torch.int32))
    assert q.structure is not None
    assert whole.structure is not None
    assert q.structure.stored == whole.structure.stored
    used = q.symbols.reshape(-1, quantizer.books) if isinstance(quantizer, RVQ) else q.symbols.reshape(-1, 1)
    most = max(len(torch.unique(column)) for column in used.T)
    book = q.parameters["codebook"]
    assert book.shape[-1 if quantizer.d == quantizer.books == 1 else -2] == q.alphabet <= len(used)
    if quantizer.books == 1 or isinstance(quantizer, RVQ):
        assert q.alphabet == most
    if quantizer.books == 1:
        assert torch.equal(torch.unique(q.symbols), torch.arange(q.alphabet, dtype=torch.int32))
        rows = book.reshape(q.alphabet, -1)
        assert len({row.numpy().tobytes() for row in rows}) == q.alphabet


def test_there_are_no_more_codewords_than_vectors_that_differ() -> None:
    source = given("of few values")
    for d in (1, 2, 3, 5):
        assert PQ(d=d).quantize(source).alphabet <= 2**d
    assert PQ().quantize(given("zeros")).alphabet == 1


@pytest.mark.parametrize("coder", ["raw", "huffman", "context"])
def test_a_file_without_spare_codewords_is_no_larger(
    coder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def size(fields: dict[str, int], name: str, w: Tensor) -> int:
        return save({"w": w}, tmp_path / "w.nqz", quantizer=name, parameters=fields, coder=coder)

    cases = [("pq", {}), ("pq", {"k": 40, "books": 2}), ("pq", {"k": 12}), ("rvq", {}), ("pq", {"d": 1, "k": 300})]
    for w in (laplace(10, 9), laplace(20, 30)):
        for name, fields in cases:
            trimmed = size(fields, name, w)
            with monkeypatch.context() as patch:
                patch.setattr("nqbench_quantizers.pq._used", lambda book, symbols: (book, symbols))
                assert trimmed <= size(fields, name, w)
    assert size({}, "pq", laplace(10, 9)) < 900  # 256 codewords alone would be 2,048 bytes
