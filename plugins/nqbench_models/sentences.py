"""Pairs of sentences with a similarity (STS-B), and the rank correlation of a network's cosines with it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from nqbench.api import BadInput, PerExample, Split
from nqbench_models.ordering import in_batches

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Sentences -> their token ids."""
_STS = (4, 5, 6)  # columns of STS-B's files, which have no header: the similarity and the two sentences
_HEADER = ("score", "sentence1", "sentence2")


@dataclass(frozen=True, eq=False)
class Pairs:
    """ids: (N, 2, T) int64, padded. scores: (N,) float32, with the file's values."""

    ids: Tensor
    scores: Tensor
    padding: int = 0

    def batches(self, batch_size: int, split: Split, shuffle: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Each as wide as its longest sentence."""
        for part in in_batches(len(self.scores), batch_size, split, shuffle):
            yield trimmed(self.ids[part], self.padding), self.scores[part]


def filled(coded: Sequence[Sequence[int]], padding: int) -> Tensor:
    """(N, T) int64: sequences of tokens, filled up at their ends."""
    ids = torch.full((len(coded), max((len(tokens) for tokens in coded), default=1)), padding)
    for number, tokens in enumerate(coded):
        ids[number, : len(tokens)] = torch.tensor(tokens)
    return ids


def trimmed(ids: Tensor, padding: int) -> Tensor:
    """Without the last columns where they are padding in every sequence: most of a split's sentences are several times
    shorter than its longest. ids: (..., T)."""
    used = (ids != padding).flatten(0, -2).any(0).nonzero()
    return ids[..., : max(1, int(used[-1]) + 1 if len(used) else 1)]


def read_pairs(path: Path, encode: Encode, length: int, padding: int = 0) -> Pairs:
    """Pairs of a tab-separated file: STS-B's, or one with the columns score, sentence1 and sentence2; longer sentences
    are truncated to ``length`` tokens. Raises BadInput for any other file."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    columns = _STS
    if rows and set(_HEADER) <= set(rows[0]):
        columns = tuple(rows[0].index(name) for name in _HEADER)  # type: ignore[assignment]
        rows = rows[1:]
    try:
        scores = [float(row[columns[0]]) for row in rows]
        sentences = [row[column] for row in rows for column in columns[1:]]
    except (IndexError, ValueError):
        raise BadInput(f"{path}: expected STS-B's columns, or a header with {', '.join(_HEADER)}") from None
    ids = filled([tokens[:length] for tokens in encode(sentences)], padding)
    return Pairs(ids.reshape(len(scores), 2, -1), torch.tensor(scores), padding)


def cosines(vectors: Tensor) -> Tensor:
    """(N,) cosines of pairs. vectors: (2N, width), the two of a pair one after the other."""
    first, second = vectors.reshape(-1, 2, vectors.shape[-1]).unbind(1)
    return functional.cosine_similarity(first, second)


def column(values: Tensor) -> Tensor:
    """(N, 1): outputs with one number per example."""
    return values.reshape(-1, 1)


def half_squares(outputs: Tensor, scores: Tensor) -> Tensor:
    """(N,): half the squared difference of (N, 1) cosines and similarities from 0 to 5, divided by 5."""
    return 0.5 * (outputs[:, 0] - scores / 5).square()


def ranked(outputs: Tensor, wanted: Tensor) -> PerExample:
    """Spearman's rank correlation of (N, 1) cosines with the given similarities."""
    return PerExample(torch.stack([outputs[:, 0], wanted.to(outputs)], 1), "spearman")
