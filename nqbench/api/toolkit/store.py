"""Trained weights, kept with the recipe that made them, so that training happens once a machine.

A file is ``<NQBENCH_CACHE>/trained/<name>-<16 hex digits of the recipe>.safetensors``: the state under ``state/``, the
second moments of the gradients under ``moments/``; in the metadata the recipe as JSON, and the SHA-256 of the tensors
(``sha256``). It is written whole or not at all, checked whenever it is read, and dropped and made again where it is not
what was written; a lock beside it keeps two workers from training the same network at once.

Behind the folder there may be a place where machines share what they trained (``set_behind``).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.content import content_hash
from nqbench.api.toolkit.paths import cache_dir, reason
from nqbench.api.toolkit.sealed import CONTENT, contents, line, said_of, seal, unseal
from nqbench.api.toolkit.waiting import Waiting

HALVED = "halved"
"""Metadata of a file whose floats were rounded to float16: the SHA-256 of the tensors before."""
SUMS = "SHA256SUMS"
"""A list as ``sha256sum`` writes it, beside files of a store that are handed on."""

SHARED = "trained"
"""What networks are called where machines share them."""


class Behind(Protocol):
    """Where machines share what they trained; see ``nqbench.shared.tier``. None of it raises."""

    def fetch(self, stage: str, key: str, path: Path, *, fresh: bool = False) -> bytes | None: ...

    def publish(self, stage: str, key: str, told: bytes, data: Path | None) -> bool: ...

    def stale(self, stage: str, key: str) -> None: ...

    def lease(self, stage: str, key: str) -> AbstractContextManager[object] | None: ...


_behind: list[Behind] = []


def set_behind(behind: Behind | None) -> None:
    """From now on, in this process, networks are shared there; None: with nobody."""
    _behind[:] = [] if behind is None else [behind]


_read: ContextVar[dict[str, str] | None] = ContextVar("networks read", default=None)


@dataclass(frozen=True, eq=False)
class Trained:
    """state: the network's whole state. moments: second moments of the gradients by parameter name, may be empty.
    notes: figures worth keeping (seconds, losses)."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of them under the names that they have in a file, sorted: safetensors keeps no order."""
        parts = {"state": self.state, "moments": self.moments}
        return contents({f"{part}/{name}": t for part, found in parts.items() for name, t in found.items()})

    @property
    def sha256(self) -> str:
        return content_hash(self.tensors)

    state: Mapping[str, Tensor]
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """16 hex digits that change whenever the recipe (anything JSON can say) does."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def store_dir() -> Path:
    return cache_dir() / "trained"


def trained_path(name: str, recipe: Mapping[str, Any]) -> Path:
    return store_dir() / f"{name}-{recipe_digest(recipe)}.safetensors"


def trained(name: str, recipe: Mapping[str, Any], train: Callable[[Path], Trained]) -> Trained:
    """What the recipe gave, from the store, or by calling ``train(workdir)`` once and keeping the result.

    workdir: a folder for checkpoints that outlives an interruption and is removed when training succeeds. A damaged
    file is dropped with a warning and made again.
    """
    path = trained_path(name, recipe)
    try:
        found, sha256 = load_trained(path), content_of(path)
    except (FileNotFoundError, BadInput):
        found, sha256 = None, None
    if found is None or sha256 is None:
        found = _settled(path, recipe, train)
    noted = _read.get()
    if noted is not None:
        noted[path.name] = sha256 or found.sha256
    return found


def _settled(path: Path, recipe: Mapping[str, Any], train: Callable[[Path], Trained]) -> Trained:
    """The file's network, by one process at a time: sealed if it was not, made if it is missing or damaged."""
    waiting = Waiting(f"the training of {path.stem}")
    while True:
        with _alone(path) as ours:
            found = _obtained(path, recipe, train) if ours else None
        if found is not None:
            return found
        waiting.pause()


def _obtained(path: Path, recipe: Mapping[str, Any], train: Callable[[Path], Trained]) -> Trained | None:
    """The file's network: that which is there, or other machines', or trained; None where another machine is at it."""
    found = _present(path, recipe)
    if found is not None:
        return found
    with ExitStack() as stack:
        lease = _behind[0].lease(SHARED, path.name) if _behind else nullcontext()
        if lease is not None:
            stack.enter_context(lease)
        if pull(path):  # also where another holds the lease: it may just have been done
            return load_trained(path)
        return None if lease is None else _made(path, recipe, train)


def _present(path: Path, recipe: Mapping[str, Any]) -> Trained | None:
    """The file's network. None where there is none, or a damaged one, which is dropped with a warning."""
    try:
        found = load_trained(path)
        if content_of(path) is None:  # of before files said it
            save_trained(path, found, recipe)
        return found
    except BadInput as error:
        warnings.warn(f"{error}; it is dropped and trained again", stacklevel=4)
        path.unlink()
    except FileNotFoundError:
        pass
    return None


def _made(path: Path, recipe: Mapping[str, Any], train: Callable[[Path], Trained]) -> Trained:
    workdir = path.with_suffix(".work")
    try:
        workdir.mkdir(exist_ok=True)
        for left in path.parent.glob(f".{escape(path.name)}.*"):  # by a process that was killed: this one has the lock
            left.unlink(missing_ok=True)
        found = train(workdir)
        save_trained(path, found, recipe)
        shutil.rmtree(workdir)
    except OSError as error:
        raise _unwritable(path, error) from None
    push(path)
    return load_trained(path)


def pull(path: Path) -> bool:
    """Take a file of the store from where machines share theirs, if it is there and sound. Whether it was."""
    if not _behind:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    fetched = path.with_name(f".{path.name}.{os.getpid()}.pulled")
    if _behind[0].fetch(SHARED, path.name, fetched, fresh=True) is None:
        return False
    try:
        recipe = json.loads(said_of(fetched)["recipe"])
        if not path.stem.endswith(f"-{recipe_digest(recipe)}"):
            raise BadInput(f"{path.name}: its name or content says another recipe")
        load_trained(fetched)
        os.replace(fetched, path)
        return True
    except (OSError, KeyError, ValueError):
        _behind[0].stale(SHARED, path.name)
        return False
    finally:
        fetched.unlink(missing_ok=True)


def sound(path: Path) -> bool:
    """Whether a file is a network of the store, as it was written."""
    try:
        load_trained(path)
    except (OSError, BadInput):
        return False
    return True


def push(path: Path) -> bool:
    """Give a file of the store to where machines share theirs. Whether it is there now."""
    return bool(_behind) and _behind[0].publish(SHARED, path.name, b"{}", path)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold a file of the store alone; yields False where another process does. Raises BadInput where there can be
    none."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield True
    finally:
        lock.release()


def _unwritable(path: Path, error: OSError) -> BadInput:
    return BadInput(
        f"{path.parent}: cannot be written ({reason(error)}); make room, or name a folder of yours with NQBENCH_CACHE"
    )


@contextmanager
def networks_read() -> Iterator[dict[str, str]]:
    """Notes which networks of the store are read inside the block: the name of each file, and its SHA-256."""
    noted: dict[str, str] = {}
    around = _read.get()
    token = _read.set(noted)
    try:
        yield noted
    finally:
        _read.reset(token)
        if around is not None:
            around.update(noted)


def unchanged(noted: Mapping[str, str]) -> bool:
    """Whether the store still has the networks that were read, by what their files say: nothing is hashed."""
    return all(content_of(store_dir() / name) == sha256 for name, sha256 in noted.items())


def adopt(source: Path) -> Path:
    """Take weights that were trained elsewhere, a file of another store, into this one; returns where they lie.

    Raises BadInput where the file is none of a store's (its name ends in the digest of the recipe inside it), where
    its tensors are not those that it says, or where a SHA256SUMS beside it lists another file under its name.
    """
    wanted = "expected a file of a store of trained networks, <name>-<digest of its recipe>.safetensors"
    try:
        metadata = said_of(source)
        recipe = json.loads(metadata["recipe"])
        found = _widened(load_trained(source)) if HALVED in metadata else load_trained(source)
    except (OSError, KeyError, ValueError, BadInput) as error:
        raise BadInput(f"{source}: {wanted}: {str(error).removeprefix(f'{source}: ')}") from None
    if not source.stem.endswith(f"-{recipe_digest(recipe)}"):
        raise BadInput(f"{source}: {wanted}; the name or content of this file says another")
    listed = _listed(source.with_name(SUMS)).get(source.name)
    if listed not in (None, hashlib.sha256(source.read_bytes()).hexdigest()):
        raise BadInput(f"{source}: is not the file that {SUMS} beside it lists: get it again")
    path = store_dir() / source.name
    save_trained(path, found, recipe)
    return path


def _widened(found: Trained) -> Trained:
    """A network that was kept in float16, as float32 of the same values."""
    state = {name: t.float() if t.dtype == torch.float16 else t for name, t in found.state.items()}
    return replace(found, state=state)


def _listed(path: Path) -> dict[str, str]:
    """file name -> SHA-256 of a list by ``sha256sum``; nothing where there is none."""
    try:
        lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return {}
    return {line[1].lstrip("*"): line[0].lower() for line in lines if len(line) == 2}


def save_trained(path: Path, result: Trained, recipe: Mapping[str, Any]) -> None:
    """Write a network whole or not at all, with the SHA-256 of its tensors."""
    seal(path, result.tensors, {"recipe": json.dumps(recipe), "notes": json.dumps(result.notes)})


def load_trained(path: Path) -> Trained:
    """A file's network. Raises FileNotFoundError; BadInput, with the file's name, where it is not what was written."""
    parts: dict[str, dict[str, Tensor]] = {"state": {}, "moments": {}}
    tensors, about = unseal(path, open_too=True)  # a file of before files said it is taken at its word
    try:
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        return Trained(parts["state"], parts["moments"], json.loads(about.get("notes", "{}")))
    except (KeyError, ValueError) as error:
        raise BadInput(f"{path}: is no network of a store, or a damaged one: {line(error)}") from None


def content_of(path: Path) -> str | None:
    """The SHA-256 of a file's tensors as the file says; None where it does not, or there is no such file."""
    try:
        return said_of(path).get(CONTENT)
    except (OSError, BadInput):
        return None
