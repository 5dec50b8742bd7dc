"""Low rank against the singular values, the price of a rank, and the rest's grid."""

from __future__ import annotations

import pytest
import torch
from nqbench_quantizers.low_rank import LowRank

from nqbench.api import Source


def matrix(rows: int, columns: int, rank: int, noise: float) -> torch.Tensor:
    draw = torch.Generator().manual_seed(rows)
    w = torch.randn(rows, rank, generator=draw) @ torch.randn(rank, columns, generator=draw)
    return w + noise * torch.randn(rows, columns, generator=draw)


def test_a_matrix_of_a_rank_is_found_to_be_of_it() -> None:
    source = Source.of([("a", matrix(30, 20, 3, 1e-3)), ("b", matrix(12, 40, 1, 1e-3).reshape(12, 4, 10))])
    q = LowRank(lam=0.01).quantize(source)
    assert q.side["ranks"].tolist() == [3, 1]  # type: ignore[union-attr]
    assert q.alphabet == 1
    error = (LowRank().reconstruct(q) - source.weights).norm() / source.weights.norm()
    assert float(error) < 0.02  # eight bits a factor


@pytest.mark.parametrize("lam", [0.02, 0.2, 2.0])
def test_the_rank_is_the_cheapest_of_all(lam: float) -> None:
    w = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    s = torch.linalg.svdvals(w.double())
    costs = [float(s[r:].square().sum() / w.var(correction=0) + lam * r * 40) for r in range(17)]
    q = LowRank(lam=lam).quantize(Source.of([("w", w)]))
    assert q.side["ranks"].tolist() == [min(range(17), key=costs.__getitem__)]  # type: ignore[union-attr]


def test_the_rest_is_within_half_a_step() -> None:
    w = matrix(20, 15, 2, 0.3)
    source = Source.of([("w", w)])
    plugin = LowRank(lam=0.2, step=0.1)
    q = plugin.quantize(source)
    assert q.statistics["rank"] >= 1
    apart = (plugin.reconstruct(q) - source.weights).abs().max()
    assert float(apart) <= 0.5 * 0.1 * float(w.std(correction=0)) * 1.001


def test_a_larger_price_gives_a_lower_rank_and_a_larger_error() -> None:
    source = Source.of([("w", torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))])
    ranks, errors = [], []
    for lam in (0.001, 0.1, 1.0, 10.0):
        plugin = LowRank(lam=lam, step=50.0)
        q = plugin.quantize(source)
        ranks.append(q.statistics["rank"])
        errors.append(float((plugin.reconstruct(q) - source.weights).norm()))
    assert ranks == sorted(ranks, reverse=True)
    assert errors == sorted(errors)
