"""The contracts of what happens around quantization: pruning before it, sensitivities for it, trainings about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from nqbench.api.plugin import Plugin
from nqbench.api.quantizer import SensitivityForm
from nqbench.api.task import QuantizedModel, Task


@dataclass(frozen=True, eq=False)
class Pruned:
    """state: the network's whole state after pruning (and fine-tuning), pruned weights exactly 0. masks: name -> bool
    tensor of the parameter's shape, True where kept; a tensor that is not in it is not pruned. moments: second moments
    of the gradients, where the fine-tuning kept them."""

    state: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    moments: Mapping[str, Tensor] | None = field(default=None)


class Pruner(Plugin):
    """network -> pruned network and masks. ``prunes = False`` (``none``): the stage is skipped altogether."""

    kind: ClassVar[str] = "pruner"
    prunes: ClassVar[bool] = True

    def prune(self, task: Task) -> Pruned:
        """May train ``task.module`` (with the masks held) and prune any of ``task.names``."""
        raise NotImplementedError


class Sensitivity(Plugin):
    """What is known of the loss's curvature around the network. ``form`` says in which form."""

    kind: ClassVar[str] = "sensitivity"
    form: ClassVar[SensitivityForm] = "diagonal"

    def sense(self, task: Task, names: Sequence[str]) -> Mapping[str, Tensor]:
        """Form ``diagonal``: name -> float32 tensor of the parameter's shape, the mean over samples. Form
        ``second-moments``: name -> (groups, m, m) float32, X X^T of the inputs of the layer that owns the parameter,
        divided by the number of input columns."""
        raise NotImplementedError


class Training(Plugin):
    """What happens around quantization. A suite gives an ordered list; each gets what the one before returned."""

    kind: ClassVar[str] = "training"

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        """``start`` is None for the first of the list: begin with ``task.quantize()``. Symbols, masks, and all that
        the method does not claim to change stay as they are."""
        raise NotImplementedError


def begin(task: Task, start: QuantizedModel | None) -> QuantizedModel:
    """What a training starts from: the previous one's result, or direct compression of the network as it stands."""
    return QuantizedModel(task.quantize(), task.raw_state()) if start is None else start
