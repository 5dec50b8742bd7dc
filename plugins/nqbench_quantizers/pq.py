"""Product and residual vector quantization of a layer's rows.

Each row is cut into vectors of d weights (``nqbench.api.Structure``).

* ``pq``: m codebooks of k codewords, the j-th vector of a row in codebook j mod m [Jegou et al. 2011; for weights,
  "And the bit goes down", 1907.05686, section 3].
* ``rvq``: m codebooks whose codewords are summed, each fitted to the remainder of the ones before [Juang and Gray
  1982].

Codebooks are found by Lloyd's method, weighted by the sensitivity: codeword c minimizes sum h (w - c)^2 over its
members, coordinate by coordinate, c = sum h w / sum h; a vector goes to argmin_c sum_i h_i (w_i - c_i)^2. In each
round, half of the codewords without members are moved to the vectors of largest error. The initial codewords are
vectors drawn with the seed. Codewords without members are not part of the result.

If the sensitivity is the second moments of the inputs, h is their diagonal, and the result of Lloyd's method is refined
under the full matrices: ``refinements`` rounds of choosing codewords again and solving for the codebooks
(``gram_vectors``), with the metric of 1907.05686, equation 3. The training ``finetune`` moves codewords further to
lower the loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import (
    Knob,
    Quantized,
    Quantizer,
    SecondMoments,
    Source,
    Structure,
)
from nqbench_quantizers.gram_vectors import damped, improved, layer_of
from nqbench_quantizers.row_vectors import row_vectors

_AT_ONCE = 1 << 24  # distances


class _Vectors(Quantizer):
    """Vectors of d weights, with codebooks by Lloyd's method."""

    takes = frozenset({"none", "diagonal", "second-moments"})

    k: int = Field(256, ge=1, le=65536)
    """Number of codewords in a codebook, at most: those that no vector has are left out."""
    d: int = Field(4, ge=1, le=64)
    """Number of weights in a vector."""
    books: int = Field(1, ge=1, le=16)
    """Codebooks, m."""
    iterations: int = Field(15, ge=0, le=1000)
    """Rounds of Lloyd's method."""
    refinements: int = Field(4, ge=0, le=100)
    """Rounds of refinement under the full second moments of the layer's inputs, if they are given."""
    damping: float = Field(0.01, ge=0)
    """The number added to the diagonals of the second moments, as a share of their mean."""
    half: bool = True
    """Store codewords as float16, else as float32."""

    def uses_seed(self) -> bool:
        return True

    def dimension(self) -> int:
        return self.d

    def knob(self, source: Source) -> Knob:
        most = max(2, min(4096, source.n // self.d))
        return Knob("k", 2, most, "log", integer=True, more_bytes="up")

    def _lloyd(self, x: Tensor, h: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(k, d) codewords and (n,) symbols. h: (n, d) weights of the squared errors, 0 at the padding of a vector."""
        n = len(x)
        if not n:
            return x.new_zeros(self.k, self.d), torch.zeros(0, dtype=torch.int64, device=x.device)
        order = torch.randperm(n, generator=generator)[: self.k].to(x.device)
        book = x[order][torch.arange(self.k, device=x.device) % len(order)].clone()
        book = self._stored(book)
        symbols, _ = _assigned(x, h, book)
        for _ in range(self.iterations):
            mass, total = _sums(h, symbols, self.k), _sums(h * x, symbols, self.k)
            means = torch.where(mass > 0, total / mass, book)
            fresh = self._stored(means)
            empty = torch.bincount(symbols, minlength=self.k) == 0
            chosen, cost = _assigned(x, h, fresh)
            if bool(empty.any()):
                worst = torch.argsort(cost, descending=True, stable=True)[: max(1, int(empty.sum()) // 2)]
                worst = worst[cost[worst] > 0]
                fresh[torch.nonzero(empty)[: len(worst), 0]] = self._stored(x[worst])
                chosen, _ = _assigned(x, h, fresh)
            if torch.equal(chosen, symbols) and torch.equal(fresh, book):
                break
            book, symbols = fresh, chosen
        return book, symbols

    def _stored(self, book: Tensor) -> Tensor:
        return book.half().float() if self._halves(book) else book

    def _halves(self, book: Tensor) -> bool:
        # as many digits of the largest codeword as float16 has: of weights below 1e-5 it would keep few or none
        limits, largest = torch.finfo(torch.float16), float(book.abs().max()) if book.numel() else 0.0
        return self.half and (largest == 0 or limits.smallest_normal <= largest <= limits.max)

    def _metric(self, source: Source) -> tuple[Tensor, list[Tensor] | None]:
        """(n,) weights of the squared errors, at most 1, since products with the network's weights must stay within
        float32; and the second moments of each tensor, in the same unit, if they are known."""
        if isinstance(source.sensitivity, SecondMoments):
            source.sensitivity.of_tensors(source.tensors)
            packed, h = damped(source.sensitivity, source, self.damping)
            return h.float(), packed
        return torch.ones_like(source.weights) if source.h is None else source.h / source.h.max(), None

    def _refined(
        self, source: Source, h: Tensor, packed: list[Tensor], books: list[Tensor], symbols: Tensor, summed: bool
    ) -> tuple[list[Tensor], Tensor]:
        """symbols: (vectors, s), numbered within each codebook."""
        m, number = len(books), row_vectors(source.tensors, source.weights, self.d)[1]
        offset = torch.arange(m, device=number.device) if summed else (number % m)[:, None]
        counts = [len(row_vectors((t,), source.weights[t.start : t.stop], self.d)[0]) for t in source.tensors]
        layers = [
            layer_of(t, source.weights[t.start : t.stop], h[t.start : t.stop], matrix, own, self.d, numbers)
            for t, matrix, own, numbers in zip(
                source.tensors,
                packed,
                torch.split(symbols + self.k * offset, counts),
                torch.split(number, counts),
                strict=True,
            )
            if t.size
        ]
        book = torch.cat(books).double()
        best, least = (book, [y.symbols.clone() for y in layers]), sum(y.cost(book) for y in layers)
        for _ in range(self.refinements):
            book = self._stored(improved(book, layers).float()).double()
            for y in layers:
                y.choose(book, m, summed)
            cost = sum(y.cost(book) for y in layers)
            # rounding codewords to float16 may add more error than a round removes
            if cost >= least:
                break
            best, least = (book, [y.symbols.clone() for y in layers]), cost
        book, chosen = best
        flat = torch.cat([s.reshape(-1, s.shape[2]) for s in chosen]) % self.k
        return list(torch.split(book.float(), self.k)), flat

    def _result(self, source: Source, books: list[Tensor], symbols: Tensor, summed: bool) -> Quantized:
        # of all codewords: one that is left out may be why none of them was rounded
        stored = {"codebook": torch.float16} if self._halves(torch.stack(books)) else {}
        m, number = len(books), row_vectors(source.tensors, source.weights, self.d)[1]
        places = torch.arange(len(symbols), device=symbols.device) if summed else number
        used = []
        for j, book in enumerate(books):
            mine = torch.nonzero(places % m == j)[:, 0]
            own, symbols[mine] = _used(book, symbols[mine])
            used.append(own)
        k = max(1, *(len(own) for own in used))
        # the codebooks of a tensor have one size
        book = torch.stack([F.pad(own, (0, 0, 0, k - len(own))) for own in used])
        book = book if m > 1 else book[0] if self.d > 1 else book[0, :, 0]
        structure = Structure.of(source, dimension=self.d, summed=summed and m > 1, stored=stored)
        return Quantized(symbols.to(torch.int32), k, source.sizes, {"codebook": book.contiguous()}, structure=structure)


class PQ(_Vectors, name="pq", paper="arXiv:1907.05686; Jegou, Douze, Schmid 2011"):
    """Product quantization: vectors of a row's weights with k-means codebooks, which alternate along the row."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"k": 8, "d": 2}, {"k": 5, "d": 3, "books": 2}, {"k": 4, "d": 1, "half": False}]
        }
    )

    def quantize(self, source: Source) -> Quantized:
        x, number = row_vectors(source.tensors, source.weights, self.d)
        h, packed = self._metric(source)
        metric = row_vectors(source.tensors, h, self.d)[0]
        generator = source.generator()
        symbols = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        books = []
        for m in range(self.books):
            mine = torch.nonzero(number % self.books == m)[:, 0]
            book, chosen = self._lloyd(x[mine], metric[mine], generator)
            symbols[mine] = chosen
            books.append(book)
        if packed is not None:
            books, chosen = self._refined(source, h, packed, books, symbols[:, None], summed=False)
            symbols = chosen[:, 0]
        return self._result(source, books, symbols, summed=False)


class RVQ(_Vectors, name="rvq", paper="Juang and Gray 1982"):
    """Residual vector quantization: vectors of a row's weights as sums of one codeword from each codebook."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"k": 8, "d": 2, "books": 2}, {"k": 4, "d": 4, "books": 3, "half": False}]}
    )

    books: int = Field(2, ge=1, le=16)
    """Codebooks, m."""

    def quantize(self, source: Source) -> Quantized:
        x, _ = row_vectors(source.tensors, source.weights, self.d)
        h, packed = self._metric(source)
        metric = row_vectors(source.tensors, h, self.d)[0]
        generator, left = source.generator(), x
        books, symbols = [], []
        for _ in range(self.books):
            book, chosen = self._lloyd(left, metric, generator)
            left = left - book[chosen]
            books.append(book)
            symbols.append(chosen)
        chosen = torch.stack(symbols, dim=1)
        if packed is not None:
            books, chosen = self._refined(source, h, packed, books, chosen, summed=True)
        return self._result(source, books, chosen.reshape(-1), summed=True)


def _used(book: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor]:
    """The codewords that symbols stand for, each once, in their order; and (n,) the symbols among them."""
    # equal bit for bit: 0 and -0 are two values
    kinds = torch.unique(book.contiguous().view(torch.int32), dim=0, return_inverse=True)[1]
    first = kinds.new_full((len(book),), len(book))
    first = first.scatter_reduce(0, kinds, torch.arange(len(book), device=book.device), "amin")
    own, among = torch.unique(first[kinds[symbols]], return_inverse=True)
    return book[own], among


def _assigned(x: Tensor, h: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) nearest codeword of each vector in the vector's own metric, and (n,) the squared distances."""
    chosen, cost = [], []
    at_once = max(1, _AT_ONCE // len(book))
    for rows, weight in zip(torch.split(x, at_once), torch.split(h, at_once), strict=True):
        # sum h (x - c)^2 without sum h x^2, which is the same for all codewords
        distance = weight @ (book * book).T - 2 * (weight * rows) @ book.T
        symbol = distance.argmin(1)
        chosen.append(symbol)
        cost.append((weight * (rows - book[symbol]).square()).sum(1))
    return torch.cat(chosen), torch.cat(cost)


def _sums(values: Tensor, symbols: Tensor, k: int) -> Tensor:
    """(k, d) sums of each codeword's members, in float64, so that the order of the sum has no visible effect."""
    sums = torch.zeros(k, values.shape[1], dtype=torch.float64, device=values.device)
    return sums.index_add_(0, symbols, values.double()).float()
