"""Getting a published file: from this clone's history, a release, or any other place that has the right bytes.

A file under its own name is whole and has the hash that the bundle lists; what an interrupted download left is gone on
with. One line says what failed, and where it was tried.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nqbench import version
from nqbench.api import DataMissing
from nqbench.api.toolkit import paths
from nqbench.api.toolkit.download import digest_of, from_mirror
from nqbench.api.toolkit.paths import cache_dir, written_whole
from nqbench.reference.bundle import Bundle, Entry

GIT = "git:"


def fetch(bundle: Bundle, entry: Entry, folder: Path, *, sources: Sequence[str] = (), timeout: float = 30.0) -> str:
    """Put a file of the bundle below ``folder``. Returns where it came from; nothing where it is there already.

    A file that is there under its name with another hash is replaced. sources: in place of the bundle's own.
    timeout: seconds that a server may be silent. Raises DataMissing with a line that says what was tried.
    """
    from filelock import FileLock

    target, lock = folder / entry.name, cache_dir() / "reference" / f"{entry.sha256}.lock"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            return "" if _holds(target, entry) else _from_anywhere(bundle, entry, folder, sources, timeout)
    except OSError as error:
        raise DataMissing(f"{target}: cannot be written: {paths.reason(error)}") from None


def _holds(path: Path, entry: Entry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and digest_of(path, "sha256") == entry.sha256


def _from_anywhere(bundle: Bundle, entry: Entry, folder: Path, sources: Sequence[str], timeout: float) -> str:
    target, reasons = folder / entry.name, []
    for place in bundle.places(entry, sources):
        if place.startswith(GIT):
            reason = _from_history(place, target, entry)
        elif os.environ.get("NQBENCH_OFFLINE") and not place.startswith("file:"):
            reason = f"{place}: NQBENCH_OFFLINE is set"
        else:
            reason = from_mirror(place, target, f"sha256:{entry.sha256}", size=entry.bytes, timeout=timeout)
        if not reason:
            return place
        reasons.append(reason)
    if entry.halves:
        return _halved(bundle, entry, folder, sources, timeout)
    raise DataMissing(f"{entry.name} cannot be had: {'; '.join(reasons) or 'no source is known'}")


def _from_history(place: str, target: Path, entry: Entry) -> str:
    """A file of this clone's history, ``git:COMMIT:PATH``; why not, where it cannot be had."""
    root = Path(version.__file__).parents[1]
    if not (root / ".git").exists():
        return f"{place}: nqbench does not run from a clone"
    commit, _, path = place.removeprefix(GIT).partition(":")
    try:
        done = subprocess.run(["git", "-C", str(root), "cat-file", "blob", f"{commit}:{path}"], capture_output=True)
    except OSError as error:
        return f"{place}: git cannot be run: {error.strerror}"
    if done.returncode:
        return f"{place}: this clone's history does not have it"
    if hashlib.sha256(done.stdout).hexdigest() != entry.sha256:
        return f"{place} has another sha256 than {entry.sha256}"
    with written_whole(target) as temporary:
        temporary.write_bytes(done.stdout)
    return ""


def _halved(bundle: Bundle, entry: Entry, folder: Path, sources: Sequence[str], timeout: float) -> str:
    """Made from the whole file, which is fetched for it and left where it belongs."""
    from nqbench.reference.halving import halve

    whole = bundle.file(entry.halves)
    fetch(bundle, whole, folder, sources=sources, timeout=timeout)
    with written_whole(folder / entry.name) as temporary:
        temporary.write_bytes(halve(folder / whole.name))
        if not _holds(temporary, entry):
            raise DataMissing(f"{entry.name} cannot be had: made from {whole.name} it has another sha256 than listed")
    return f"{whole.name}, in float16"
