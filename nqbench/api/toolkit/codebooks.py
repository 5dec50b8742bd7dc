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
    """Assign each weight to its nearest codeword, and drop codewords without weights, except held ones.

    A weight half-way between two codewords goes to the lower one.

    Args:
        source: the weights.
        codebook: (k,) float64 or float32, ascending; stored as float32.
        held: (k,) bool, True where fine-tuning must not change a codeword.
        statistics: further figures for the result.

    Returns:
        A result of form ``lookup``. Its statistics have ``codewords``, ``distortion`` (the mean of h (w - c)^2) and
        ``entropy`` (bits per symbol).

    Example:
        >>> q = nearest(Source(torch.tensor([0.1, 0.9, 1.1])), torch.tensor([0.0, 1.0, 9.0]))
        >>> q.symbols.tolist(), q.parameters["codebook"].tolist()
        ([0, 1, 1], [0.0, 1.0])
    """
    table, held = _distinct(codebook.to(source.device), held)
    symbols, sums = assign_and_sum(source.weights, source.h, midpoints(table), offset(source))
    return _result(source, symbols, table, held, sums, statistics or {})


def from_edges(source: Source, edges: Tensor, statistics: Mapping[str, float] | None = None) -> Quantized:
    """Quantize to the (weighted) means of the cells between edges. Empty cells are dropped.

    Args:
        source: the weights.
        edges: (k - 1,) float64, ascending; a weight equal to an edge belongs to the cell below.
        statistics: further figures for the result.

    Returns:
        A result as of ``nearest``.

    Example:
        >>> edges = torch.tensor([0.5], dtype=torch.float64)
        >>> from_edges(Source(torch.tensor([0.0, 0.5, 2.0])), edges).parameters["codebook"].tolist()
        [0.25, 2.0]
    """
    shift = offset(source)
    symbols, sums = assign_and_sum(source.weights, source.h, edges, shift)
    return _result(source, symbols, _means(sums, shift), None, sums, statistics or {})


def from_symbols(source: Source, symbols: Tensor, k: int, statistics: Mapping[str, float] | None = None) -> Quantized:
    """Quantize to the (weighted) means of given cells. Empty cells are dropped.

    Args:
        source: the weights.
        symbols: (n,) int32 in [0, k), the cell of each weight; ascending with the weights for an ordered codebook.
        k: number of cells.
        statistics: further figures for the result.

    Returns:
        A result as of ``nearest``.

    Example:
        >>> cells = torch.tensor([0, 0, 2], dtype=torch.int32)
        >>> from_symbols(Source(torch.tensor([0.0, 1.0, 4.0])), cells, 3).parameters["codebook"].tolist()
        [0.5, 4.0]
    """
    shift = offset(source)
    sums = symbol_sums(source.weights, source.h, symbols, k, shift)
    return _result(source, symbols, _means(sums, shift), None, sums, statistics or {})


def _means(sums: Tensor, shift: float) -> Tensor:
    """(k,) float32 means of cells from their (4, k) sums about ``shift``; any number for an empty one."""
    return (shift + sums[2] / sums[1].clamp_min(torch.finfo(torch.float64).tiny)).float()


def dense(symbols: Tensor, kept: Tensor) -> Tensor:
    """Renumber symbols so that the kept ones become 0, 1, ... in order.

    Args:
        symbols: (n,) int32, all of them kept ones.
        kept: (k,) bool.

    Returns:
        (n,) int32.

    Example:
        >>> dense(torch.tensor([2, 0], dtype=torch.int32), torch.tensor([True, False, True])).tolist()
        [1, 0]
    """
    if bool(kept.all()):
        return symbols
    rank = (kept.cumsum(0) - 1).to(torch.int32)
    return look_up(rank, symbols)


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]``, in threads on the CPU.

    Args:
        table: (k,) int32.
        index: (n,) integers in [0, k).

    Returns:
        (n,) int32.

    Example:
        >>> look_up(torch.tensor([7, 8], dtype=torch.int32), torch.tensor([1, 0, 1])).tolist()
        [8, 7, 8]
    """
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
    """Check that a quantizer does not need more symbols than a stream can have.

    Args:
        count: number of symbols.
        advice: what the user can do about it, for the error's text.

    Returns:
        Nothing.

    Raises:
        BadInput: there are more than ``MAX_ALPHABET``.

    Example:
        >>> check_alphabet(1 << 25, "take a larger step")
        Traceback (most recent call last):
        nqbench.api.errors.BadInput: 33554432 cells are more than a stream's 16777216 symbols: take a larger step
    """
    if count > MAX_ALPHABET:
        raise BadInput(f"{count} cells are more than a stream's {MAX_ALPHABET} symbols: {advice}")


def distortion(sums: Tensor, table: Tensor, shift: float) -> float:
    """The distortion sum h (w - c)^2 of a codebook, from the sums over its cells.

    Args:
        sums: (4, k) float64, as ``symbol_sums`` returns them.
        table: (k,) codewords c.
        shift: the one that the sums were made with.

    Returns:
        The distortion, not divided by the number of weights.

    Example:
        >>> sums = symbol_sums(torch.tensor([0.0, 2.0]), None, torch.tensor([0, 0], dtype=torch.int32), 1)
        >>> distortion(sums, torch.tensor([1.0]), 0.0)
        2.0
    """
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
    """Zeroth-order entropy.

    Args:
        counts: (k,) how often each symbol occurs.

    Returns:
        Bits per symbol.

    Example:
        >>> entropy(torch.tensor([5, 5]))
        1.0
    """
    p = counts.double() / counts.double().sum()
    return float(torch.special.entr(p).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64)))
