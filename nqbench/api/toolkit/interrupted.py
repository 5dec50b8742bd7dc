"""What a long training leaves in a file between its steps, so that it goes on where it was interrupted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.network import Network
from nqbench.api.quantized_model import Group
from nqbench.api.toolkit.groups import load_groups, save_groups


def save(
    path: Path, task: Network, groups: Sequence[Group], tensors: Mapping[str, Tensor], notes: Mapping[str, Any]
) -> None:
    """The state of the task's network, groups, and tensors and notes of the method's own. Raises OSError."""
    state = {f"state/{k}": v for k, v in task.module.state_dict().items()}
    save_groups(path, groups, state | dict(tensors), notes)


def restore(path: Path, task: Network) -> tuple[tuple[Group, ...], dict[str, Tensor], dict[str, Any]] | None:
    """The groups, tensors and notes of ``save``, whose network's state is the task's again. None where there is no such
    file, or, with a warning, a damaged one."""
    try:
        groups, tensors, notes = load_groups(path, task.device)
    except FileNotFoundError:
        return None
    except BadInput as error:
        warnings.warn(f"{error}; the training starts over", stacklevel=4)
        return None
    with torch.no_grad():
        for name, tensor in task.module.state_dict().items():
            tensor.copy_(tensors[f"state/{name}"])
    return groups, tensors, notes
