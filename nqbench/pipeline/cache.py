"""The content-addressed cache between stages: ``<root>/<stage>/<two digits>/<key>/`` with ``meta.json`` and files.

An entry appears whole (written beside, then renamed) or not at all, and is never changed; ``meta.json`` has the size
and CRC-32 of every file, so that a damaged entry is noticed, dropped and made again. Its last use is the mtime of its
``meta.json``, so that pruning drops what was not used for longest. Only successes are stored.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import tempfile
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
RESULTS = ("prune", "sense", "knob", "quantize", "file", "evaluate", "loss", "trial")
WORK = "work"
"""Checkpoints of stages that were interrupted."""
STAGES = (*RESULTS, WORK)
_NEW = ".new-"
_META = "meta.json"
_ABANDONED = 3600.0
"""Seconds after which a half-written entry belongs to a process that died: writing one takes moments."""


@dataclass(frozen=True)
class Entry:
    """A stored result: ``meta`` (JSON) and the folder that holds its files."""

    folder: Path
    meta: dict[str, Any]

    def file(self, name: str) -> Path:
        return self.folder / name


class Cache:
    """One folder of results. ``Cache(None)`` keeps nothing and finds nothing."""

    def __init__(self, root: Path | None) -> None:
        self.root = root

    @staticmethod
    def default() -> Cache:
        """NQBENCH_CACHE, or the user's cache folder."""
        return Cache(cache_dir() / "stages")

    def folder(self, stage: str, key: str) -> Path | None:
        return None if self.root is None else self.root / stage / key[:2] / key

    # -- looking up and keeping --------------------------------------------------------------------------------------
    def get(self, stage: str, key: str) -> Entry | None:
        """The entry, its last use noted; None where there is none, or a damaged one (which is dropped)."""
        folder = self.folder(stage, key)
        if folder is None:
            return None
        meta = folder / _META
        try:
            stored = json.loads(meta.read_bytes())
            for name, told in stored["files"].items():
                if _checksum(folder / name) != tuple(told):
                    raise ValueError(f"{name} is not what was written")
            entry = Entry(folder, dict(stored["result"]))
            os.utime(meta)
        except FileNotFoundError:
            if folder.is_dir():  # a file of it is gone
                self.drop(stage, key)
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.drop(stage, key)
            return None
        return entry

    def drop(self, stage: str, key: str) -> None:
        folder = self.folder(stage, key)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def recall(self, stage: str, key: str, load: Callable[[Entry], T]) -> T | None:
        """``load`` of the entry; None where there is none that can be loaded."""
        entry = self.get(stage, key)
        if entry is None:
            return None
        try:
            return load(entry)
        except (OSError, ValueError, KeyError):  # dropped by another process meanwhile, or written by other code
            self.drop(stage, key)
            return None

    @contextlib.contextmanager
    def put(self, stage: str, key: str, meta: Mapping[str, Any]) -> Iterator[Path]:
        """Write files into the folder given; the entry appears when the block ends without an exception.

        An OSError (a full disk, a folder that cannot be written) costs the entry, not the result: it is a warning.
        Without a cache the folder is a temporary one and vanishes.
        """
        target = self.folder(stage, key)
        if target is None:
            with tempfile.TemporaryDirectory(prefix="nqbench-") as temporary:
                yield Path(temporary)
            return
        made = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            made = target.parent / f"{_NEW}{os.getpid()}-{secrets.token_hex(4)}"
            made.mkdir()
            yield made
            files = {path.name: _checksum(path) for path in made.iterdir()}
            (made / _META).write_text(json.dumps({"result": dict(meta), "files": files}))
            # where another worker was faster, its entry is as good as this one
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                _rename(made, target)
        except OSError as error:
            warnings.warn(f"{target.parent}: a result is not cached: {error}", stacklevel=3)
            if made is None:  # the block has not run yet, and must
                with tempfile.TemporaryDirectory(prefix="nqbench-") as temporary:
                    yield Path(temporary)
        finally:
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)

    def once(
        self,
        stage: str,
        key: str,
        *,
        load: Callable[[Entry], T],
        make: Callable[[Path | None], T],
        save: Callable[[T, Path], None],
        meta: Callable[[T], Mapping[str, Any]],
        checkpoints: bool = False,
        first: Callable[[], object] = lambda: None,
    ) -> tuple[T, bool]:
        """A stage's result, and whether it came from the cache.

        Made by ``make(workdir)`` where the cache has none, by one process at a time; workdir: a folder for the stage's
        own checkpoints that outlives an interruption and is removed on success, where ``checkpoints`` asks for one.
        first: what ``make`` starts from, with keys of its own, looked up while this key is not held yet.
        """
        if self.root is None:
            return make(None), False
        found = self.recall(stage, key, load)
        if found is not None:
            return found, True
        first()
        with self.lock(stage, key):
            found = self.recall(stage, key, load)  # another worker may have made it while this one waited
            if found is not None:
                return found, True
            workdir = self.root / WORK / f"{stage}-{key}" if checkpoints else None
            if workdir is not None:
                workdir.mkdir(parents=True, exist_ok=True)
            value = make(workdir)
            with self.put(stage, key, meta(value)) as folder:
                save(value, folder)
            if workdir is not None:
                shutil.rmtree(workdir, ignore_errors=True)
        return value, False

    @contextlib.contextmanager
    def lock(self, stage: str, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a key alone, so that two workers do not compute one result. Yields False where another holds it and
        ``wait`` is not set. Released when its process dies; its file goes with it."""
        assert self.root is not None
        path = self.root / "locks" / f"{stage}-{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        held = _acquire(path, wait=wait)
        if held is None:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone, and starts again
            os.close(held)

    # -- upkeep --------------------------------------------------------------------------------------------------
    def entries(self) -> Iterator[tuple[str, Path, int, float]]:
        """(stage, folder, bytes, last use) of every entry."""
        if self.root is None or not self.root.is_dir():
            return
        for stage in STAGES:
            for folder in (self.root / stage).glob("*" if stage == WORK else "??/*"):
                if folder.name.startswith(_NEW):
                    continue
                try:
                    stats = [path.stat() for path in (folder, *folder.rglob("*"))]
                    meta = folder / _META
                    used = meta.stat().st_mtime if stage != WORK else max(s.st_mtime for s in stats)
                except OSError:  # another process is dropping it
                    continue
                yield stage, folder, sum(s.st_size for s in stats[1:]), used

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
        """Drop what was not used for longest until at most ``limit`` bytes are left: (entries, bytes) dropped."""
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
        for stage, folder, bytes_, _ in entries:
            if stage == WORK:
                of, _, key = folder.name.partition("-")
                with self.lock(of, key, wait=False) as free:
                    if not free:  # a training is at it
                        continue
                    shutil.rmtree(folder, ignore_errors=True)
            else:
                shutil.rmtree(folder, ignore_errors=True)
            dropped, size = dropped + 1, size + bytes_
        return dropped, size

    def _drop_abandoned(self) -> None:
        """What processes that were killed left half written."""
        if self.root is None:
            return
        for stage in RESULTS:
            for folder in (self.root / stage).glob(f"??/{_NEW}*"):
                with contextlib.suppress(OSError):
                    if time.time() - folder.stat().st_mtime > _ABANDONED:
                        shutil.rmtree(folder, ignore_errors=True)


def _rename(made: Path, target: Path) -> None:
    """Rename a folder; a target that is there already is a FileExistsError on every system."""
    try:
        os.rename(made, target)
    except OSError:
        if target.is_dir():
            raise FileExistsError(str(target)) from None
        raise


def _acquire(path: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the lock file alone; None where another holds it and we shall not wait."""
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


def _checksum(path: Path) -> tuple[int, int]:
    """(bytes, CRC-32) of a file."""
    size = crc = 0
    with path.open("rb") as file:
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
