"""A submission, ``NAME.nqs``: the files of some rows and what is said of them, in one file that anybody can look into.

It is a zip archive in the only form that one of these entries can have here, so that a stranger's archive has nothing
to hide in:

- entries one after the other from the first byte, each stored as it is (no compression: nothing can inflate), in this
  order and of these names, all of them ASCII::

      manifest.json                      what is said (``nqbench.board.manifest``)
      suite.yaml                         the suite as it ran; may be missing
      files/<64 hex digits>.nqz          named by their SHA-256, in order; each the file of at least one row

- no comment, extra field, attribute, link, folder, date (all are 1980-01-01), encryption, second disk or zip64;
- the central directory follows the last entry, and the end of the archive follows that, as its last 22 bytes;
- the manifest lists the size and the SHA-256 of every other entry, and no other.

Equal submissions are equal bytes. The reader walks the entries from the first byte, checks every field against what
the writer would have written, makes the central directory anew and compares it with the one that is there. ``unzip``
opens it too.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.paths import reason, written_whole

MANIFEST, SUITE = "manifest.json", "suite.yaml"
FILE_NAME = re.compile(r"files/([0-9a-f]{64})\.nqz")

MAX_BUNDLE = (1 << 31) - 1
"""Bytes of a submission: below what zip needs its 64-bit form for."""
MAX_TEXT = 1 << 26
"""Bytes of the manifest, and of the suite."""
MAX_FILE = 1 << 29
MAX_ENTRIES = 10_000

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_SIGN, _CENTRAL_SIGN, _END_SIGN = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_NEEDED, _DATE = 10, 0x21  # stored entries; 1980-01-01


class BadBundle(BadInput):
    """A submission that is not one, or not whole."""


@dataclass(frozen=True)
class Entry:
    """name; where its bytes are: ``start``, ``size``; crc: CRC-32 of them."""

    name: str
    start: int
    size: int
    crc: int


def file_name(sha256: str) -> str:
    return f"files/{sha256}.nqz"


# -- writing ---------------------------------------------------------------------------------------------------------
def write_bundle(path: Path, entries: Sequence[tuple[str, bytes]]) -> None:
    """Write an archive of these entries in their order. Raises BadBundle where a reader would refuse it."""
    found, at = [], 0
    for name, data in entries:
        at += _LOCAL.size + len(name)
        found.append(Entry(name, at, len(data), zlib.crc32(data)))
        at += len(data)
    _check_names([entry.name for entry in found])
    for entry in found:
        _check_size(entry.name, entry.size)
    if at > MAX_BUNDLE - (1 << 21):
        raise BadBundle(f"{path}: would have more than {MAX_BUNDLE} bytes: submit fewer rows at a time")
    with written_whole(path) as temporary, temporary.open("wb") as file:
        for entry, (_, data) in zip(found, entries, strict=True):
            file.write(_local(entry))
            file.write(data)
        file.write(_directory(found))


def _local(entry: Entry) -> bytes:
    name = entry.name.encode("ascii")
    fields = (_LOCAL_SIGN, _NEEDED, 0, 0, 0, _DATE, entry.crc, entry.size, entry.size, len(name), 0)
    return _LOCAL.pack(*fields) + name


def _directory(entries: Sequence[Entry]) -> bytes:
    """The central directory and the end."""
    parts, start = [], 0
    for entry in entries:
        name = entry.name.encode("ascii")
        offset = entry.start - _LOCAL.size - len(name)
        start = entry.start + entry.size
        fields = (_CENTRAL_SIGN, _NEEDED, _NEEDED, 0, 0, 0, _DATE, entry.crc, entry.size, entry.size, len(name))
        parts.append(_CENTRAL.pack(*fields, 0, 0, 0, 0, 0, offset) + name)
    whole = b"".join(parts)
    count = len(entries)
    return whole + _END.pack(_END_SIGN, 0, 0, count, count, len(whole), start, 0)


def _check_names(names: Sequence[str]) -> None:
    """Raises BadBundle unless these are the entries of a submission in their order."""
    rest = list(names)
    if rest[:1] != [MANIFEST]:
        raise BadBundle(f"its first entry is {rest[0] if rest else 'missing'!r}, not '{MANIFEST}'")
    rest = rest[2:] if rest[1:2] == [SUITE] else rest[1:]
    for name in rest:
        if not FILE_NAME.fullmatch(name):
            raise BadBundle(f"an entry is named {name!r}; expected files/<64 hex digits>.nqz")
    for before, after in itertools.pairwise(rest):
        if before >= after:
            raise BadBundle(f"the entry '{after}' is there {'twice' if before == after else 'out of order'}")
    if len(names) > MAX_ENTRIES:
        raise BadBundle(f"{len(names)} entries; a submission has at most {MAX_ENTRIES}")


def _check_size(name: str, size: int) -> None:
    most = MAX_FILE if FILE_NAME.fullmatch(name) else MAX_TEXT
    if size > most:
        raise BadBundle(f"the entry '{name}' has {size} bytes; at most {most} are allowed")


# -- reading ---------------------------------------------------------------------------------------------------------
class Bundle:
    """An open submission whose form is sound. What its entries hold is checked by ``read``."""

    def __init__(self, path: Path, data: mmap.mmap, entries: Mapping[str, Entry]) -> None:
        self.path = path
        self.entries = entries
        self._data = data

    def read(self, name: str) -> bytes:
        """An entry's bytes. Raises BadBundle where their checksum is another."""
        entry = self.entries[name]
        data = self._data[entry.start : entry.start + entry.size]
        if zlib.crc32(data) != entry.crc:
            raise BadBundle(f"{self.path}: the entry '{name}' is damaged")
        return data

    @property
    def sha256(self) -> str:
        """Of the whole submission."""
        return hashlib.sha256(self._data).hexdigest()


@contextmanager
def open_bundle(path: str | Path) -> Iterator[Bundle]:
    """The submission at ``path``, its form checked. Raises BadBundle with one line that says what is wrong."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BUNDLE:
                raise BadBundle(f"{path}: has {size} bytes; a submission has at most {MAX_BUNDLE}")
            if size < _LOCAL.size + _END.size:
                raise BadBundle(f"{path}: this is no submission: {size} bytes are too few")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield Bundle(path, data, _entries(path, data))
    except OSError as error:
        raise BadBundle(f"{path}: cannot be read ({reason(error)})") from None


def _entries(path: Path, data: mmap.mmap) -> dict[str, Entry]:
    found: list[Entry] = []
    at = 0
    try:
        while data[at : at + 4] == _LOCAL_SIGN:
            if len(found) == MAX_ENTRIES:
                raise BadBundle(f"more than {MAX_ENTRIES} entries")
            entry = _entry(data, at)
            found.append(entry)
            at = entry.start + entry.size
        if not found:
            raise BadBundle("this is no submission of nqbench (expected a zip archive as `nqbench submit` writes it)")
        _check_names([entry.name for entry in found])
        if data[at:] != _directory(found):
            raise BadBundle(
                f"from byte {at} on it is not the directory of the entries before it: it was made by another program, "
                "or changed"
            )
    except BadBundle as error:
        raise BadBundle(f"{path}: {error}") from None
    return {entry.name: entry for entry in found}


def _entry(data: mmap.mmap, at: int) -> Entry:
    if at + _LOCAL.size > len(data):
        raise BadBundle(f"it ends within the entry at byte {at}")
    fields = _LOCAL.unpack_from(data, at)
    crc, size, length = fields[6], fields[8], fields[9]
    start = at + _LOCAL.size + length
    raw = data[at + _LOCAL.size : start]
    try:
        name = raw.decode("ascii")
    except UnicodeDecodeError:
        raise BadBundle(f"an entry is named {raw[:100]!r}: names are ASCII") from None
    shown = repr(name[:100])
    if name not in (MANIFEST, SUITE) and not FILE_NAME.fullmatch(name):
        raise BadBundle(f"an entry is named {shown}; expected {MANIFEST}, {SUITE} or files/<64 hex digits>.nqz")
    _check_size(name, size)
    entry = Entry(name, start, size, crc)
    if data[at:start] != _local(entry):
        how = "compressed" if fields[3] else "encrypted or of unknown size" if fields[2] else "not of the plain form"
        raise BadBundle(f"the entry {shown} is {how}: entries are stored as they are, with nothing beside them")
    if start + size > len(data):
        raise BadBundle(f"the entry {shown} has {size} bytes by its header, {max(0, len(data) - start)} are left")
    return entry
