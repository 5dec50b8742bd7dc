"""A source's rows cut into vectors of d weights, laid out as in a ``Structure`` of dimension d."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nqbench.api import SourceTensor
from nqbench.api.granularity import rows_of


def row_vectors(tensors: Sequence[SourceTensor], values: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """(vectors, d) vectors of all rows, their ends padded with 0; and each vector's index within its row."""
    found, numbers = [], []
    for t, part in zip(tensors, torch.split(values, [t.size for t in tensors]), strict=True):
        rows, length = rows_of(t.shape)
        if t.mask is None:
            short = -length % d
            found.append(F.pad(part.reshape(rows, length), (0, short)).reshape(-1, d))
            each = torch.full((rows,), -(-length // d), device=part.device)
        else:
            lengths = t.mask.reshape(rows, length).sum(1)
            each = -(-lengths // d)
            row = torch.repeat_interleave(torch.arange(rows, device=part.device), lengths)
            within = torch.arange(part.numel(), device=part.device) - (torch.cumsum(lengths, 0) - lengths)[row]
            slots = part.new_zeros(int(each.sum()) * d)
            slots[((torch.cumsum(each, 0) - each) * d)[row] + within] = part
            found.append(slots.reshape(-1, d))
        first = torch.repeat_interleave(torch.cumsum(each, 0) - each, each)
        numbers.append(torch.arange(int(each.sum()), device=part.device) - first)
    return torch.cat(found), torch.cat(numbers)
