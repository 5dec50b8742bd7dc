"""The contract of a training: what happens around quantization."""

from __future__ import annotations

from typing import ClassVar

from nqbench.api.plugin import Plugin
from nqbench.api.quantized_model import QuantizedModel
from nqbench.api.task import Task


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
