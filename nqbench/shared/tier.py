"""Entries of the cache in the place that machines share: ``<stage>/<two digits>/<key>``, one object each.

An object is the entry's data, what JSON says of it, and 48 bytes: ``nqbench1``, the length of the JSON (8 bytes, big
endian), and the SHA-256 of the entry's name, a zero byte, data and JSON. It is checked whenever it is read; one that
is not what was written is a miss, is told once, and is written again by who makes it anew.

Nothing here raises where the place is away: there is nothing in it then, and it is asked again after a while. What
could not be written meanwhile is written when it is back, or by ``nqbench cache push``.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.store import set_behind
from nqbench.secret import masked
from nqbench.shared.lease import Lease, Watched
from nqbench.shared.objects import NEW, Objects, open_objects
from nqbench.shared.told import tell

VARIABLE = "NQBENCH_SHARED_CACHE"
LEASES = "leases"
AGAIN = 15.0
"""Seconds until a place that was away is asked again."""
_MISSED = 2.0
"""Seconds for which it is believed that an entry is not there."""
_MANY = 64
"""Misses of one stage after which it is asked what there is, instead of for each entry."""
_LISTED = 60.0
"""Seconds for which such a list is believed, by who does not ask for the truth (``fresh``)."""
_MAGIC = b"nqbench1"
_TRAILER = len(_MAGIC) + 8 + 32
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_MOST_TOLD = 1 << 26
"""Bytes of JSON that an entry may have."""


class Shared:
    """The shared tier at a URL. Raises BadInput where that, or what is installed, does not do."""

    def __init__(self, url: str, objects: Objects | None = None) -> None:
        self.url = url
        self._objects = objects or open_objects(url)
        self._watched = Watched()
        self._away_until = 0.0
        self._writable = True
        self._missed: dict[str, float] = {}
        self._misses: Counter[str] = Counter()
        self._lists: dict[str, tuple[float, frozenset[str]]] = {}
        self._stale: set[str] = set()  # what is there and does not do
        self._owed: dict[str, tuple[bytes, Path | None]] = {}
        self._told: dict[str, str] = {}
        self._lock = threading.RLock()

    def check(self) -> None:
        """Raises BadInput, in one line, where the place cannot be read now. A run begins: all is asked and
        told anew."""
        self._away_until, self._writable = 0.0, True
        self._told.clear()
        self._missed.clear()
        self._lists.clear()
        try:
            self._objects.check()
        except self._objects.errors as error:
            raise BadInput(
                f"{VARIABLE}: {self.url} cannot be reached ({_reason(error)}); mend it, "
                "or unset the variable to use the local cache alone"
            ) from None

    # -- entries -----------------------------------------------------------------------------------------------------
    def fetch(self, stage: str, key: str, path: Path, *, fresh: bool = False) -> bytes | None:
        """Put an entry's data into the file ``path`` and return its JSON; None where there is none, or a damaged one.

        fresh: ask, although it was not there a moment ago.
        """
        name = _name(stage, key)
        if name in self._stale or self._away:
            return None
        if not fresh and time.monotonic() - self._missed.get(name, 0.0) < _MISSED:
            return None
        found = None
        try:
            with self._reaching():
                if not fresh and self._unlisted(stage, name):
                    return None
                self._objects.fetch(name, path)
                found = _unpacked(name, path)
        except FileNotFoundError:
            self._misses[stage] += 1
            self._note_missed(name)
        except _Damaged:
            self._stale.add(name)
            self._tell(name, f"{self.url}/{name}: is damaged, and made again")
        except _Away:
            pass
        if found is None:
            path.unlink(missing_ok=True)
        return found

    def _unlisted(self, stage: str, name: str) -> bool:
        """Whether an entry is surely not there, or was not a while ago: a driver asks for ten thousand one by one."""
        if self._misses[stage] < _MANY:
            return False
        since, names = self._lists.get(stage, (float("-inf"), frozenset()))
        if time.monotonic() - since > _LISTED:
            names = frozenset(found.name for found in self._objects.list(stage))
            self._lists[stage] = time.monotonic(), names
        return name not in names

    def publish(self, stage: str, key: str, told: bytes, data: Path | None) -> bool:
        """Write an entry, unless it is there. told: its JSON. data: its file, or None. Whether it is there now."""
        name = _name(stage, key)
        if not self._writable:
            return False
        if self._away:
            self._owed[name] = told, data
            return False
        written = self._written(name, told, data)
        if written and self._owed:
            owed, self._owed = self._owed, {}
            for other, (its, path) in owed.items():
                if self._away:  # again
                    self._owed[other] = its, path
                elif path is None or path.exists():
                    self._written(other, its, path)
        return written

    def _written(self, name: str, told: bytes, data: Path | None) -> bool:
        packed = _scratch(data)
        try:
            _pack(name, told, data, packed)
            with self._reaching(writing=True):
                self._objects.send(packed, name, replace=name in self._stale)
            self._stale.discard(name)
            self._missed.pop(name, None)
            return True
        except FileNotFoundError as error:  # no such bucket any more, a folder no longer mounted; or pruned here
            if data is None or data.exists():
                self._lost(error)
                self._owed[name] = told, data
        except _Away:
            if self._writable:
                self._owed[name] = told, data
        finally:
            packed.unlink(missing_ok=True)
        return False

    def stale(self, stage: str, key: str) -> None:
        """What is there under this name does not do: it is not taken, and replaced by what is made."""
        self._stale.add(_name(stage, key))

    def lease(self, stage: str, key: str) -> Lease | None:
        """The right to make an entry; None where another has it. Where the place is away everybody has it."""
        if self._away or not self._writable:
            return Lease()
        name = f"{LEASES}/{_name(stage, key)}"
        try:
            with self._reaching(writing=True):
                for _ in range(2):
                    lease = Lease(self._objects, name)
                    if lease.taken():
                        return lease
                    try:
                        content = self._objects.read(name)
                    except FileNotFoundError:  # given back meanwhile
                        continue
                    if not self._watched.expired(name, content):
                        return None
                    self._objects.remove(name)
                return None
        except (_Away, FileNotFoundError):
            return Lease()

    # -- upkeep ------------------------------------------------------------------------------------------------------
    def entries(self) -> Iterator[tuple[str, str, int, float]]:
        """(stage, key, bytes, when written) of every entry. Raises BadInput where the place cannot be reached."""
        try:
            for found in self._objects.list():
                stage, key = found.name.partition("/")[0], found.name.rpartition("/")[2]
                known = stage != LEASES and _NAME.fullmatch(stage) and _NAME.fullmatch(key)
                if known and found.size and found.name == _name(stage, key):
                    yield stage, key, found.size, found.modified
        except self._objects.errors as error:
            raise BadInput(f"{VARIABLE}: {self.url} cannot be reached ({_reason(error)})") from None

    def prune(self, limit: int) -> tuple[int, int]:
        """Drop what was written first until at most ``limit`` bytes are left: (entries, bytes) dropped."""
        kept, dropped, size = 0, 0, 0
        for stage, key, bytes_, _ in sorted(self.entries(), key=lambda entry: entry[3], reverse=True):
            kept += bytes_
            if kept > limit:
                try:
                    self._objects.remove(_name(stage, key))
                except self._objects.errors as error:
                    raise BadInput(f"{VARIABLE}: {self.url}: nothing can be dropped ({_reason(error)})") from None
                dropped, size = dropped + 1, size + bytes_
        return dropped, size

    # -- where it cannot be reached ------------------------------------------------------------------------------------
    @property
    def _away(self) -> bool:
        return time.monotonic() < self._away_until

    @contextmanager
    def _reaching(self, *, writing: bool = False) -> Iterator[None]:
        """Raises _Away, and notes it, for everything but an object that is not there."""
        try:
            yield
        except FileNotFoundError:
            raise
        except self._objects.errors as error:
            if writing and isinstance(error, PermissionError):
                self._writable = False
                self._tell(
                    "writing", f"shared cache {self.url}: may not be written; what is made stays in the local one"
                )
            else:
                self._lost(error)
            raise _Away from None

    def _lost(self, error: Exception) -> None:
        self._away_until = time.monotonic() + AGAIN
        self._tell(
            "away",
            f"shared cache {self.url}: cannot be reached ({_reason(error)}); "
            "the local one alone is used until it is back",
        )

    def _note_missed(self, name: str) -> None:
        now = time.monotonic()
        if len(self._missed) > 10_000:
            self._missed = {n: when for n, when in self._missed.items() if now - when < _MISSED}
        self._missed[name] = now

    # -- what is told --------------------------------------------------------------------------------------------------
    def _tell(self, about: str, text: str) -> None:
        """Once of each thing."""
        with self._lock:
            if about in self._told:
                return
            self._told[about] = text
        tell(about, text)


@cache
def _opened(url: str) -> Shared:
    return Shared(url)


def shared_tier() -> Shared | None:
    """The shared tier that NQBENCH_SHARED_CACHE names; None where it does not. One a process. Raises BadInput."""
    chosen = os.environ.get(VARIABLE, "").strip()
    try:
        return _opened(chosen) if chosen else None
    except BadInput as error:
        raise BadInput(f"{VARIABLE}: {error}") from None


def attached() -> Shared | None:
    """The shared tier, and from now on, in this process, trained networks are shared there."""
    found = shared_tier()
    set_behind(found)
    return found


class _Damaged(Exception):
    """An object is not what was written."""


class _Away(Exception):
    """The place cannot be reached."""


def _name(stage: str, key: str) -> str:
    return f"{stage}/{key[:2]}/{key}"


def _scratch(data: Path | None) -> Path:
    """A file of this thread's own, beside the data or in the folder for temporary files."""
    folder = data.parent if data is not None else Path(tempfile.gettempdir())
    return folder / f"{NEW}{os.getpid()}-{threading.get_ident()}.packed"


def _pack(name: str, told: bytes, data: Path | None, into: Path) -> None:
    digest = hashlib.sha256(name.encode() + b"\0")
    with open(into, "wb") as target:
        if data is not None:
            with open(data, "rb") as source:
                while block := source.read(1 << 20):
                    digest.update(block)
                    target.write(block)
        digest.update(told)
        target.write(told + _MAGIC + len(told).to_bytes(8, "big") + digest.digest())


def _unpacked(name: str, path: Path) -> bytes:
    """The JSON of a packed entry, whose file is cut to its data. Raises _Damaged."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(max(0, size - _TRAILER))
        trailer = file.read()
        length = int.from_bytes(trailer[len(_MAGIC) : len(_MAGIC) + 8], "big")
        if len(trailer) < _TRAILER or not trailer.startswith(_MAGIC) or length > min(size - _TRAILER, _MOST_TOLD):
            raise _Damaged
        digest, left = hashlib.sha256(name.encode() + b"\0"), size - _TRAILER
        file.seek(0)
        while left and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        if left or digest.digest() != trailer[-32:]:
            raise _Damaged
        file.seek(size - _TRAILER - length)
        told = file.read(length)
        file.truncate(size - _TRAILER - length)
    return told


def _reason(error: BaseException) -> str:
    """One line, without what nobody should read."""
    text = " ".join(masked(str(error)).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"
