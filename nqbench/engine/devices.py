"""Which torch device trials run on."""

from __future__ import annotations

from nqbench.api.errors import BadInput
from nqbench.suite import Suite


def slot_device(device: str, suite: Suite) -> str:
    """For slots on other machines: 'auto' -> 'cuda' if the suite asks for a GPU, else 'cpu'. Raises BadInput."""
    if device == "auto":
        return "cuda" if suite.resources.gpu else "cpu"
    return _named(device)


def resolve_device(device: str) -> str:
    """'auto' -> 'cuda' if there is one, else 'cpu'. Raises BadInput for a device that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = _named(device).partition(":")
    if kind == "cuda" and (not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count()):
        raise BadInput(f"device '{device}' is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def _named(device: str) -> str:
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise BadInput(f"unknown device '{device}'; known: auto, cpu, cuda, cuda:N")
    return device
