"""Quantized groups as a safetensors file: what a long training keeps between its steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nqbench.api.quantized import Quantized
from nqbench.api.quantized_model import Group
from nqbench.api.structure import Structure
from nqbench.api.toolkit.sealed import seal, unseal


def save_groups(
    path: Path, groups: Sequence[Group], tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None
) -> None:
    """Write groups, further tensors and notes (anything JSON can say), whole or not at all."""
    stored = {f"tensor/{name}": value for name, value in tensors.items()}
    described = []
    for index, group in enumerate(groups):
        q = group.quantized
        stored[f"{index}/symbols"] = q.symbols
        for part, values in (("parameters", q.parameters), ("held", q.held), ("side", q.side)):
            stored |= {f"{index}/{part}/{k}": v for k, v in values.items() if isinstance(v, Tensor)}
        masks = q.structure.masks() if q.structure is not None else {}
        stored |= {f"{index}/masks/{k}": v for k, v in masks.items()}
        described.append(
            {
                "names": group.names,
                "alphabet": q.alphabet,
                "sizes": q.sizes,
                "form": q.form,
                "side": {k: v for k, v in q.side.items() if not isinstance(v, Tensor)},
                # a file's arrays are in the order of these names
                "order": {
                    part: list(values)
                    for part, values in (("parameters", q.parameters), ("held", q.held), ("side", q.side))
                },
                "statistics": dict(q.statistics),
                "structure": None if q.structure is None else q.structure.about(),
            }
        )
    seal(path, stored, {"groups": json.dumps(described), "notes": json.dumps(dict(notes or {}))})


def load_groups(path: Path, device: torch.device) -> tuple[tuple[Group, ...], dict[str, Tensor], dict[str, Any]]:
    """(groups, tensors, notes) that ``save_groups`` wrote, on a device. Raises FileNotFoundError; BadInput where it is
    not what was written."""
    found, metadata = unseal(path)
    stored = {key: tensor.to(device) for key, tensor in found.items()}
    groups = []
    for index, said in enumerate(json.loads(metadata["groups"])):

        def under(part: str, at: int = index) -> dict[str, Tensor]:
            prefix = f"{at}/{part}/"
            return {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}

        def ordered(part: str, own: Mapping[str, Any] = said) -> dict[str, Any]:
            found = under(part) | (own["side"] if part == "side" else {})
            return {name: found[name] for name in own["order"][part]} if "order" in own else found

        quantized = Quantized(
            stored[f"{index}/symbols"],
            said["alphabet"],
            tuple(said["sizes"]),
            ordered("parameters"),
            ordered("side"),
            said["form"],
            ordered("held"),
            said["statistics"],
            None if said.get("structure") is None else Structure.from_about(said["structure"], under("masks")),
        )
        groups.append(Group(tuple(said["names"]), quantized))
    tensors = {k.removeprefix("tensor/"): v for k, v in stored.items() if k.startswith("tensor/")}
    return tuple(groups), tensors, json.loads(metadata["notes"])
