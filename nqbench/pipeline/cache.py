"""The content-addressed cache between stages: ``<root>/<stage>/<one digit>/<key>.json`` and, for the part of a
result that is not JSON, ``<key>.data``.

An entry appears at once (the data is written first, then the JSON is renamed into place) and is never changed. The JSON
has the stage and key of the entry, the size and CRC-32 of the data and the CRC-32 of itself, so that an entry that is
damaged, belongs to another key or has another form is noticed, removed and computed again. The mtime of the JSON is the
time of last use, by which pruning selects what to remove. Failures are not stored. An entry needs few files and system
calls, since creating a file costs more than writing most results.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.paths import cache_dir

T = TypeVar("T")

LIMIT_VARIABLE = "NQBENCH_CACHE_LIMIT"
DEFAULT_LIMIT = 20 << 30
"""Bytes, unless the environment variable NQBENCH_CACHE_LIMIT says otherwise."""
WORK = "work"
"""Checkpoints of stages that were interrupted."""
_LOCKS = "locks"
_META = ".json"
_DATA = ".data"
_NEW = ".new-"
_ABANDONED = 3600.0
"""Seconds after which a partly written entry counts as left over by a process that died."""


@dataclass(frozen=True)
class Entry:
    """A stored result: ``meta`` (JSON), and the path of its data, if it has any."""

    meta: dict[str, Any]
    path: Path

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()


class Cache:
    """A folder of cached results. ``Cache(None)`` stores and finds nothing."""

    def __init__(self, root: Path | None) -> None:
        self.root = root

    @staticmethod
    def default() -> Cache:
        """NQBENCH_CACHE, or the user's cache folder."""
        return Cache(cache_dir() / "stages")

    def _place(self, stage: str, key: str) -> str:
        """The entry's path without its suffix."""
        return f"{self.root}/{stage}/{key[:1]}/{key}"

    # -- looking up and keeping --------------------------------------------------------------------------------------
    def get(self, stage: str, key: str) -> Entry | None:
        """The entry, whose time of last use is updated; None if there is none, or it is damaged (then it is
        removed)."""
        if self.root is None:
            return None
        place = self._place(stage, key)
        if not os.path.exists(place + _META):
            return None
        try:
            told = _told(place)
            if told["data"] is not None and _checksum(place + _DATA) != tuple(told["data"]):
                raise ValueError("not what was written")
            os.utime(place + _META)
        except (OSError, ValueError):
            self.drop(stage, key)
            return None
        return Entry(told["result"], Path(place + _DATA))

    def has(self, stage: str, key: str) -> bool:
        """Whether there is an entry, sound or not."""
        return self.root is not None and os.path.exists(self._place(stage, key) + _META)

    def peek(self, stage: str, key: str) -> dict[str, Any] | None:
        """The JSON of an entry, without checking its data; None if there is no entry, or the JSON is damaged."""
        if self.root is None:
            return None
        try:
            found: dict[str, Any] = _told(self._place(stage, key))["result"]
        except (OSError, ValueError):
            return None
        return found

    def drop(self, stage: str, key: str) -> None:
        if self.root is not None:
            _remove(self._place(stage, key))

    def recall(self, stage: str, key: str, load: Callable[[Entry], T]) -> T | None:
        """The entry loaded by ``load``; None if there is none, or it cannot be loaded."""
        entry = self.get(stage, key)
        if entry is None:
            return None
        try:
            return load(entry)
        except (OSError, ValueError, KeyError):  # dropped by another process meanwhile, or written by other code
            self.drop(stage, key)
            return None

    def put(self, stage: str, key: str, meta: Mapping[str, Any], save: Callable[[Path], object] | None = None) -> None:
        """Store a result. save: writes the part that is not JSON into a file.

        If writing fails (a full disk, a read-only folder), the result is not cached and a warning says so.
        """
        if self.root is None:
            return
        place = self._place(stage, key)
        if os.path.exists(place + _META):  # another worker was faster: its entry is as good as this one
            return
        folder, name = os.path.split(place)
        new = f"{folder}/{_NEW}{os.getpid()}-{name}"
        try:
            _make(folder)
            data = None
            if save is not None:
                save(Path(new))
                data = _checksum(new)
                os.replace(new, place + _DATA)
            stored = json.dumps({"of": _of(place), "result": dict(meta), "data": data}).encode()
            with open(new, "wb") as file:
                file.write(b"%08x\n" % zlib.crc32(stored) + stored)
            os.replace(new, place + _META)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(new)
            if not isinstance(error, OSError):
                raise
            warnings.warn(f"{folder}: a result is not cached: {error}", stacklevel=3)

    def once(
        self,
        stage: str,
        key: str,
        *,
        load: Callable[[Entry], T],
        make: Callable[[Path | None], T],
        save: Callable[[T, Path], object] | None = None,
        meta: Callable[[T], Mapping[str, Any]],
        checkpoints: bool = False,
        alone: bool = True,
    ) -> tuple[T, bool]:
        """A stage's result, and whether it came from the cache.

        If it is not in the cache, ``make(workdir)`` computes it; with ``alone``, other processes wait for that.
        workdir: a folder for checkpoints, if ``checkpoints`` is set. It survives an interruption and is removed on
        success.
        """
        if self.root is None:
            return make(None), False
        found = self.recall(stage, key, load)
        if found is not None:
            return found, True
        with self.lock(stage, key) if alone else contextlib.nullcontext():
            # another worker may have made it while this one waited
            found = self.recall(stage, key, load) if alone else None
            if found is not None:
                return found, True
            workdir = self.root / WORK / f"{stage}-{key}" if checkpoints else None
            if workdir is not None:
                try:
                    workdir.mkdir(parents=True, exist_ok=True)
                except OSError:
                    workdir = None
            value = make(workdir)
            self.put(stage, key, meta(value), None if save is None else lambda path: save(value, path))
            if workdir is not None:
                shutil.rmtree(workdir, ignore_errors=True)
        return value, False

    @contextlib.contextmanager
    def lock(self, stage: str, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Lock a key, so that two workers do not compute the same result. Yields False if another process holds the
        lock and ``wait`` is not set. The lock is released when its process dies."""
        assert self.root is not None
        path = self.root / _LOCKS / f"{stage}-{key}.lock"
        try:
            _make(path.parent)
            held = _acquire(path, wait=wait)
            free = held is not None
        except OSError:  # a cache that cannot be written has no locks: two workers may compute the same result
            held, free = None, True
        if held is None:
            yield free
            return
        try:
            yield True
        finally:
            # while the lock is held: a process that waits for it notices that, and starts again
            path.unlink(missing_ok=True)
            os.close(held)

    # -- upkeep --------------------------------------------------------------------------------------------------
    def entries(self) -> Iterator[tuple[str, Path, int, float]]:
        """(stage, path, bytes, last use) of every entry. path: its JSON, or a folder of checkpoints."""
        if self.root is None or not self.root.is_dir():
            return
        for stage in self._stages():
            for folder in (self.root / stage).glob("?"):
                for place, size, used in _kept(folder):
                    yield stage, Path(place + _META), size, used
        for work in (self.root / WORK).glob("*"):
            try:
                stats = [path.stat() for path in (work, *work.rglob("*"))]
            except OSError:  # another process is dropping it
                continue
            yield WORK, work, sum(s.st_size for s in stats[1:]), max(s.st_mtime for s in stats)

    def _stages(self) -> list[str]:
        """The names under which there are results."""
        if self.root is None or not self.root.is_dir():
            return []
        return sorted(f.name for f in self.root.iterdir() if f.is_dir() and f.name not in (WORK, _LOCKS))

    def info(self) -> dict[str, tuple[int, int]]:
        """stage -> (entries, bytes), for stages that have any."""
        found: dict[str, tuple[int, int]] = {}
        for stage, _, size, _ in self.entries():
            count, total = found.get(stage, (0, 0))
            found[stage] = count + 1, total + size
        return found

    def clear(self, stage: str | None = None) -> tuple[int, int]:
        """Drop everything (of one stage): (entries, bytes) dropped."""
        return self._drop([e for e in self.entries() if stage in (None, e[0])])

    def prune(self, limit: int) -> tuple[int, int]:
        """Remove the entries unused for longest until at most ``limit`` bytes are left: (entries, bytes) removed."""
        found = sorted(self.entries(), key=lambda e: e[3], reverse=True)
        kept, drop = 0, []
        for entry in found:
            kept += entry[2]
            if kept > limit:
                drop.append(entry)
        return self._drop(drop)

    def _drop(self, entries: list[tuple[str, Path, int, float]]) -> tuple[int, int]:
        self._drop_abandoned()
        dropped, size = 0, 0
        for stage, path, bytes_, _ in entries:
            if stage == WORK:
                of, _, key = path.name.partition("-")
                with self.lock(of, key, wait=False) as free:
                    if not free:  # a training is at it
                        continue
                    shutil.rmtree(path, ignore_errors=True)
            else:
                _remove(str(path).removesuffix(_META))
            dropped, size = dropped + 1, size + bytes_
        return dropped, size

    def _drop_abandoned(self) -> None:
        """Remove entries that killed processes left partly written, and those of earlier versions of the cache."""
        if self.root is None:
            return
        for stage in self._stages():
            for folder in (self.root / stage).glob("*"):
                whole = {place for place, _, _ in _kept(folder)} if len(folder.name) == 1 else set()
                for path in folder.iterdir():
                    if path.name.startswith(_NEW) or str(path).removesuffix(_DATA).removesuffix(_META) not in whole:
                        _drop_old(path)


def _told(place: str) -> dict[str, Any]:
    """The JSON of an entry. Raises ValueError if it is damaged or belongs to another entry."""
    with open(place + _META, "rb") as file:
        crc, _, stored = file.read().partition(b"\n")
    if int(crc, 16) != zlib.crc32(stored):
        raise ValueError("not what was written")
    told: Any = json.loads(stored)
    if not isinstance(told, dict) or told.get("of") != _of(place):  # moved here, or of another version of this cache
        raise ValueError("not what was written there")
    return told


def _of(place: str) -> str:
    """Whose an entry is: stage and key."""
    stage, _, key = place.rsplit("/", 2)
    return f"{stage}/{key}"


def _make(folder: str | Path) -> None:
    if not os.path.isdir(folder):  # makedirs takes four times as long if the folder exists
        os.makedirs(folder, exist_ok=True)


def _kept(folder: Path) -> Iterator[tuple[str, int, float]]:
    """(path without its suffix, bytes, last use) of every whole entry in a folder."""
    try:
        found = {file.name: file.stat() for file in os.scandir(folder)}
    except OSError:  # another process is dropping it
        return
    for name, stat in found.items():
        if name.endswith(_META) and not name.startswith(_NEW):
            place = name.removesuffix(_META)
            data = found.get(place + _DATA)
            yield f"{folder}/{place}", stat.st_size + (data.st_size if data else 0), stat.st_mtime


def _remove(place: str) -> None:
    """Remove an entry. Its JSON first: without it, the entry does not exist."""
    for suffix in (_META, _DATA):
        with contextlib.suppress(OSError):
            os.unlink(place + suffix)


def _drop_old(path: Path) -> None:
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime <= _ABANDONED:
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _acquire(path: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the lock; None if another process holds it and ``wait`` is not set."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
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


def _checksum(path: str) -> tuple[int, int]:
    """(bytes, CRC-32) of a file."""
    size = crc = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            size += len(block)
            crc = zlib.crc32(block, crc)
    return size, crc


def limit_from_environment() -> int:
    """NQBENCH_CACHE_LIMIT in bytes (suffixes k, M, G, T allowed), or the default. Raises BadInput."""
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        return parse_size(text) if text else DEFAULT_LIMIT
    except BadInput as error:
        raise BadInput(f"{LIMIT_VARIABLE}: {error}") from None


def parse_size(text: str) -> int:
    """'500M' -> 524288000. Raises BadInput."""
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}.get(text[-1:].lower(), 1)
    try:
        size = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        size = -1.0
    if not 0 <= size < 2**63:
        raise BadInput(f"'{text}' is not a size: write bytes, or a number with k, M, G or T, as in 10G")
    return int(size)
