"""What files hold, for fingerprints and for what is kept in memory of them: read again only where a file was changed.

Nothing of a digest is of the machine, such as paths and times: machines with the same data share a cache.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nqbench.api.toolkit.download import digest_of
from nqbench.api.toolkit.paths import find_data

_SETTLED = 2 * 10**9
"""Nanoseconds, more than any file system's clock takes to tick: a file may be changed again at the same time."""


@dataclass(frozen=True)
class Seen:
    """A file or folder and the digest of what it holds: the key of what is kept in memory of it."""

    path: Path
    digest: str


def seen(path: Path) -> Seen:
    return Seen(path, content(path))


def content(path: Path) -> str:
    """The SHA-256 of a file."""
    stat = path.stat()
    if time.time_ns() - stat.st_ctime_ns < _SETTLED:
        return digest_of(path, "sha256")
    return _content(path, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)


@cache
def _content(path: Path, *_when: int) -> str:
    return digest_of(path, "sha256")


def contents(files: Iterable[tuple[str, Path]]) -> str:
    """A digest of files in their order, with what each is called."""
    return joined(f"{name} {content(path)}" for name, path in files)


def joined(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def of_data(names: Iterable[str]) -> str:
    """A digest of files of the data folder; one that is not there counts as such."""
    found = [(name, find_data(name)) for name in names]
    return joined(f"{name} {'' if path is None else content(path)}" for name, path in found)
