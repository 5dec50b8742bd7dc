"""A submission from a run's folder: ``nqbench submit``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.parsing import read_file
from nqbench.api.toolkit.paths import reason
from nqbench.board.bundle import MANIFEST, SUITE, file_name, write_bundle
from nqbench.board.distributions import distributions
from nqbench.board.manifest import Entry, Manifest, Said, manifest_text, objection, portable, strings
from nqbench.registry import Registry
from nqbench.results.record import KINDS, Record, utc_now
from nqbench.results.selecting import select
from nqbench.results.store import Store

_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{20,}"
    r"|\bhf_[A-Za-z0-9]{30,}|\bxox[abprs]-[\w-]{10,}|\bsk-[A-Za-z0-9_-]{20,}|\bglpat-[\w-]{20,}|\beyJ[\w-]{10,}\.[\w-]{10,}\."
    r"|[a-z][a-z0-9+.-]*://[^\s/@:]+:[^\s/@]+@|(?i:\b(password|passwd|secret|token|api_?key)\b\s*[:=]\s*\S)"
)
"""What looks like a key, a token or a password."""
_PATH = re.compile(r"(?<![\w/.:~-])(~?/(?:[^\s'\"<>|:;,()\[\]{}=/]+/)+[^\s'\"<>|:;,()\[\]{}=/]*|[A-Za-z]:\\[^\s'\"]+)")
"""An absolute path of two parts or more."""


def submit(
    run: Path,
    target: Path,
    *,
    rows: Sequence[str] = ("holds",),
    licence: str = "CC-BY-4.0",
    who: str | None = None,
    where: Mapping[str, str] | None = None,
    registry: Registry,
) -> Manifest:
    """Write the submission of a run's rows. rows: ``nqbench.results.selecting``. where: package -> where it is had.

    Raises BadInput for rows that no board would take, a file that is missing or not what its record says, and for text
    that holds an absolute path or what looks like a secret.
    """
    with Store.read(run) as store:
        last = store.runs()[-1:]
        chosen = select([record for record in store.records("latest") if record.ok], rows)
    if not last:
        raise BadInput(f"{run}: holds no run yet")
    files: dict[str, bytes] = {}
    said = []
    for record in chosen:
        data = _file(run, record)
        sha256 = hashlib.sha256(data).hexdigest()
        files[sha256] = data
        said.append(Said(record=portable(record), file=sha256))
        if why := objection(said[-1].record):
            raise BadInput(f"{run}: the row {record.key[:12]} can stand on no board: {why}")
    suite = last[0].suite_text
    names = {registry.distribution_of(registry.get(kind, name))[0] for kind, name in _plugins(chosen)}
    parts = [(SUITE, suite.encode())] if suite else []
    parts += [(file_name(sha256), files[sha256]) for sha256 in sorted(files)]
    manifest = Manifest(
        created=utc_now(),
        licence=licence,
        who=who,
        suite=last[0].suite,
        distributions=distributions(names, where or {}),
        rows=tuple(said),
        entries={name: Entry(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in parts},
    )
    for number, line in enumerate(suite.splitlines(), 1):
        _clean(f"{run}: the suite, line {number},", line)
    for record in (row.record for row in manifest.rows):
        for place, text in strings(record.to_dict()):
            _clean(f"{run}: the row {record.key[:12]}, {place},", text)
    for text in (who or "", *(one.source or "" for one in manifest.distributions)):
        _clean(f"{run}: what is said of the submission", text)
    write_bundle(target, [(MANIFEST, manifest_text(manifest)), *parts])
    return manifest


def _file(run: Path, record: Record) -> bytes:
    path = run / (record.file or "")
    try:
        data = read_file(path) if record.file else None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({reason(error)}): the same run command makes it") from None
    if data is None:
        raise BadInput(f"{run}: the row {record.key[:12]} has no file: the same run command makes it again")
    if len(data) != record.file_bytes:
        raise BadInput(f"{path}: has {len(data)} bytes, its record says {record.file_bytes}: run nqbench verify {run}")
    return data


def _plugins(records: Iterable[Record]) -> set[tuple[str, str]]:
    found = set()
    for record in records:
        for kind in KINDS:
            names = str(getattr(record, kind) or "").split("+")
            found |= {(kind, name) for name in names if name and (kind, name) != ("training", "none")}
    return found


def _clean(what: str, text: str) -> None:
    """Raises BadInput for what must not leave a machine."""
    if found := _SECRETS.search(text):
        raise BadInput(f"{what} holds what looks like a secret ({found.group()[:12]}...): take it out")
    if path := _PATH.search(text):
        raise BadInput(f"{what} holds an absolute path ({path.group()}): name files relative to the suite")
