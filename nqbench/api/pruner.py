"""The contract of a pruner: network -> pruned network and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from nqbench.api.plain import all_plain
from nqbench.api.plugin import Plugin
from nqbench.api.task import Task


@dataclass(frozen=True, eq=False)
class Pruned:
    """state: the network's whole state after pruning (and fine-tuning), pruned weights exactly 0. masks: name -> bool
    tensor of the parameter's shape, True where kept; a tensor that is not in it is not pruned. moments: second moments
    of the gradients, where the fine-tuning kept them."""

    state: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    moments: Mapping[str, Tensor] | None = field(default=None)

    def __post_init__(self) -> None:
        for name in ("state", "masks"):
            object.__setattr__(self, name, all_plain(getattr(self, name)))
        object.__setattr__(self, "moments", None if self.moments is None else all_plain(self.moments))


class Pruner(Plugin):
    """network -> pruned network and masks. ``prunes = False`` (``none``): the stage is skipped altogether."""

    kind: ClassVar[str] = "pruner"
    prunes: ClassVar[bool] = True

    def prune(self, task: Task) -> Pruned:
        """May train ``task.module`` (with the masks held) and prune any of ``task.names``."""
        raise NotImplementedError
