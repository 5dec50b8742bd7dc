"""Reads checkpoint files into tensors by name, without running code that they may contain.

A ``.safetensors`` or ``.gguf`` file, a PyTorch file of any suffix, the index of a checkpoint in shards, or a folder in
Hugging Face's layout. The state dict is found inside the dict that a training loop has saved (``{"model": ..., "epoch":
3}``).
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nqbench.api import BadInput

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names of the weights' file in a folder in Hugging Face's layout; the first that exists is used."""
_USUAL = ("state_dict", "model_state_dict", "model", "params", "module", "net", "network", "weights")
"""Names of entries that hold a network's state dict, the most likely first."""
_AVERAGED = re.compile(r"(^|[_.])(ema|swa|averaged?|avg)([_.]|$)")
_FLAT = (".safetensors", ".gguf", ".json")
"""Suffixes of files without entries."""
_DEPTH = 3
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError,
)  # fmt: skip
"""What torch.load raises at files that it did not write: a text is taken for the opcodes that its letters are."""
_PLAIN_DATA = [argparse.Namespace, np.dtype, np.ndarray]
"""Harmless types that training loops save beside a state dict, which may be unpickled."""


def read_state(path: Path, entry: str | None = None) -> dict[str, Tensor]:
    """A state dict. entry: which one to take from a PyTorch file with several (``ema``, ``params_ema``, ``a.b``).

    Raises BadInput, in one line, for a file that cannot be read, or that holds no state dict or several equally likely
    ones, or where an entry is named of a file that has none.
    """
    path = weights_in(path) if path.is_dir() else path
    if entry is not None and path.suffix in _FLAT:
        raise BadInput(f"{path} has no entry '{entry}': files of this kind hold one network, leave `entry` out")
    if path.name.endswith(".index.json"):
        return _sharded(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".gguf":
        from nqbench_models.gguf_file import read_gguf

        return read_gguf(path)
    return _state_in(_unpickled(path), path, entry)


def weights_in(folder: Path) -> Path:
    """The file of weights, or the index of shards, in a folder in Hugging Face's layout."""
    for name in _FOLDER:
        if (folder / name).is_file():
            return folder / name
    raise BadInput(f"{folder} is a folder without weights: expected {', '.join(_WHOLE)} or an index of shards")


def files_of(path: Path) -> list[Path]:
    """The files that a checkpoint consists of: an index with its shards, a folder's weights with its configuration."""
    if path.is_dir():
        return [*sorted(path.glob("*.json")), *files_of(weights_in(path))]
    return [path, *_shards(path)[1]] if path.name.endswith(".index.json") else [path]


def tensor_bytes(path: Path, entry: str | None = None, names: Container[str] | None = None) -> int:
    """What the tensors of a checkpoint take in their own dtypes, those that share memory once; of a ``.gguf`` file,
    whose tensors are quantized, the file's bytes. names: of the tensors that count; None: all. Raises what
    ``read_state`` does."""
    path = weights_in(path) if path.is_dir() else path
    if path.name.endswith(".index.json"):
        placed, files = _shards(path)
        return sum(tensor_bytes(shard, names=_placed_in(shard, placed)) for shard in files)
    if path.suffix == ".gguf":
        return path.stat().st_size
    if path.suffix == ".safetensors":
        return _bytes_by_header(path, names)
    found = {name: t for name, t in read_state(path, entry).items() if names is None or name in names}
    tensors = [t for t in found.values() if isinstance(t, Tensor)]
    return sum({(t.data_ptr(), t.shape, t.stride()): t.numel() * t.dtype.itemsize for t in tensors}.values())


def _bytes_by_header(path: Path, names: Container[str] | None) -> int:
    """Without reading any tensor: a safetensors file says where each begins and ends."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    held = (name for name in header if name != "__metadata__" and (names is None or name in names))
    places = [header[name]["data_offsets"] for name in held]
    return sum(end - begin for begin, end in places)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadInput(f"{path} is not a safetensors file: {_line(error)}") from None


def _unpickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([*_PLAIN_DATA, *_numpy_parts()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        made = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds a Python object, {made[1]}" if made else _line(error)
        if not made and not _written_by_torch(path):
            raise BadInput(
                f"{path} is no checkpoint: expected a file that torch.save wrote, .safetensors, .gguf, an index of "
                "shards, or a folder with one of these"
            ) from None
        raise BadInput(
            f"{path} cannot be read with weights_only: save the network's state_dict() alone ({reason})"
        ) from None


def _written_by_torch(path: Path) -> bool:
    """A zip file, or a pickle as torch.save wrote it before."""
    with path.open("rb") as file:
        begin = file.read(2)
    return begin == b"PK" or begin[:1] == b"\x80"


def _numpy_parts() -> list[Any]:
    """The functions and types by which NumPy's arrays and scalars are unpickled."""
    scalars = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}
    return [*scalars, np.float64().__reduce__()[0], np.empty(0).__reduce__()[0]]


def _shards(index: Path) -> tuple[dict[str, str], list[Path]]:
    """name -> file, and the files, of an index ``{"weight_map": {name: file}}``."""
    try:
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(placed.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f'{index} is no index of shards: expected {{"weight_map": {{name: file}}}}') from None
    for number, file in enumerate(files):
        if Path(file).name != file or not (index.parent / file).is_file():
            raise BadInput(f"{index} names the shard '{file}' ({number + 1} of {len(files)}), which is not beside it")
    return placed, [index.parent / file for file in files]


def _placed_in(shard: Path, placed: Mapping[str, str]) -> set[str]:
    """The tensors that an index has in a shard."""
    return {name for name, file in placed.items() if file == shard.name}


def _sharded(index: Path) -> dict[str, Tensor]:
    placed, files = _shards(index)
    state: dict[str, Tensor] = {}
    for shard in files:
        # a shard may still hold what the index has elsewhere by now
        held, names = read_state(shard), _placed_in(shard, placed)
        state |= {name: tensor for name, tensor in held.items() if name in names}
    missing = [name for name in placed if name not in state]
    if missing:
        raise BadInput(f"{index} names '{missing[0]}', which the shard {placed[missing[0]]} does not hold")
    return state


def _state_in(found: object, path: Path, entry: str | None) -> dict[str, Tensor]:
    """The state dict in the content of a file. PyTorch's version information (``_metadata``) is kept."""
    if entry is not None:
        for step in entry.split("."):
            if not isinstance(found, Mapping) or step not in found:
                raise BadInput(f"{path} has no entry '{entry}'; it holds {_told(found)}")
            found = found[step]
    for _ in range(_DEPTH):
        if is_state(found):
            assert isinstance(found, Mapping)
            return found if isinstance(found, dict) else dict(found)
        found = _chosen(found, path)
    raise BadInput(f"{path} holds more than tensors: save the network's state_dict() alone")


def is_state(found: object) -> bool:
    """Whether it is a state dict: a mapping of names to tensors, apart from the extra state of some modules."""
    return isinstance(found, Mapping) and all(
        isinstance(name, str) and (isinstance(value, Tensor) or name.endswith("_extra_state"))
        for name, value in found.items()
    )


def _chosen(found: object, path: Path) -> object:
    """The entry of a training checkpoint that holds the network."""
    if not isinstance(found, Mapping):
        raise BadInput(f"{path} holds {type(found).__name__}, no state dict: save the network's state_dict() alone")
    entries = [str(name) for name, value in found.items() if _holds_tensors(value)]
    plain = [name for name in entries if not _AVERAGED.search(name.lower())]
    usual = [name for name in _USUAL if name in plain]
    if usual or len(plain) == 1:
        return found[usual[0] if usual else plain[0]]
    if not entries:
        raise BadInput(
            f"{path} holds more than tensors and no state dict: save the network's state_dict() alone; "
            f"it holds {_told(found)}"
        )
    kind = "several networks" if plain else "averaged weights alone"
    raise BadInput(f"{path} holds {kind}: choose with `entry`: {', '.join(plain or entries)}")


def averaged_entries(path: Path) -> tuple[str, ...]:
    """Entries with averaged weights in a PyTorch file, besides the network that is loaded from it."""
    if path.is_dir() or path.suffix in _FLAT:
        return ()
    return tuple(_averaged(_unpickled(path)))


def _averaged(found: object, depth: int = _DEPTH) -> Iterator[str]:
    """``ema``, ``model.params_ema``: what ``entry`` takes."""
    if is_state(found) or not isinstance(found, Mapping) or not depth:
        return
    for name, value in found.items():
        if not _holds_tensors(value, depth):
            continue
        if _AVERAGED.search(str(name).lower()):
            yield str(name)
        else:
            yield from (f"{name}.{inner}" for inner in _averaged(value, depth - 1))


def _holds_tensors(value: object, depth: int = _DEPTH) -> bool:
    """Whether it is a state dict or a mapping that holds one (an optimizer's state is neither)."""
    if not isinstance(value, Mapping) or not value or "param_groups" in value:
        return False
    if is_state(value):
        return True
    return depth > 1 and any(_holds_tensors(inner, depth - 1) for inner in value.values())


def _told(found: object) -> str:
    if not isinstance(found, Mapping):
        return type(found).__name__
    return some([str(name) for name in found]) or "nothing"


def some(names: list[str]) -> str:
    """A few of the names, for a message of one line."""
    shown = names[:4]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
