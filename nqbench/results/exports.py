"""Records on the move: exports that git can track, what a comparison reads, and merging across machines.

An export is one JSON object, ``{"schema_version", "runs", "covers", "records"}``. Of a store it is whole and sorted, so
that equal stores give equal files. ``records.json``, beside a report, is the export of one run: its settings (the goal,
the published rows, the baseline) and its records in order, with those that it took from earlier runs. Lists of records,
which earlier versions wrote, are read too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.parsing import parse_json, read_file
from nqbench.api.toolkit.paths import reason, written_whole
from nqbench.results.database import FILES
from nqbench.results.record import SCHEMA_VERSION, Record
from nqbench.results.server import is_server
from nqbench.results.store import Run, Store, StoreError
from nqbench.secret import masked


@dataclass(frozen=True)
class Side:
    """One side of a comparison: what one run says."""

    path: str
    suite: str
    records: Sequence[Record]
    run: str = ""
    settings: Mapping[str, Any] | None = None
    before: Sequence[str] = ()
    """Earlier runs, newest first, in which to look for trials that this one has no good record of."""
    notes: Sequence[str] = ()
    """What a reader of the comparison has to know of it."""


@dataclass(frozen=True)
class Whole:
    """All of a store, or of an export. implied: runs of which an export has no more than records."""

    runs: Sequence[Run]
    covers: Mapping[str, Sequence[str]]
    records: Sequence[Record]
    implied: Sequence[Run] = ()
    latest: str | None = None
    """The run that is meant by "latest", where it is not the one that began last."""


def read_side(path: str | Path, run: str = "latest") -> Side:
    """An output folder, a records.sqlite, a server's store, a records.json or an export; ``run``: which of its runs.

    Raises StoreError or BadInput with one line that names the file.
    """
    found, records = read_run(path, run)
    return Side(masked(str(path)), found.suite, records, found.run, found.settings)


def read_run(path: str | Path, run: str = "latest") -> tuple[Run, list[Record]]:
    """A run and what it says, from whatever ``read_side`` reads."""
    if not is_server(path) and Path(path).suffix == ".json":
        whole = read_json(Path(path))
        chosen = _choose(whole, run, Path(path))
        return chosen, _says(whole, chosen)
    with Store.read(path) as store:
        found = store.latest() if run == "latest" else store.run(run)
        if found is None:
            raise StoreError(f"{store.name}: holds no run yet")
        return found, store.records(found.run)


def run_ids(path: str | Path) -> list[str]:
    """Which runs may be read from there, oldest first."""
    if not is_server(path) and Path(path).suffix == ".json":
        whole = read_json(Path(path))
        found = sorted(whole.runs, key=lambda run: (run.started, run.run))
        return [run.run for run in found if whole.latest in (None, run.run)]
    with Store.read(path) as store:
        return store.ids()


def read_json(path: Path) -> Whole:
    """Either form of JSON. A list has no runs of its own: they are made from what its records say."""
    try:
        content = parse_json(read_file(path))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({reason(error)})") from None
    except ValueError as error:
        raise StoreError(f"{path}: is no JSON, or only a part of a file ({error})") from None
    try:
        if isinstance(content, list):
            return _of_list([Record.from_dict(fields) for fields in content])
        if isinstance(content, dict) and "records" in content:
            return _of_export(content)
    except (BadInput, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: {error}") from None
    raise BadInput(f"{path}: is neither a list of records nor an export of a store")


def _of_list(records: list[Record]) -> Whole:
    """One run, the last that its records name: a list is what one run says."""
    if not records:
        return Whole((), {}, ())
    last = max(records, key=lambda record: record.time).run
    runs, covers = _named(records)
    return Whole(runs, covers | {last: [record.key for record in records]}, records, latest=last)


def _named(records: Sequence[Record]) -> tuple[list[Run], dict[str, list[str]]]:
    """The runs that records name, by what the records say of them, and the keys of each."""
    runs, covers = [], {}
    for name in dict.fromkeys(record.run for record in sorted(records, key=lambda record: record.time)):
        own = [record for record in records if record.run == name]
        first, last = min(record.time for record in own), max(record.time for record in own)
        runs.append(Run(name, own[0].suite, "", {}, (), own[0].environment, first, last, None))
        covers[name] = [record.key for record in own]
    return runs, covers


def _of_export(content: Mapping[str, Any]) -> Whole:
    version = content.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise BadInput(f"has schema version {version}; this nqbench reads up to {SCHEMA_VERSION}: upgrade nqbench")
    runs = [Run(**{**fields, "argv": tuple(fields["argv"])}) for fields in content["runs"]]
    records = [Record.from_dict(fields) for fields in content["records"]]
    named, keys = _named(records)
    listed = {run.run for run in runs}
    return Whole(runs, {**keys, **content["covers"]}, records, [run for run in named if run.run not in listed])


def _choose(whole: Whole, run: str, path: Path) -> Run:
    if run == "latest" and whole.latest is None and whole.runs:
        return max(whole.runs, key=lambda r: (r.started, r.run))  # as ``Store.latest``
    run = whole.latest or run if run == "latest" else run
    for found in (*whole.runs, *whole.implied):
        if found.run == run:
            return found
    raise StoreError(f"{path}: no run '{run}'" if whole.runs else f"{path}: holds no records")


def _says(whole: Whole, run: Run) -> list[Record]:
    """As ``Store.records(run)``: its own records, and before its end the last ones of other keys that it covers."""
    found: dict[str, Record] = {}
    for record in sorted(whole.records, key=lambda record: record.time):
        if record.run != run.run and (run.ended is None or record.time <= run.ended):
            found[record.key] = record
    found |= {record.key: record for record in whole.records if record.run == run.run}
    return [found[key] for key in whole.covers.get(run.run, ()) if key in found]


def whole_store(store: Store) -> Whole:
    runs = store.runs()
    covers = {run.run: store.keys(run.run) for run in runs}
    return Whole(runs, covers, [record for run in runs for record in store.own(run.run)])


def export_json(store: Store) -> str:
    """The whole store as text, one record a line."""
    whole = whole_store(store)
    return _text(whole.runs, whole.covers, sorted(whole.records, key=lambda r: (r.run, r.time, r.key)))


def run_json(run: Run | None, records: Sequence[Record]) -> str:
    """One run as text, one record a line: what it says. run: None where only its records are known. Where its suite lay
    beside the folder is left out: it may tell about the machine, and from elsewhere it leads nowhere."""
    if run is None:
        whole = _of_list(list(records))
        return _text(whole.runs, whole.covers, records)
    settings = {name: value for name, value in run.settings.items() if name not in ("suite_folder", "beside")}
    return _text([replace(run, settings=settings)], {run.run: [record.key for record in records]}, records)


def _text(runs: Sequence[Run], covers: Mapping[str, Sequence[str]], records: Iterable[Record]) -> str:
    told = [json.dumps(asdict(run)) for run in runs]
    parts = [
        f'"schema_version": {SCHEMA_VERSION}',
        '"runs": [\n' + ",\n".join(told) + "\n]",
        f'"covers": {json.dumps({run: list(keys) for run, keys in covers.items()}, sort_keys=True)}',
        '"records": [\n' + ",\n".join(record.to_json() for record in records) + "\n]",
    ]
    return "{" + ",\n".join(parts) + "}\n"


def merge(target: Store, source: str | Path) -> int:
    """Take every run of ``source`` (folder, store, a server's too, or JSON) into ``target``.

    Returns how many runs were new to it. Again gives the same store: runs are told by their id, records by run and key.
    The compressed files that the records name are copied along where both sides have folders for them.
    """
    folder = None
    if not is_server(source) and Path(source).suffix == ".json":
        whole = read_json(Path(source))
    else:
        with Store.read(source) as store:
            whole, folder = whole_store(store), store.folder
    known = {run.run for run in target.runs()}
    runs = [*whole.runs, *whole.implied]
    by_run: dict[str, list[Record]] = {run.run: [] for run in runs}
    for record in whole.records:
        by_run[record.run].append(record)
    for run in runs:
        target.take(run, whole.covers.get(run.run, ()), by_run[run.run])
    if folder is not None and target.folder is not None:
        _take_files(target, folder, target.folder, whole.records)
    return len(set(by_run) - known)


def _take_files(target: Store, folder: Path, into: Path, records: Sequence[Record]) -> None:
    """Copy the files of those records that are the last word on their keys."""
    last = {key: record.run for key, record in target.done(record.key for record in records if record.file).items()}
    for record in records:
        if record.file is None or last.get(record.key) != record.run:
            continue
        # a name that somebody else's record gives is no path to follow
        source, copy = (at / FILES / Path(record.file).name for at in (folder, into))
        if source.is_file() and not copy.is_symlink() and source.resolve() != copy.resolve():
            with written_whole(copy) as temporary:
                shutil.copyfile(source, temporary)
