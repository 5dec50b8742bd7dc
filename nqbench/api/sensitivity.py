"""The contract of a sensitivity: an estimate of how much the loss changes with each weight of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from nqbench.api.network import Network
from nqbench.api.plugin import Plugin
from nqbench.api.quantizer import SensitivityForm


class Sensitivity(Plugin):
    """Estimates the curvature of the loss at a network's weights. ``form`` says what the estimate looks like.

    Example:
        >>> class Squares(Sensitivity, name="squares"):
        ...     def sense(self, task, names):
        ...         return {name: task.parameter(name).detach().square() for name in names}
        >>> from nqbench.testing.tiny import tiny_task
        >>> task = tiny_task()
        >>> [h.shape == task.parameter(name).shape for name, h in Squares().sense(task, task.names).items()]
        [True, True, True]
    """

    kind: ClassVar[str] = "sensitivity"
    form: ClassVar[SensitivityForm] = "diagonal"

    def sense(self, task: Network, names: Sequence[str]) -> Mapping[str, Tensor]:
        """Estimate the sensitivity of the network with its current weights.

        Args:
            task: the network, its masks and its training data.
            names: the tensors to estimate it for.

        Returns:
            Form ``diagonal``: name -> float32 of the parameter's shape, the mean over samples. Form ``second-moments``:
            name -> (groups, m, m) float32, X X^T of the inputs of the layer that owns the parameter, divided by the
            number of input columns; or another form that ``Moments`` packs.
        """
        raise NotImplementedError
