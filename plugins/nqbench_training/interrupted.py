"""What an alternation of steps leaves in a file, so that it goes on where it was interrupted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nqbench.api import BadInput, Group, Task
from nqbench.api.toolkit.groups import load_groups, save_groups


def save(path: Path, task: Task, groups: tuple[Group, ...], tensors: Mapping[str, Tensor], iteration: int) -> None:
    """The task's network and the method's own groups and tensors. iteration: the next one."""
    state = {f"state/{k}": v for k, v in task.module.state_dict().items()}
    save_groups(path, groups, state | dict(tensors), {"iteration": iteration})


def restore(path: Path, task: Task) -> tuple[tuple[Group, ...], dict[str, Tensor], int] | None:
    """The groups, tensors and next iteration of ``save``, whose network's state is the task's again. None, with a
    warning, if the file is damaged."""
    try:
        groups, tensors, notes = load_groups(path, task.device)
    except BadInput as error:
        warnings.warn(f"{error}; the training starts over", stacklevel=4)
        return None
    with torch.no_grad():
        for name, tensor in task.module.state_dict().items():
            tensor.copy_(tensors[f"state/{name}"])
    return groups, tensors, int(notes["iteration"])
