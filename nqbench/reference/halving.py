"""A trained network in half the bytes: floats as float16, its masks, without the second moments of its gradients.

Rounding to float16 keeps 11 significant bits. ``nqbench cache add`` takes such a file and puts float32 of the same
values into the store, so that nothing downstream meets another dtype.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from nqbench.api import BadInput
from nqbench.api.toolkit.content import content_hash
from nqbench.api.toolkit.sealed import said_of
from nqbench.api.toolkit.store import HALVED, load_trained


def halve(path: Path) -> bytes:
    """The half of a file of a store of trained networks, the same bytes each time. Raises BadInput where a value does
    not fit into float16."""
    found, metadata = load_trained(path), said_of(path)
    state = {}
    for name, tensor in sorted(found.state.items()):
        small = tensor.to(torch.float16) if tensor.dtype == torch.float32 else tensor
        if not bool(torch.isfinite(small).all()) and bool(torch.isfinite(tensor).all()):
            raise BadInput(f"{path}: '{name}' has values beyond float16's 65,504")
        state[f"state/{name}"] = small.contiguous()
    kept = {"recipe": metadata["recipe"], "notes": metadata.get("notes", "{}"), HALVED: found.sha256}
    return _safetensors(state, {**kept, "sha256": content_hash(state)})


def _safetensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file whose header is in order: the library's keeps metadata in an order of its own each time."""
    names = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    parts, at = [], 0
    # the widest first, so that all are aligned
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        data = tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        if tensor.dtype not in names:
            raise BadInput(f"'{name}' is of {tensor.dtype}, which a trained network has no place for")
        span = [at, at + len(data)]
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        parts.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)
