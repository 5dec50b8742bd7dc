"""The content-addressed cache between stages: ``<root>/<stage>/<two digits>/<key>/`` with ``meta.json`` and files.

An entry appears whole (written beside, then renamed) or not at all, and is never changed. Its last use is the mtime of
its ``meta.json``, so that pruning drops what was not used for longest. Only successes are stored.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.paths import cache_dir

DEFAULT_LIMIT = 20 << 30
"""Bytes, unless the environment variable NQBENCH_CACHE_LIMIT says otherwise."""
STAGES = ("prune", "sense", "quantize", "file", "evaluate", "loss", "trial")


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

    def get(self, stage: str, key: str) -> Entry | None:
        """The entry, its last use noted; None where there is none, or a damaged one (which is dropped)."""
        folder = self.folder(stage, key)
        if folder is None:
            return None
        meta = folder / "meta.json"
        try:
            entry = Entry(folder, json.loads(meta.read_bytes()))
            os.utime(meta)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return entry

    @contextlib.contextmanager
    def put(self, stage: str, key: str, meta: Mapping[str, Any]) -> Iterator[Path]:
        """Write files into the folder given; the entry appears when the block ends without an exception.

        Without a cache the folder is a temporary one and vanishes.
        """
        target = self.folder(stage, key)
        if target is None:
            with tempfile.TemporaryDirectory(prefix="nqbench-") as temporary:
                yield Path(temporary)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".new-", dir=target.parent)
        try:
            yield Path(temporary)
            (Path(temporary) / "meta.json").write_text(json.dumps(dict(meta)))
            # where another worker was faster, its entry is as good as this one
            with contextlib.suppress(OSError):
                os.rename(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """Hold a key alone, so that two workers do not compute one result. Released when its process dies."""
        if self.root is None:
            yield
            return
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{stage}-{key}.lock"):
            yield

    def workdir(self, stage: str, key: str) -> Path | None:
        """A folder for a stage's own checkpoints, kept until the stage succeeds; see ``done_with``."""
        if self.root is None:
            return None
        folder = self.root / "work" / f"{stage}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def done_with(self, stage: str, key: str) -> None:
        if self.root is not None:
            shutil.rmtree(self.root / "work" / f"{stage}-{key}", ignore_errors=True)
            (self.root / "locks" / f"{stage}-{key}.lock").unlink(missing_ok=True)

    # -- upkeep --------------------------------------------------------------------------------------------------
    def entries(self) -> Iterator[tuple[str, Path, int, float]]:
        """(stage, folder, bytes, last use) of every entry."""
        if self.root is None or not self.root.is_dir():
            return
        for stage in STAGES:
            for folder in (self.root / stage).glob("??/*"):
                try:
                    used = (folder / "meta.json").stat().st_mtime
                    size = sum(f.stat().st_size for f in folder.iterdir())
                except OSError:  # another process is writing or dropping it
                    continue
                yield stage, folder, size, used

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

    @staticmethod
    def _drop(entries: list[tuple[str, Path, int, float]]) -> tuple[int, int]:
        for _, folder, _, _ in entries:
            shutil.rmtree(folder, ignore_errors=True)
        return len(entries), sum(size for _, _, size, _ in entries)


def limit_from_environment() -> int:
    """NQBENCH_CACHE_LIMIT in bytes (suffixes k, M, G, T allowed), or the default."""
    text = os.environ.get("NQBENCH_CACHE_LIMIT", "").strip()
    return parse_size(text) if text else DEFAULT_LIMIT


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
