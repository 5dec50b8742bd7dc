"""The files of a cache's entries: ``<place>.json``, ``<place>.data`` where there is more, and locks beside them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

META = ".json"
DATA = ".data"
NEW = ".new-"
ABANDONED = 3600.0
"""Seconds after which a half-written entry belongs to a process that died: writing one takes moments."""


def told_in(place: str) -> dict[str, Any]:
    """The JSON of an entry. Raises ValueError if it is damaged or belongs to another entry."""
    with open(place + META, "rb") as file:
        crc, _, stored = file.read().partition(b"\n")
    if int(crc, 16) != zlib.crc32(stored):
        raise ValueError("not what was written")
    told: Any = json.loads(stored)
    # moved here, or of another version of this cache
    if not isinstance(told, dict) or told.get("of") != of(*place.rsplit("/", 3)[1::2]):
        raise ValueError("not what was written there")
    return told


def of(stage: str, key: str) -> str:
    """Whose an entry is."""
    return f"{stage}/{key}"


def make_folder(folder: str | Path) -> None:
    if not os.path.isdir(folder):  # a quarter of the time of asking for what is there
        os.makedirs(folder, exist_ok=True)


def kept_in(folder: Path) -> Iterator[tuple[str, int, float]]:
    """(path without its suffix, bytes, last use) of every whole entry in a folder."""
    found = {}
    with contextlib.suppress(OSError), os.scandir(folder) as listed:  # another process is dropping it
        for file in listed:
            with contextlib.suppress(OSError):  # gone meanwhile, as what another process writes under a name for now
                found[file.name] = file.stat()
    for name, stat in found.items():
        if name.endswith(META) and not name.startswith(NEW):
            place = name.removesuffix(META)
            data = found.get(place + DATA)
            yield f"{folder}/{place}", stat.st_size + (data.st_size if data else 0), stat.st_mtime


def remove(place: str) -> None:
    """An entry's JSON first: without it there is no entry."""
    for suffix in (META, DATA):
        with contextlib.suppress(OSError):
            os.unlink(place + suffix)


def drop_parts(folder: Path) -> None:
    """Remove from a folder of entries what killed processes left partly written, and what no version of the cache that
    is in use writes there. What cannot be looked at stays."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            place = str(path).removesuffix(DATA).removesuffix(META)
            # asked again for each: a list of what is whole would be of a moment ago
            if path.name.startswith(NEW) or len(folder.name) > 1 or not os.path.exists(place + META):
                drop_old(path)


def drop_old(path: Path) -> None:
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime <= ABANDONED:
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


_held: set[int] = set()
"""Descriptors of locks that this process holds."""


def _let_go() -> None:
    """In a process that a method forked: a lock is held as long as any process has its descriptor open, and such a
    process may outlive the one that took the lock."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def release(path: Path, descriptor: int) -> None:
    """Give a lock back that ``acquire`` gave, unless this process is one that was forked since."""
    if descriptor not in _held:
        return
    _held.discard(descriptor)
    try:
        with contextlib.suppress(OSError):  # a folder that can no longer be written
            path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone, and starts again
    finally:
        os.close(descriptor)


def acquire(path: Path) -> int | None:
    """A descriptor that holds the lock file alone, until ``release``, or the end of this process; None where another
    process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                _held.add(descriptor)
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:  # whoever held it removed it when done
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def checksum(path: str) -> tuple[int, int]:
    """(bytes, CRC-32) of a file."""
    size = crc = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            size += len(block)
            crc = zlib.crc32(block, crc)
    return size, crc
