"""The compressed files of a run's trials in its output folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from nqbench.api.toolkit.paths import written_whole
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.stage import TRIAL


def file_of(trial_key: str, folder: Path) -> Path:
    """A trial's compressed file. folder: ``files/`` of the output folder."""
    return folder / f"{trial_key[:32]}.nqz"


def put_file(data: bytes, path: Path) -> None:
    """Write a file whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


def restore(cache: Cache, trial_key: str, file_key: str, folder: Path) -> dict[str, Any] | None:
    """A whole trial from the cache: its figures, the ``environment`` that they were computed in, its file put in place;
    None unless all of it is there."""
    entry = cache.get(TRIAL, trial_key)
    file = None if entry is None else cache.get("file", file_key)
    if entry is None or file is None:
        return None
    try:
        data = file.data
        # two machines may have made the file at once, from a method that is not the same twice
        if entry.meta.get("file_sha256") not in (None, hashlib.sha256(data).hexdigest()):
            return None
        put_file(data, file_of(trial_key, folder))
    except FileNotFoundError:  # dropped by another process meanwhile
        return None
    return {**entry.meta, "cached": [TRIAL], "seconds": {}, "measured": False}
