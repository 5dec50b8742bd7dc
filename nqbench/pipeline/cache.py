"""The content-addressed cache between stages: ``<root>/<stage>/<one digit>/<key>.json`` and, for the part of a
result that is not JSON, ``<key>.data``.

An entry appears at once (the data is written first, then the JSON is renamed into place) and is never changed. The JSON
has the stage and key of the entry, the size and CRC-32 of the data and the CRC-32 of itself, so that an entry that is
damaged, belongs to another key or has another form is noticed, removed and computed again. The mtime of the JSON is the
time of last use, by which pruning selects what to remove. Failures are not stored. An entry needs few files and system
calls, since creating a file costs more than writing most results.

Behind this folder there may be a tier that machines share (``nqbench.shared``). A result that is not in the folder is
looked up there and copied into the folder; a result that is computed here is written there too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.paths import cache_dir, reason
from nqbench.api.toolkit.waiting import Waiting
from nqbench.pipeline.entries import (
    DATA,
    META,
    NEW,
    acquire,
    checksum,
    drop_parts,
    kept_in,
    make_folder,
    of,
    release,
    remove,
    told_in,
)
from nqbench.shared.lease import Lease
from nqbench.shared.tier import Shared, attached
from nqbench.shared.told import tell

T = TypeVar("T")

LIMIT_VARIABLE = "NQBENCH_CACHE_LIMIT"
DEFAULT_LIMIT = 20 << 30
"""Bytes, unless the environment variable NQBENCH_CACHE_LIMIT says otherwise."""
WORK = "work"
"""Checkpoints of stages that were interrupted."""
_LOCKS = "locks"


@dataclass(frozen=True)
class Entry:
    """A stored result: ``meta`` (JSON), and the path of its data, if it has any."""

    meta: dict[str, Any]
    path: Path

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()


class Cache:
    """A folder of cached results, and the shared tier behind it. ``Cache(None)`` stores and finds nothing."""

    def __init__(self, root: Path | None, shared: Shared | None = None) -> None:
        self.root = root
        self.shared = None if root is None else shared
        self._full = False

    @staticmethod
    def folder() -> Path:
        """This machine's."""
        return cache_dir() / "stages"

    @staticmethod
    def default() -> Cache:
        """NQBENCH_CACHE, or the user's cache folder, and behind it NQBENCH_SHARED_CACHE, where from now on trained
        networks are shared, too. Raises BadInput."""
        return Cache(Cache.folder(), attached())

    def _place(self, stage: str, key: str) -> str:
        """The entry's path without its suffix."""
        return f"{self.root}/{stage}/{key[:1]}/{key}"

    # -- looking up and keeping --------------------------------------------------------------------------------------
    def get(self, stage: str, key: str, *, fresh: bool = False) -> Entry | None:
        """The entry, whose time of last use is updated; None if there is none, or it is damaged (then it is removed).

        fresh: ask the shared tier even if the entry was not there a moment ago.
        """
        found = self._own(stage, key)
        return self._own(stage, key) if found is None and self.pull(stage, key, fresh=fresh) else found

    def _own(self, stage: str, key: str) -> Entry | None:
        """The entry of this folder."""
        if self.root is None:
            return None
        place = self._place(stage, key)
        if not os.path.exists(place + META):
            return None
        try:
            told = told_in(place)
            if told["data"] is not None and checksum(place + DATA) != tuple(told["data"]):
                raise ValueError("not what was written")
        except (FileNotFoundError, ValueError):
            remove(place)
            return None
        except OSError:  # too many open files, another user's: the entry may be as good as ever
            return None
        with contextlib.suppress(OSError):  # another user's, or not to be written
            os.utime(place + META)
        return Entry(told["result"], Path(place + DATA))

    def has(self, stage: str, key: str) -> bool:
        """Whether there is an entry, sound or not; one of the shared tier is here then."""
        return self.here(stage, key) or self.pull(stage, key)

    def here(self, stage: str, key: str) -> bool:
        """Whether this folder has an entry, sound or not."""
        return self.root is not None and os.path.exists(self._place(stage, key) + META)

    def peek(self, stage: str, key: str) -> dict[str, Any] | None:
        """The JSON of an entry, without checking its data; None if there is no entry, or the JSON is damaged."""
        if self.root is None:
            return None
        for _ in range(2):
            try:
                found: dict[str, Any] = told_in(self._place(stage, key))["result"]
                return found
            except (OSError, ValueError):
                if not self.pull(stage, key):
                    break
        return None

    def drop(self, stage: str, key: str) -> None:
        """An entry does not do: it goes, and that of the shared tier will be replaced."""
        if self.root is not None:
            remove(self._place(stage, key))
        if self.shared is not None:
            self.shared.stale(stage, key)

    def recall(self, stage: str, key: str, load: Callable[[Entry], T], *, fresh: bool = False) -> T | None:
        """The entry loaded by ``load``; None if there is none, or it cannot be loaded."""
        entry = self.get(stage, key, fresh=fresh)
        if entry is None:
            return None
        try:
            return load(entry)
        except FileNotFoundError:  # dropped by another process meanwhile
            remove(self._place(stage, key))
        except OSError:  # as in ``_own``
            pass
        except (ValueError, KeyError):  # written by other code, made of other networks
            self.drop(stage, key)
        return None

    def put(self, stage: str, key: str, meta: Mapping[str, Any], save: Callable[[Path], object] | None = None) -> None:
        """Store a result. save: writes the part that is not JSON into a file.

        If writing fails (a full disk, a read-only folder), the result is not cached, which is told once.
        """
        if self.root is None or self.here(stage, key):  # another worker was faster: its entry is as good as this one
            return
        try:
            with self._new(stage, key) as new:
                data = None
                if save is not None:
                    save(new)
                    data = checksum(str(new))
                told = json.dumps({"of": of(stage, key), "result": dict(meta), "data": data}).encode()
                self._keep(stage, key, told, None if save is None else new)
        except OSError as error:
            self._not_kept(error)
            return
        self.push(stage, key)

    @contextlib.contextmanager
    def _new(self, stage: str, key: str) -> Iterator[Path]:
        """A path in the folder of an entry for its data. Raises OSError."""
        folder, name = os.path.split(self._place(stage, key))
        new = Path(f"{folder}/{NEW}{os.getpid()}-{name}")
        make_folder(folder)
        try:
            yield new
        finally:
            with contextlib.suppress(OSError):
                os.unlink(new)

    def _not_kept(self, error: OSError) -> None:
        """Say so, once: what is true of one result is true of those after it."""
        if not self._full:
            self._full = True
            tell(
                f"cache {self.root}",
                f"the cache {self.root} cannot be written ({reason(error)}): what is computed now will be computed "
                "again; make room there, or name another folder with NQBENCH_CACHE",
            )

    def _keep(self, stage: str, key: str, told: bytes, data: Path | None) -> None:
        """Put a whole entry in place. told: what its JSON says. data: a file that becomes its own."""
        place = self._place(stage, key)
        if data is not None:
            os.replace(data, place + DATA)
        folder, name = os.path.split(place)
        new = f"{folder}/{NEW}{os.getpid()}-{name}"
        with open(new, "wb") as file:
            file.write(b"%08x\n" % zlib.crc32(told) + told)
        os.replace(new, place + META)

    def pull(self, stage: str, key: str, *, fresh: bool = False) -> bool:
        """Take an entry from the shared tier, where it is there and sound. Whether it is here now."""
        if self.shared is None:
            return False
        try:
            with self._new(stage, key) as new:
                told = self.shared.fetch(stage, key, new, fresh=fresh)
                if told is not None and json.loads(told).get("of") == of(stage, key):
                    self._keep(stage, key, told, new if json.loads(told)["data"] is not None else None)
                    return True
        except OSError as error:
            self._not_kept(error)
        return False

    def push(self, stage: str, key: str) -> bool:
        """Write an entry of this folder to the shared tier, unless it has it. Whether it is there now."""
        place = self._place(stage, key)
        if self.shared is None or not self.here(stage, key):
            return False
        try:
            with open(place + META, "rb") as file:
                told = file.read().partition(b"\n")[2]
            data = None if json.loads(told)["data"] is None else Path(place + DATA)
            return self.shared.publish(stage, key, told, data)
        except (OSError, ValueError):  # dropped by another process meanwhile: who needs it makes it again
            return False

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
        filed: bool = False,
    ) -> tuple[T, bool]:
        """A stage's result, and whether it came from the cache.

        Made by ``make(workdir)`` where the cache has none, if ``alone`` by one process of all machines at a time;
        workdir: a folder for the stage's own checkpoints that outlives an interruption and is removed on success, where
        ``checkpoints`` asks for one. filed: give what is loaded from the cache also where it was just made, so that a
        result which stays in its file until it is read takes no memory. Raises Busy where another process is at it for
        longer than one waits (``nqbench.api.toolkit.waiting``).
        """
        if self.root is None:
            return make(None), False
        found = self.recall(stage, key, load)
        if found is not None:
            return found, True

        def made() -> T:
            assert self.root is not None
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
            again = self.recall(stage, key, load) if filed else None
            return value if again is None else again

        if not alone:
            return made(), False
        waiting = Waiting(f"the stage '{stage}'")
        while True:
            with self.turn(stage, key) as ours:
                if ours:
                    # another process may have made it while this one waited
                    found = self.recall(stage, key, load, fresh=True)
                    return (made(), False) if found is None else (found, True)
            waiting.pause()

    @contextlib.contextmanager
    def turn(self, stage: str, key: str) -> Iterator[bool]:
        """Hold a key alone, among the processes of this machine and, as well as can be, of all that share the tier
        behind. Yields False where another holds it."""
        with self.lock(stage, key) as free, contextlib.ExitStack() as stack:
            lease = None if not free else Lease() if self.shared is None else self.shared.lease(stage, key)
            if lease is not None:
                stack.enter_context(lease)
            yield lease is not None

    @contextlib.contextmanager
    def lock(self, stage: str, key: str) -> Iterator[bool]:
        """Hold a key alone among the processes of this machine. Yields False where another holds it. Released when its
        process dies; its file goes with it."""
        assert self.root is not None
        path = self.root / _LOCKS / f"{stage}-{key}.lock"
        try:
            make_folder(path.parent)
            held = acquire(path)
            free = held is not None
        except OSError:  # a cache that cannot be written has no locks: two workers may compute the same result
            held, free = None, True
        if held is None:
            yield free
            return
        try:
            yield True
        finally:
            release(path, held)

    # -- upkeep --------------------------------------------------------------------------------------------------
    def entries(self) -> Iterator[tuple[str, Path, int, float]]:
        """(stage, path, bytes, last use) of every entry. path: its JSON, or a folder of checkpoints."""
        if self.root is None or not self.root.is_dir():
            return
        for stage in self._stages():
            for folder in (self.root / stage).glob("?"):
                for place, size, used in kept_in(folder):
                    yield stage, Path(place + META), size, used
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
                with self.lock(of, key) as free:
                    if not free:  # a training is at it
                        continue
                    shutil.rmtree(path, ignore_errors=True)
            else:
                remove(str(path).removesuffix(META))
            dropped, size = dropped + 1, size + bytes_
        return dropped, size

    def _drop_abandoned(self) -> None:
        """Remove entries that killed processes left partly written, and those of earlier versions of the cache."""
        if self.root is None:
            return
        for stage in self._stages():
            for folder in (self.root / stage).glob("*"):
                drop_parts(folder)


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
