"""Trained weights, kept with the recipe that made them, so that training happens once a machine.

A file is ``<NQBENCH_CACHE>/trained/<name>-<16 hex digits of the recipe>.safetensors``: the state under ``state/``, the
second moments of the gradients under ``moments/``, the recipe as JSON in the metadata. It is written whole or not at
all, and a lock beside it keeps two workers from training the same network at once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.paths import cache_dir, written_whole


@dataclass(frozen=True, eq=False)
class Trained:
    """state: the network's whole state. moments: second moments of the gradients by parameter name, may be empty.
    notes: figures worth keeping (seconds, losses)."""

    state: Mapping[str, Tensor]
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """16 hex digits that change whenever the recipe (anything JSON can say) does."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trained_path(name: str, recipe: Mapping[str, Any]) -> Path:
    return cache_dir() / "trained" / f"{name}-{recipe_digest(recipe)}.safetensors"


def trained(name: str, recipe: Mapping[str, Any], train: Callable[[Path], Trained]) -> Trained:
    """What the recipe gave, from the store, or by calling ``train(workdir)`` once and keeping the result.

    workdir: a folder for checkpoints that outlives an interruption and is removed when training succeeds.
    """
    from filelock import FileLock

    path = trained_path(name, recipe)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():  # another worker may have trained it while this one waited
                workdir = path.with_suffix(".work")
                workdir.mkdir(exist_ok=True)
                save_trained(path, train(workdir), recipe)
                shutil.rmtree(workdir)
    return load_trained(path)


def adopt(source: Path) -> Path:
    """Copy weights that were trained elsewhere, a file of another store, into this one; returns where they lie.

    BadInput where the file is none of a store's: its name ends in the digest of the recipe inside it.
    """
    from safetensors import SafetensorError, safe_open

    wanted = "expected a file of a store of trained networks, <name>-<digest of its recipe>.safetensors"
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            strange = [key for key in file.keys() if key.partition("/")[0] not in ("state", "moments")]  # noqa: SIM118
        recipe = json.loads(metadata["recipe"])
        fits = source.stem.endswith(f"-{recipe_digest(recipe)}") and not strange
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BadInput(f"{source}: {wanted}: {str(error).splitlines()[0] if str(error) else error!r}") from None
    if not fits:
        raise BadInput(f"{source}: {wanted}; this one's name or content says another")
    path = cache_dir() / "trained" / source.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        shutil.copyfile(source, temporary)
    return path


def save_trained(path: Path, result: Trained, recipe: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors = {f"state/{k}": v.detach().cpu().contiguous() for k, v in result.state.items()}
    tensors |= {f"moments/{k}": v.detach().cpu().contiguous() for k, v in result.moments.items()}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={"recipe": json.dumps(recipe), "notes": json.dumps(result.notes)})


def load_trained(path: Path) -> Trained:
    from safetensors import safe_open

    parts: dict[str, dict[str, Tensor]] = {"state": {}, "moments": {}}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - a safetensors handle is not a mapping
            part, _, name = key.partition("/")
            parts[part][name] = file.get_tensor(key)
        notes = json.loads((file.metadata() or {}).get("notes", "{}"))
    return Trained(parts["state"], parts["moments"], notes)
