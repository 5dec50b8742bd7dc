"""Stage results as files: safetensors for tensors, JSON for the rest. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nqbench.api import Group, Quantized, QuantizedModel, Structure
from nqbench.api.plain import apart
from nqbench.api.toolkit.content import bits


def save_tensors(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, Any] | None = None) -> None:
    """Save tensors detached, contiguous and on the CPU, with ``about`` as JSON in the metadata. Raises OSError."""
    try:
        # safetensors refuses tensors that share memory
        save_file(apart(tensors), str(path), {"about": json.dumps(dict(about or {}))})
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from None


def load_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (safetensors keeps no order) and ``about``. Raises OSError or ValueError."""
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path}: {error}") from None


def save_quantized(model: QuantizedModel, path: Path) -> None:
    """All groups and the raw state in one file. Symbols are stored as bytes if the alphabet has at most 256."""
    tensors: dict[str, Tensor] = {f"raw.{name}": tensor for name, tensor in model.raw_state.items()}
    groups = []
    for index, group in enumerate(model.groups):
        q = group.quantized
        tensors[f"{index}.symbols"] = q.symbols.to(torch.uint8) if q.alphabet <= 256 else q.symbols
        tensors.update({f"{index}.parameters.{k}": v for k, v in q.parameters.items()})
        tensors.update({f"{index}.side.{k}": v for k, v in q.side.items() if isinstance(v, Tensor)})
        tensors.update({f"{index}.held.{k}": v for k, v in q.held.items()})
        masks = q.structure.masks() if q.structure is not None else {}
        tensors.update({f"{index}.masks.{k}": v for k, v in masks.items()})
        groups.append(
            {
                "names": group.names,
                "alphabet": q.alphabet,
                "sizes": q.sizes,
                "form": q.form,
                "parameters": list(q.parameters),
                "side": {k: None if isinstance(v, Tensor) else v for k, v in q.side.items()},
                "held": list(q.held),
                "statistics": {k: float(v) for k, v in q.statistics.items()},
                "structure": None if q.structure is None else q.structure.about(),
                "masks": list(masks),
            }
        )
    save_tensors(tensors, path, {"groups": groups, "raw": list(model.raw_state), "notes": dict(model.notes)})


def load_quantized(path: Path, device: torch.device | str = "cpu") -> QuantizedModel:
    tensors, about = load_tensors(path, device)
    groups = []
    for index, g in enumerate(about["groups"]):
        side = {k: tensors[f"{index}.side.{k}"] if v is None else v for k, v in g["side"].items()}
        quantized = Quantized(
            symbols=tensors[f"{index}.symbols"].to(torch.int32),
            alphabet=g["alphabet"],
            sizes=tuple(g["sizes"]),
            parameters={k: tensors[f"{index}.parameters.{k}"] for k in g["parameters"]},
            side=side,
            form=g["form"],
            held={k: tensors[f"{index}.held.{k}"] for k in g["held"]},
            statistics=g["statistics"],
            structure=None
            if g["structure"] is None
            else Structure.from_about(g["structure"], {k: tensors[f"{index}.masks.{k}"] for k in g["masks"]}),
        )
        groups.append(Group(tuple(g["names"]), quantized))
    return QuantizedModel(tuple(groups), {name: tensors[f"raw.{name}"] for name in about["raw"]}, about["notes"])


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of bytes are equal; compares eight bytes at a time where the size allows it."""
    words = np.int64 if one.size % 8 == 0 and one.size == other.size else np.uint8
    return np.array_equal(one.view(words), other.view(words))


def first_difference(expected: Mapping[str, Tensor], decoded: Mapping[str, Tensor]) -> str | None:
    """None if two states are bit for bit equal; else one line about the first tensor that differs."""
    if list(expected) != list(decoded):
        odd = sorted(set(expected) ^ set(decoded)) or ["their order"]
        return f"the decoded state has other tensors: {', '.join(odd[:3])}"
    for name, wanted in expected.items():
        found = decoded[name]
        if wanted.dtype != found.dtype or wanted.shape != found.shape:
            return f"tensor '{name}' is {found.dtype} {tuple(found.shape)}, not {wanted.dtype} {tuple(wanted.shape)}"
        if not _same(bits(wanted), bits(found)):
            where = int(np.flatnonzero(bits(wanted) != bits(found))[0]) // max(wanted.dtype.itemsize, 1)
            return f"tensor '{name}' differs from element {where} on"
    return None


def names_of(groups: Sequence[Group]) -> tuple[str, ...]:
    return tuple(name for group in groups for name in group.names)
