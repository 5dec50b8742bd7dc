"""The contract of a pruner: network -> pruned network and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.network import Network
from nqbench.api.plain import all_plain
from nqbench.api.plugin import Plugin
from nqbench.api.quantizer import SensitivityForm
from nqbench.api.task import Task


@dataclass(frozen=True, eq=False)
class Pruned:
    """The result of a pruner; ``Pruned.of`` makes it from masks.

    Args:
        state: the network's whole state after pruning (and fine-tuning), pruned weights exactly 0.
        masks: name -> bool tensor of the parameter's shape, True where kept; a tensor that is not in it is not pruned.
        moments: second moments of the gradients by name, where the fine-tuning kept them.

    Example:
        >>> from nqbench.testing.tiny import tiny_task
        >>> task = tiny_task()
        >>> pruned = Pruned.of(task, {"0.weight": task.weights()["0.weight"] > 0})
        >>> bool((pruned.state["0.weight"] < 0).any())
        False
    """

    state: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    moments: Mapping[str, Tensor] | None = field(default=None)

    def __post_init__(self) -> None:
        for name in ("state", "masks"):
            object.__setattr__(self, name, all_plain(getattr(self, name)))
        object.__setattr__(self, "moments", None if self.moments is None else all_plain(self.moments))

    @staticmethod
    def of(task: Network, masks: Mapping[str, Tensor], moments: Mapping[str, Tensor] | None = None) -> Pruned:
        """The current network of the task, with the weights that the masks leave out set to 0.

        Args:
            task: its module gives the state and is not changed.
            masks: name -> tensor of the parameter's shape, on any device: True, or anything but 0, where kept.
            moments: second moments of the gradients, where the fine-tuning kept them.

        Returns:
            A copy of the whole state with exact zeros (+0) at the places pruned, and the masks as bool tensors.

        Raises:
            BadInput: a mask for a tensor that is not compressible, or of another shape.
        """
        state = {name: value.detach().clone() for name, value in task.module.state_dict().items()}
        kept = {}
        for name, mask in masks.items():
            if name not in task.names or mask.shape != state[name].shape:
                known = (
                    f"compressible are {', '.join(task.names)}" if name not in task.names else "it has another shape"
                )
                raise BadInput(f"a mask of the shape {tuple(mask.shape)} for '{name}': {known}")
            kept[name] = mask.to(task.device) != 0
            state[name] = torch.where(
                kept[name], state[name], torch.zeros((), dtype=state[name].dtype, device=task.device)
            )
        return Pruned(state, kept, moments)


class Pruner(Plugin):
    """Prunes a network. A method computes scores and returns ``Pruned.of`` the masks that follow from them.

    ``prunes = False`` (``none``): the stage is skipped altogether. ``takes``: the sensitivity forms that its scores can
    use. A pruner that takes one has a parameter ``sensitivity``, the name of a registered sensitivity of such a form,
    which ``task.sense()`` then asks: it imports no other plugin's package.

    Example:
        >>> import torch
        >>> class SmallestHalf(Pruner, name="smallest-half"):
        ...     def prune(self, task):
        ...         weights = task.weights()
        ...         return Pruned.of(task, {name: w.abs() > w.abs().median() for name, w in weights.items()})
        >>> from nqbench.testing.tiny import tiny_task
        >>> {name: float(mask.float().mean()) for name, mask in SmallestHalf().prune(tiny_task()).masks.items()}
        {'0.weight': 0.5, '4.weight': 0.5, '6.weight': 0.5}
    """

    kind: ClassVar[str] = "pruner"
    prunes: ClassVar[bool] = True
    takes: ClassVar[frozenset[SensitivityForm]] = frozenset({"none"})

    def sensed_by(self) -> str | None:
        """The name of the sensitivity that ``task.sense()`` asks: the parameter ``sensitivity``, where there is one."""
        named = getattr(self, "sensitivity", None)
        return named if isinstance(named, str) else None

    def prune(self, task: Task) -> Pruned:
        """Prune the network.

        Args:
            task: its module may be trained (with the masks held); any of ``task.names`` may be pruned. It has no
                quantizer, and a sensitivity only if ``sensed_by`` names one.

        Returns:
            The pruned state and its masks; see ``Pruned.of``.
        """
        raise NotImplementedError
