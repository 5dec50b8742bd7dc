"""The result of a training: quantized tensors by group, and all other tensors of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from nqbench.api.plain import all_plain
from nqbench.api.quantized import Quantized

Granularity = Literal["global", "layer"]


@dataclass(frozen=True, eq=False)
class Group:
    """Tensors that share one quantizer's result.

    Args:
        names: all compressible tensors (granularity ``global``), or one (``layer``).
        quantized: their weights, one after another.

    Example:
        >>> import torch
        >>> q = Quantized(torch.zeros(2, dtype=torch.int32), 1, (2,), {"codebook": torch.zeros(1)})
        >>> Group(("fc.weight",), q).quantized.n
        2
    """

    names: tuple[str, ...]
    quantized: Quantized


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """The result of a training.

    Args:
        groups: cover every compressible tensor once, in order.
        raw_state: every other tensor of the state by name (biases, batch-norm weights and statistics), with the values
            to store.
        notes: tensor name -> why the tensor was treated in another way than the method says.

    Example:
        >>> QuantizedModel((), {}).groups
        ()
    """

    groups: tuple[Group, ...]
    raw_state: Mapping[str, Tensor]
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "raw_state", all_plain(self.raw_state))
