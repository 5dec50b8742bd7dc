"""The plugins named ``none``: no pruning, no sensitivity, no training (direct compression)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from nqbench.api import Network, Pruned, Pruner, QuantizedModel, Sensitivity, SensitivityForm, Task, Training, begin


class NoPruner(Pruner, name="none"):
    """No weight is pruned."""

    prunes: ClassVar[bool] = False

    def prune(self, task: Task) -> Pruned:
        return Pruned.of(task, {})


class NoSensitivity(Sensitivity, name="none"):
    """All weights have the same sensitivity."""

    form: ClassVar[SensitivityForm] = "none"

    def sense(self, task: Network, names: Sequence[str]) -> Mapping[str, Tensor]:
        return {}


class NoTraining(Training, name="none"):
    """Direct compression: the network is quantized once, as it stands."""

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        return begin(task, start)
