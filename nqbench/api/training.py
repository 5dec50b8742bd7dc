"""The contract of a training: a method that trains before, during or after quantization."""

from __future__ import annotations

from typing import ClassVar

from nqbench.api.plugin import Plugin
from nqbench.api.quantized_model import QuantizedModel
from nqbench.api.task import Task


class Training(Plugin):
    """Trains before, during or after quantization. A trial has a list of them; each gets the result of the one before.

    ``quantizers``: the names of the quantizers that it works with, if it does not with all; trials with another one are
    left out of a suite.

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
    quantizers: ClassVar[frozenset[str]] = frozenset()

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        """Train, quantize, or both.

        Args:
            task: its module may be changed.
            start: the result of the previous training; None for the first of the list. ``begin`` turns either into
                quantized tensors to start from.

        Returns:
            The quantized network. Symbols, masks and everything else that the method does not mean to change stay.
        """
        raise NotImplementedError


def begin(task: Task, start: QuantizedModel | None) -> QuantizedModel:
    """The quantized network to start from: the result of the previous training, or the network quantized as it is.

    Args:
        task: a task with a quantizer.
        start: the argument of ``Training.train``.

    Returns:
        ``start``, or the network quantized as it is.

    Example:
        >>> from nqbench.testing.tiny import TinyQuantizer, tiny_task
        >>> len(begin(tiny_task(quantizer=TinyQuantizer()), None).groups)
        1
    """
    return QuantizedModel(task.quantize(), task.raw_state()) if start is None else start
