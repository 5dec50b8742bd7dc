"""Downloads that are checked by their hash and go on where they were interrupted.

A download is kept beside its final name as ``NAME.part`` until its hash is right, so a file under its own name is
always whole. Every failure ends in a ``DataMissing`` of one line that says which file to put where.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nqbench.api.errors import DataMissing
from nqbench.api.toolkit.paths import cache_dir, data_dir, find_data

CHUNK = 1 << 18


@dataclass(frozen=True)
class Remote:
    """A file that can be had from anywhere as long as its hash is right.

    name: its path below the data folder. urls: mirrors, tried in order. digest: ``md5:...`` or ``sha256:...`` in hex;
    a sha256 may be a prefix of at least 8 digits (PyTorch's file names carry such).
    """

    name: str
    urls: tuple[str, ...]
    digest: str


def digest_of(path: Path, kind: str) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def verified(remote: Remote, path: Path) -> Path:
    """``path`` if its content has the remote's digest; else a DataMissing that names both."""
    kind, _, expected = remote.digest.partition(":")
    found = digest_of(path, kind)
    if not found.startswith(expected):
        raise DataMissing(f"{path} has the {kind} {found}, not {expected}: replace it with the official file")
    return path


def fetch(remote: Remote, *, attempts: int = 3, timeout: float = 30.0) -> Path:
    """The file: where it is found, else downloaded into the cache folder. A found file is not checked again here."""
    found = find_data(remote.name)
    if found is not None:
        return found
    target = cache_dir() / "data" / remote.name
    if os.environ.get("NQBENCH_OFFLINE"):
        raise _missing(remote, "NQBENCH_OFFLINE is set")
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        return target if target.exists() else _from_mirrors(remote, target, attempts, timeout)


def _from_mirrors(remote: Remote, target: Path, attempts: int, timeout: float) -> Path:
    reason = "no mirror is known"
    for url in remote.urls:
        reason = from_mirror(url, target, remote.digest, attempts=attempts, timeout=timeout)
        if not reason:
            return target
    raise _missing(remote, reason)


def from_mirror(
    url: str, target: Path, digest: str, *, size: int | None = None, attempts: int = 3, timeout: float = 30.0
) -> str:
    """Put what a URL gives at ``target``, whole and with the right digest, or say why not; nothing where all is well.

    size: the bytes that are expected, where they are known: more are not taken. What is there of an interrupted
    download, ``NAME.part``, is gone on with.
    """
    part = target.with_name(f"{target.name}.part")
    kind, _, expected = digest.partition(":")
    try:
        _download(url, part, size, attempts, timeout)
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError; ValueError: no URL
        return f"{url}: {' '.join(str(error).split()) or type(error).__name__}"
    found = digest_of(part, kind)
    if found.startswith(expected):
        os.replace(part, target)
        return ""
    part.unlink()  # not a byte of it can be trusted
    return f"{url} gave a file with the {kind} {found}, not {expected}"


def _missing(remote: Remote, reason: str) -> DataMissing:
    return DataMissing(
        f"{remote.name} is not here and cannot be downloaded ({reason}): put it at {data_dir() / remote.name}"
    )


def _download(url: str, part: Path, size: int | None, attempts: int, timeout: float) -> None:
    """Fetch ``url`` into ``part``, going on from what is there; OSError when the last attempt fails or ends early."""
    for attempt in range(attempts):
        try:
            if _attempt(url, part, size, timeout):
                return
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            part.unlink(missing_ok=True)  # what is there is longer than the file: start again
        except _TooLong:
            part.unlink(missing_ok=True)
            raise
        except (OSError, http.client.HTTPException):
            if attempt + 1 == attempts:
                raise
    raise OSError("the connection ended before the file did")


class _TooLong(OSError):
    """More bytes come than were expected."""


def _attempt(url: str, part: Path, size: int | None, timeout: float) -> bool:
    """One request; whether the file is whole now."""
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        resumed = answer.status == 206
        total = _total(answer, have if resumed else 0)
        have = have if resumed else 0
        title = part.name.removesuffix(".part")
        with (
            part.open("ab" if resumed else "wb") as file,
            # disable=None: a bar on a terminal, nothing elsewhere
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=title, disable=None, leave=False) as bar,
        ):
            # read, unlike read1, returns short data without a word when the connection breaks: hence the total
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                if size is not None and have > size:
                    raise _TooLong(f"is longer than the {size:,} bytes that were expected")
                bar.update(len(chunk))
    return total is None or have >= total


def _total(answer: Any, have: int) -> int | None:
    """The whole file's size, from the size of what this answer brings; None where the server does not say."""
    length = answer.headers.get("Content-Length")
    return have + int(length) if length is not None else None
