"""Codewords and codebooks that minimize the error of a layer's outputs, by expectation-maximization.

For a layer with weights W (one row per output), inputs with second moments H and quantized weights V, the objective is
tr((W - V) H (W - V)^T): 1907.05686, equation 3, with all of H instead of its diagonal blocks alone.

* expectation: the codewords of a row are chosen again one after another, with all others fixed. With the error E, a
  vector's columns J and its codeword c replaced by c', the cost changes by (c' - c) H_JJ (c' - c)^T - 2 (c' - c) (E
  H)_J.
* maximization: the normal equations of the codewords, solved by conjugate gradients; codewords are coupled through H,
  so that none is simply the mean of its members.

Neither step increases the cost. For a layer that is pruned, or whose rows do not correspond to outputs, only the
diagonal of H is used, weight by weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nqbench.api import Moments, SecondMoments, Source, SourceTensor
from nqbench_quantizers.row_vectors import row_vectors

_GRADIENTS = 12  # steps of conjugate gradients


@dataclass(eq=False)
class Layer:
    """weights, value: (R, L) float64, L a multiple of d, padded with 0. Either gram, (G, L, L), or diagonal, (R, L), 0
    at the padding. symbols: (R, L / d, s) int64, s codewords per vector, numbered through all codebooks. number: (R,),
    where each row is one vector by itself: its number in the row that it is from, which says its codebook."""

    weights: Tensor
    gram: Tensor | None
    diagonal: Tensor
    symbols: Tensor
    d: int
    number: Tensor | None = None

    def times(self, change: Tensor) -> Tensor:
        """(R, L): the change times H."""
        if self.gram is None:
            return change * self.diagonal
        groups = len(self.gram)
        return torch.bmm(change.reshape(groups, -1, change.shape[1]), self.gram).reshape(change.shape)

    def value(self, books: Tensor) -> Tensor:
        """books: (m k, d)."""
        return books[self.symbols].sum(2).reshape(self.weights.shape)

    def cost(self, books: Tensor) -> float:
        error = self.weights - self.value(books)
        return float((self.times(error) * error).sum())

    def gathered(self, pull: Tensor, books: Tensor) -> Tensor:
        """(m k, d): the sums of (R, L) over the members of each codeword."""
        per_vector = pull.reshape(*self.symbols.shape[:2], 1, self.d).expand(*self.symbols.shape, self.d)
        return torch.zeros_like(books).index_add_(0, self.symbols.reshape(-1), per_vector.reshape(-1, self.d))

    def choose(self, books: Tensor, count: int, summed: bool) -> None:
        """Choose every codeword again, one after another. count: the number of codebooks, which have equal sizes."""
        error = self.weights - self.value(books)
        pull = self.times(error)
        k = len(books) // count
        for vector in range(self.symbols.shape[1]):
            at = slice(vector * self.d, (vector + 1) * self.d)
            for place in range(self.symbols.shape[2]):
                old = self.symbols[:, vector, place].clone()
                for book, rows in self._turns(place if summed else vector % count, count, summed):
                    first = k * book
                    change = self._chosen(books[first : first + k], books[old], pull[:, at], at)
                    mine = self.symbols[:, vector, place]
                    self.symbols[:, vector, place] = torch.where((change >= 0) & rows, change + first, mine)
                moved = books[self.symbols[:, vector, place]] - books[old]
                error[:, at] -= moved
                self._pulled(pull, moved, at)

    def _turns(self, book: int, count: int, summed: bool) -> list[tuple[int, Tensor]]:
        """The codebooks to choose from, and (R,) bool: for which rows."""
        if summed or self.number is None:
            return [(book, torch.ones(len(self.weights), dtype=torch.bool, device=self.weights.device))]
        return [(j, self.number % count == j) for j in range(count)]

    def _chosen(self, book: Tensor, old: Tensor, pull: Tensor, at: slice) -> Tensor:
        """(R,) int64: the best codeword for each row's vector, -1 where none is better than the current one."""
        if self.gram is None:
            h = self.diagonal[:, at]
            score = h @ book.square().T - 2 * (pull + h * old) @ book.T
            mine = (h * old.square()).sum(1) - 2 * ((pull + h * old) * old).sum(1)
        else:
            groups = len(self.gram)
            block = self.gram[:, at, at]
            turned = torch.bmm(old.reshape(groups, -1, self.d), block).reshape(old.shape)
            square = (torch.matmul(book, block) * book).sum(2)  # (G, k)
            score = square.repeat_interleave(len(old) // groups, 0) - 2 * (pull + turned) @ book.T
            mine = (turned * old).sum(1) - 2 * ((pull + turned) * old).sum(1)
        least, best = score.min(1)
        return torch.where(least < mine, best, -1)

    def _pulled(self, pull: Tensor, moved: Tensor, at: slice) -> None:
        if self.gram is None:
            pull[:, at] -= moved * self.diagonal[:, at]
            return
        groups = len(self.gram)
        pull -= torch.bmm(moved.reshape(groups, -1, self.d), self.gram[:, at]).reshape(pull.shape)


def improved(books: Tensor, layers: Sequence[Layer]) -> Tensor:
    """(m k, d) codebooks of no larger cost, by conjugate gradients starting at the given ones."""
    books = books.clone()
    residual = sum((y.gathered(y.times(y.weights - y.value(books)), books) for y in layers), torch.zeros_like(books))
    step, power = residual.clone(), float(residual.square().sum())
    for _ in range(_GRADIENTS):
        if not power > 0:
            break
        answer = sum((y.gathered(y.times(y.value(step)), books) for y in layers), torch.zeros_like(books))
        curvature = float((step * answer).sum())
        if not curvature > 0:
            break
        books += step * (power / curvature)
        residual -= answer * (power / curvature)
        left = float(residual.square().sum())
        step, power = residual + step * (left / power), left
    return books


def layer_of(
    tensor: SourceTensor, kept: Tensor, h: Tensor, packed: Tensor, symbols: Tensor, d: int, number: Tensor
) -> Layer:
    """kept, h: (kept,) weights and their entries of the diagonal of H; packed: damped second moments. symbols:
    (vectors, s). number: (vectors,), each one's in its row."""
    rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
    moments = Moments.of(packed)
    length = kept.numel() // rows
    fits = moments.layout == 0 and not moments.diagonal and moments.gram.shape[2] == length
    if tensor.mask is not None or not fits:
        # one vector per row: vectors are independent
        weights, diagonal = (row_vectors((tensor,), values.double(), d)[0] for values in (kept, h))
        return Layer(weights, None, diagonal, symbols.reshape(len(weights), 1, -1).clone(), d, number)
    short = -length % d
    weights, diagonal = (F.pad(values.double().reshape(rows, length), (0, short)) for values in (kept, h))
    gram = F.pad(moments.gram.double(), (0, short, 0, short))
    return Layer(weights, gram, diagonal, symbols.reshape(rows, (length + short) // d, -1).clone(), d)


def damped(moments: SecondMoments, source: Source, damping: float) -> tuple[list[Tensor], Tensor]:
    """The second moments of each tensor, with ``damping`` times the mean of their diagonal added to it, and the
    diagonal entry of each kept weight, (n,). Both are relative to the largest diagonal entry of all tensors; where
    nothing is known, they are ones. Those of a tensor without weights stay as they are."""
    packed, diagonals = [], []
    for tensor, matrix in zip(source.tensors, moments.matrices, strict=True):
        if not tensor.size:
            packed.append(matrix)
            continue
        own = Moments.of(matrix.double())
        gram, m = own.gram, own.gram.shape[2]
        diagonal = gram[:, 0] if own.diagonal else gram.diagonal(dim1=1, dim2=2)
        mean = diagonal.mean()
        if not bool(mean > 0):
            gram, mean = (
                torch.eye(m, dtype=gram.dtype, device=gram.device).expand(len(gram), m, m),
                gram.new_tensor(1.0),
            )
            own = Moments(gram, own.layout)
            diagonal = gram.diagonal(dim1=1, dim2=2)
        more = damping * mean
        gram = own.gram + (more if own.diagonal else more * torch.eye(m, dtype=gram.dtype, device=gram.device))
        rows = (diagonal + more).repeat_interleave(_rows(tensor, own) // len(gram), 0)
        whole = own.tensor(rows, tensor.shape).reshape(-1)
        packed.append(Moments(gram, own.layout).packed())
        diagonals.append(whole if tensor.mask is None else whole[tensor.mask.reshape(-1)])
    flat = torch.cat(diagonals)
    largest = flat.max()
    return [p / largest for p in packed], flat / largest


def _rows(tensor: SourceTensor, moments: Moments) -> int:
    whole = 1
    for size in tensor.shape:
        whole *= size
    return whole // moments.gram.shape[2]
