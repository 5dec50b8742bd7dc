"""State dicts from files, without running anything in them, and what is said when one does not fit its network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nqbench.api import BadInput


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from a PyTorch file of tensors, alone or under the key ``state_dict``."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise BadInput(f"{path} is not a safetensors file: {_line(error)}") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise BadInput(
            f"{path} cannot be read with weights_only: save the network's state_dict() alone ({_line(error)})"
        ) from None
    state = found.get("state_dict", found) if isinstance(found, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadInput(f"{path} holds more than tensors: save the network's state_dict() alone")
    return dict(state)


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path, *, assign: bool = False) -> None:
    """``load_state_dict``, with one line for the first name or shape that does not fit."""
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise BadInput(f"{path} has no '{name}', which the network has; it holds {_some(state)}")
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(tensor.shape)} as in the network"
            raise BadInput(f"{path}: '{name}' has the shape {shapes}")
    unknown = sorted(set(state) - set(own))
    if unknown:
        raise BadInput(f"{path} holds '{unknown[0]}', which the network has not; that has {_some(own)}")
    module.load_state_dict(state, assign=assign)


def _some(names: Mapping[str, object]) -> str:
    """A few names, for a line."""
    shown = list(names)[:4]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
