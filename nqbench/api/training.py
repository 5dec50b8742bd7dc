"""The contract of a training: what happens around quantization."""

from __future__ import annotations

from typing import ClassVar

from nqbench.api.plugin import Plugin
from nqbench.api.quantized_model import QuantizedModel
from nqbench.api.task import Task


class Training(Plugin):
    """What happens around quantization. A suite gives an ordered list; each gets what the one before returned.

    Example:
        >>> class NoBias(Training, name="no-bias"):
        ...     def train(self, task, start):
        ...         start = begin(task, start)
        ...         return QuantizedModel(start.groups, {name: t * 0 for name, t in start.raw_state.items()})
        >>> from nqbench.testing.tiny import TinyQuantizer, tiny_task
        >>> float(sum(t.sum() for t in NoBias().train(tiny_task(quantizer=TinyQuantizer()), None).raw_state.values()))
        0.0
    """

    kind: ClassVar[str] = "training"

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        """Train, quantize, or both.

        Args:
            task: its module may be changed.
            start: what the training before returned; None for the first of the list: ``begin`` gives what to start
                from.

        Returns:
            The quantized network. Symbols, masks, and all that the method does not claim to change are as they were.
        """
        raise NotImplementedError


def begin(task: Task, start: QuantizedModel | None) -> QuantizedModel:
    """What a training starts from: the previous one's result, or direct compression of the network as it stands.

    Args:
        task: with a quantizer.
        start: what ``Training.train`` was given.

    Returns:
        ``start``, or the network quantized as it is.

    Example:
        >>> from nqbench.testing.tiny import TinyQuantizer, tiny_task
        >>> len(begin(tiny_task(quantizer=TinyQuantizer()), None).groups)
        1
    """
    return QuantizedModel(task.quantize(), task.raw_state()) if start is None else start
