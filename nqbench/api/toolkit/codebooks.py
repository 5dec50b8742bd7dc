"""From cells to codebooks, and from codebooks to results, without the codewords that no weight takes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nqbench.api import chunks
from nqbench.api.chunks import CHUNK, in_chunks
from nqbench.api.errors import BadInput
from nqbench.api.quantized import Quantized
from nqbench.api.source import Source
from nqbench.api.toolkit.passes import assign_and_sum, midpoints, symbol_sums
from nqbench.api.toolkit.sorted_line import offset

MAX_ALPHABET = 1 << 24
"""The most symbols that a stream can have (``nqbench.api.StreamSpec``)."""


def nearest(
    source: Source, codebook: Tensor, held: Tensor | None = None, statistics: Mapping[str, float] | None = None
) -> Quantized:
    """Every weight to its nearest codeword; codewords that no weight takes are dropped, held ones excepted.

    codebook: (k,) float64 or float32 ascending; stored as float32. held: (k,) bool, True where a codeword must stay
    as it is. A weight half-way between two codewords goes to the lower one.
    """
    table, held = _distinct(codebook.to(source.device), held)
    symbols, sums = assign_and_sum(source.weights, source.h, midpoints(table), offset(source))
    return _result(source, symbols, table, held, sums, statistics or {})


def from_edges(source: Source, edges: Tensor, statistics: Mapping[str, float] | None = None) -> Quantized:
    """Codewords are the (weighted) means of the cells between (k - 1,) ascending float64 edges; empty cells go."""
    shift = offset(source)
    symbols, sums = assign_and_sum(source.weights, source.h, edges, shift)
    return _result(source, symbols, _means(sums, shift), None, sums, statistics or {})


def from_symbols(source: Source, symbols: Tensor, k: int, statistics: Mapping[str, float] | None = None) -> Quantized:
    """Codewords are the (weighted) means of given cells. symbols: (n,) int32 in [0, k), ascending with the weights
    where the codebook shall be ordered; empty cells are dropped."""
    shift = offset(source)
    sums = symbol_sums(source.weights, source.h, symbols, k, shift)
    return _result(source, symbols, _means(sums, shift), None, sums, statistics or {})


def _means(sums: Tensor, shift: float) -> Tensor:
    """(k,) float32 means of cells from their (4, k) sums about ``shift``; any number for an empty one."""
    return (shift + sums[2] / sums[1].clamp_min(torch.finfo(torch.float64).tiny)).float()


def dense(symbols: Tensor, kept: Tensor) -> Tensor:
    """Renumber (n,) int32 symbols so that those of (k,) bool ``kept`` become 0, 1, ... in order."""
    if bool(kept.all()):
        return symbols
    rank = (kept.cumsum(0) - 1).to(torch.int32)
    return look_up(rank, symbols)


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """(n,) int32 table[index], of (k,) int32 and (n,) integers."""
    out = torch.empty(index.numel(), dtype=torch.int32, device=index.device)
    if chunks.on_torch(index):
        for start in range(0, index.numel(), CHUNK):
            at = slice(start, start + CHUNK)
            out[at] = table[index[at].long()]
        return out
    from nqbench.api.toolkit import passes_kernels as kernels

    t, i, o = table.numpy(), index.numpy(), out.numpy()
    in_chunks(i.size, lambda at: kernels.look_up(t, i[at], o[at]))
    return out


def check_alphabet(count: int, advice: str) -> None:
    if count > MAX_ALPHABET:
        raise BadInput(f"{count} cells are more than a stream's {MAX_ALPHABET} symbols: {advice}")


def distortion(sums: Tensor, table: Tensor, shift: float) -> float:
    """sum h (w - c)^2 from (4, k) sums about ``shift`` (``symbol_sums``) and (k,) codewords."""
    c = table.double() - shift
    return float((sums[3] - 2 * c * sums[2] + c * c * sums[1]).sum().clamp_min(0.0))


def _distinct(codebook: Tensor, held: Tensor | None) -> tuple[Tensor, Tensor]:
    """Codewords that differ as float32 numbers, ascending; one that is held stands for its doubles."""
    table, place = torch.unique(codebook.float(), return_inverse=True)
    marks = torch.zeros(table.numel(), dtype=torch.int32, device=table.device)
    if held is not None:
        marks.index_add_(0, place, held.to(marks))
    return table, marks > 0


def _result(
    source: Source, symbols: Tensor, table: Tensor, held: Tensor | None, sums: Tensor, statistics: Mapping[str, float]
) -> Quantized:
    kept = sums[0] > 0 if held is None else (sums[0] > 0) | held
    weight = float(sums[1].sum())
    figures = {
        **statistics,
        "codewords": float(kept.sum()),
        "distortion": distortion(sums[:, kept], table[kept], offset(source)) / weight,
        "entropy": entropy(sums[0]),
    }
    stay = None if held is None or not bool(held.any()) else held[kept]
    return Quantized(
        symbols=dense(symbols, kept),
        alphabet=int(kept.sum()),
        sizes=source.sizes,
        parameters={"codebook": table[kept].contiguous()},
        held={} if stay is None else {"codebook": stay},
        statistics=figures,
    )


def entropy(counts: Tensor) -> float:
    """Zeroth-order entropy of (k,) counts, in bits per symbol."""
    p = counts.double() / counts.double().sum()
    return float(torch.special.entr(p).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64)))
