"""Text in windows of tokens, and the losses of a language model on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nqbench.api import Split
from nqbench_models.ordering import in_batches

LOGITS = 1 << 27
"""Largest number of logits in a batch: half a gigabyte."""


@dataclass(frozen=True, eq=False)
class Windows:
    """ids: (N, T) int64."""

    ids: Tensor

    @staticmethod
    def of(tokens: list[int], length: int, most: int | None = None) -> Windows:
        """Consecutive whole windows, at most ``most`` of them."""
        count = len(tokens) // length if most is None else min(len(tokens) // length, most)
        return Windows(torch.tensor(tokens[: count * length], dtype=torch.int64).reshape(count, length))

    def batches(self, batch_size: int, words: int, split: Split, shuffle: int | None) -> Iterator[tuple[Tensor]]:
        """words: size of the vocabulary; batch sizes are reduced to limit the memory of logits."""
        most = max(1, LOGITS // max(1, self.ids.shape[1] * words))
        for part in in_batches(len(self.ids), min(batch_size, most), split, shuffle):
            yield (self.ids[part],)


def window_losses(logits: Tensor, ids: Tensor) -> Tensor:
    """(B,) mean negative log-likelihood, in nats, of each window's tokens except the first. logits: (B, T, words)."""
    each = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return each.reshape(len(ids), -1).mean(1)
