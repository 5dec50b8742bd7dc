"""The store of records: ``records.sqlite`` in the output folder, or a PostgreSQL database that many runs write to.

SQLite: one process writes; any number of processes can read meanwhile. WAL mode with ``synchronous = NORMAL``, one
commit per record: a killed run loses no record that was added, and readers never wait. PostgreSQL: any number of
drivers write the records of their own runs to the same tables; after a lost connection the transaction is repeated.

A row with a wrong checksum is not read. A run *covers* trial keys: those that it ran, and those that it reused from
earlier runs. The record of a run for a key is its own or, if it has none, the last one before it ended.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import filelock
import sqlalchemy as sa

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.parsing import parse_json
from nqbench.api.toolkit.paths import written_whole
from nqbench.results.database import (
    ELSEWHERE,
    FILE,
    RunInProgress,
    StoreError,
    damaged,
    guard,
    hold,
    open_to_read,
    open_to_write,
)
from nqbench.results.environment import environment as describe
from nqbench.results.record import Record, after, utc_now
from nqbench.results.schema import covers, crc_of, records, runs
from nqbench.results.server import connect, is_server
from nqbench.results.statements import FORGET, IN_ORDER, LAST_PLACE, RENAME, last_records, statements
from nqbench.secret import masked

T = TypeVar("T")
_PAUSES = (0.2, 1.0, 3.0, 8.0)
"""Seconds before a transaction is tried again whose connection was lost."""


@dataclass(frozen=True)
class Run:
    """One run. settings: what else a report needs (published rows, tolerances), JSON-able. outcome: 'ok', 'failed',
    'interrupted', or None while it runs and for ever after it was killed."""

    run: str
    suite: str
    suite_text: str = field(repr=False)
    settings: Mapping[str, Any]
    argv: tuple[str, ...]
    environment: Mapping[str, Any] = field(repr=False)
    started: str
    ended: str | None = None
    outcome: str | None = None


class Store:
    """Use as a context manager. ``Store.write`` for who writes records, ``Store.read`` for the others."""

    def __init__(
        self, name: str, engine: sa.Engine, folder: Path | None, lock: filelock.BaseFileLock | None = None
    ) -> None:
        """name: as messages say it. folder: where the compressed files of its records lie, as far as they do."""
        self.name = name
        self.folder = folder
        self._engine = engine
        self._lock = lock
        self._covered: set[tuple[str, str]] = set()  # what this process has said already
        self._places: dict[str, int] = {}  # of the next key that a run covers
        self._sql = statements(engine.dialect.name)
        self._file: tuple[Path, tuple[int, int] | None] | None = None  # of a writer, where its store is a file

    # -- opening -------------------------------------------------------------------------------------------------
    @classmethod
    def write(cls, folder: str | Path | None, server: str | None = None) -> Store:
        """Make the folder and the store if need be, and hold the folder alone until closed. server: the URL of a store
        that is not in the folder; then it may be None.

        Raises RunInProgress where another process holds the folder, StoreError where it cannot be written.
        """
        folder = None if folder is None else Path(folder)
        lock = None if folder is None else hold(folder)
        try:
            if server is not None:
                return cls(masked(server), connect(server, write=True), folder, lock)
            assert folder is not None
            path = folder / FILE
            found = cls(str(path), open_to_write(path), folder, lock)
            found._file = path, _identity(path)
            return found
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    def read(cls, place: str | Path) -> Store:
        """Open for reading: an output folder, its records.sqlite, or the URL of a server's store. Raises StoreError
        with one line."""
        if isinstance(place, str) and is_server(place):
            return cls(masked(place), connect(place, write=False), None)
        path = Path(place)
        if path.is_dir():
            path = path / FILE
        if not path.is_file():
            there = _elsewhere(path.parent)
            told = (
                f"its records are in {there['store']}: give that instead"
                if there
                else ("no such file; expected a folder that `nqbench run --output` wrote")
            )
            raise StoreError(f"{path}: {told}")
        return cls(str(path), open_to_read(path), path.parent)

    def close(self) -> None:
        self._engine.dispose()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def note_run(self, run: str) -> None:
        """Where the store is a server's: say so in the folder, for who looks for the folder's records."""
        if self.folder is not None and not (self.folder / FILE).exists():
            with written_whole(self.folder / ELSEWHERE) as temporary:
                temporary.write_text(json.dumps({"store": self.name, "run": run}) + "\n", encoding="utf-8")

    # -- writing -------------------------------------------------------------------------------------------------
    def start_run(
        self,
        suite: str,
        suite_text: str = "",
        *,
        argv: Sequence[str] = (),
        environment: Mapping[str, Any] | None = None,
        keys: Iterable[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> str:
        """The new run's id. keys: the trials it covers, as far as they are known; ``add`` and ``reuse`` add theirs."""
        run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        told = describe() if environment is None else environment
        keys = list(keys)

        def insert(connection: sa.Connection) -> None:
            last = connection.execute(sa.select(sa.func.max(runs.c.started))).scalar()
            begun = Run(run, suite, suite_text, dict(settings or {}), tuple(argv), dict(told), after(last, utc_now()))
            connection.execute(self._sql.run, _row(begun))
            self._cover(connection, run, keys)

        self._do(insert)
        return run

    def add(self, record: Record) -> None:
        """Write one record, at once and durably. One of the same run and key is replaced. Its time is after that of
        the records of its key that other runs have left, whatever clocks they went by: the last one counts."""

        def insert(connection: sa.Connection) -> None:
            self._cover(connection, record.run, [record.key])
            others = sa.and_(records.c.key == record.key, records.c.run != record.run)
            last = connection.execute(sa.select(sa.func.max(records.c.time)).where(others)).scalar()
            dated = record.model_copy(update={"time": after(last, record.time)})
            connection.execute(self._sql.record, _record_row(dated))

        self._do(insert)

    def reuse(self, run: str, keys: Iterable[str]) -> None:
        """This run takes over the records that earlier runs left under these keys."""
        found = list(keys)
        self._do(lambda connection: self._cover(connection, run, found))

    def rename(self, run: str, keys: Mapping[str, str]) -> None:
        """Trials that this run covers have other keys, now that their networks are known; they keep their places."""
        changed = {old: new for old, new in keys.items() if old != new}

        def update(connection: sa.Connection) -> None:
            for old, new in changed.items():
                values = {"of": run, "old": old, "new": new}
                connection.execute(RENAME, values)
                connection.execute(FORGET, values)

        self._do(update)
        self._covered -= {(run, old) for old in changed}
        self._covered |= {(run, new) for new in changed.values()}

    def end_run(self, run: str, outcome: str = "ok") -> None:
        def update(connection: sa.Connection) -> None:
            chosen = runs.c.run == run
            connection.execute(runs.update().where(chosen).values(ended=utc_now(), outcome=outcome))
            row = connection.execute(sa.select(runs).where(chosen)).mappings().one()
            connection.execute(runs.update().where(chosen).values(crc=crc_of(dict(row))))

        self._do(update)

    def take(self, run: Run, keys: Iterable[str], found: Iterable[Record]) -> None:
        """Copy a run from another store, whole. Of what is here already two things change: a run that had not ended may
        have by now, and one of which only records were known is there as a whole (merging is idempotent)."""
        covered, rows = list(keys), [_record_row(record) for record in found]

        def insert(connection: sa.Connection) -> None:
            there = connection.execute(sa.select(runs).where(runs.c.run == run.run)).mappings().first()
            kept = run if there is None else _later(self._run(there), run)
            connection.execute(self._sql.taken, _row(kept))
            self._cover(connection, run.run, covered)
            if rows:
                connection.execute(self._sql.record, rows)

        self._do(insert)

    # -- reading -------------------------------------------------------------------------------------------------
    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        query = sa.select(runs).order_by(runs.c.started, runs.c.run)
        return [self._run(row) for row in self._rows(query)]

    def ids(self) -> list[str]:
        """Of every run, oldest first."""
        return [row["run"] for row in self._rows(sa.select(runs.c.run).order_by(runs.c.started, runs.c.run))]

    def latest(self) -> Run | None:
        """The run that started last, or None."""
        found = self._rows(sa.select(runs).order_by(runs.c.started.desc(), runs.c.run.desc()).limit(1))
        return self._run(found[0]) if found else None

    def run(self, run: str) -> Run:
        """A run by its id. Raises StoreError."""
        found = self._rows(sa.select(runs).where(runs.c.run == run))
        if not found:
            raise StoreError(f"{self.name}: no run '{run}'")
        return self._run(found[0])

    def keys(self, run: str) -> list[str]:
        """The trial keys that a run covers, in the order they were named."""
        return [
            row["key"] for row in self._rows(sa.select(covers.c.key).where(covers.c.run == run).order_by(*IN_ORDER))
        ]

    def done(self, keys: Iterable[str] | None = None) -> dict[str, Record]:
        """key -> its last record, for keys whose last record is ok: what need not run again."""
        return {key: record for key, record in self._last(keys).items() if record.ok}

    def records(self, run: str | Literal["latest", "all"] = "latest") -> list[Record]:
        """'latest': what the last run says of every key it covers. 'all': the last record of every key of every run.
        A run's id: what that run says. In the order in which the trials were named, without those not yet run."""
        if run == "all":
            return list(self._last(None).values())
        if run == "latest":
            last = self.latest()
            return self.records(last.run) if last else []
        chosen = self.run(run)
        keys = self.keys(run)
        own = {r.key: r for r in self.own(run)}
        taken = self._last([key for key in keys if key not in own], before=chosen.ended)
        return [own.get(key) or taken[key] for key in keys if key in own or key in taken]

    def own(self, run: str) -> list[Record]:
        """The records that a run wrote itself."""
        query = sa.select(records).where(records.c.run == run).order_by(records.c.time, records.c.key)
        return [self._record(row) for row in self._rows(query)]

    def _last(self, keys: Iterable[str] | None, before: str | None = None) -> dict[str, Record]:
        """key -> its record of latest time, in the order of the keys' first records."""
        parts: list[list[str] | None] = [None]
        if keys is not None:
            wanted = list(keys)
            # below SQLite's limit of variables
            parts = [wanted[at : at + 500] for at in range(0, len(wanted), 500)]
        found: dict[str, sa.RowMapping] = {}
        for part in parts:
            found |= {row["key"]: row for row in self._rows(last_records(part, before))}
        return {key: self._record(row) for key, row in found.items()}

    def _record(self, row: sa.RowMapping) -> Record:
        self._verify(row, records)
        try:
            record = Record.from_json(row["data"])
        except BadInput as error:
            raise StoreError(f"{self.name}: {error}") from None
        if (record.run, record.key) != (row["run"], row["key"]):
            raise damaged(self.name, f"the record of {row['key'][:12]} is another's")
        return record

    def _run(self, row: sa.RowMapping) -> Run:
        self._verify(row, runs)
        try:
            told = {name: parse_json(row[name]) for name in ("settings", "argv", "environment")}
            fields = {name: value for name, value in row.items() if name != "crc"}
            return Run(**{**fields, **told, "argv": tuple(told["argv"])})
        except (ValueError, TypeError) as error:
            raise damaged(self.name, f"the run {row['run']}: {error}") from None

    def _verify(self, row: sa.RowMapping, table: sa.Table) -> None:
        """Raises StoreError where a row is not what was written."""
        if row["crc"] is not None and row["crc"] != crc_of({column.name: row[column.name] for column in table.c}):
            raise damaged(self.name, f"a row of the table {table.name} is not what was written")

    def _cover(self, connection: sa.Connection, run: str, keys: Iterable[str]) -> None:
        new = [key for key in dict.fromkeys(keys) if (run, key) not in self._covered]
        if new:
            if run not in self._places:
                self._places[run] = connection.execute(LAST_PLACE, {"of": run}).scalar_one() + 1
            first = self._places[run]
            self._places[run] += len(new)
            rows = [{"run": run, "key": key, "place": first + at} for at, key in enumerate(new)]
            connection.execute(self._sql.cover, rows)
            self._covered.update((run, key) for key in new)

    def _rows(self, query: sa.Select[Any]) -> Sequence[sa.RowMapping]:
        return self._do(lambda connection: connection.execute(query).mappings().all())

    def _do(self, work: Callable[[sa.Connection], T]) -> T:
        """One transaction. Where a server's connection is lost, again: all that is done here may be done twice."""
        self._check_in_place()
        pauses = _PAUSES if self._engine.dialect.name == "postgresql" else ()
        with guard(self.name):
            for pause in pauses:
                try:
                    with self._engine.begin() as connection:
                        return work(connection)
                except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
                    if not _passing(error):
                        raise
                self._forget()
                time.sleep(pause)
            with self._engine.begin() as connection:
                return work(connection)

    def _check_in_place(self) -> None:
        """Raises StoreError where the folder was removed or moved: SQLite would write into a file without a name."""
        if self._file is not None and _identity(self._file[0]) != self._file[1]:
            raise StoreError(
                f"{self._file[0].parent}: was removed, moved or replaced while this run wrote into it, so that nothing "
                "more can be kept there; the same command starts again"
            )

    def _forget(self) -> None:
        """What was under way when a connection was lost may not have come to be."""
        self._covered.clear()
        self._places.clear()


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has this name now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _passing(error: sa.exc.DBAPIError) -> bool:
    """Whether it may be over in a moment: a server that restarts, a lost connection, a deadlock."""
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state[:2] in ("08", "40", "53", "57")


def _elsewhere(folder: Path) -> dict[str, str] | None:
    """What an output folder says of a server's store that has its records: its name, and the run."""
    try:
        told = parse_json((folder / ELSEWHERE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sound = isinstance(told, dict) and all(isinstance(told.get(name), str) for name in ("store", "run"))
    return told if sound else None


def run_in(folder: Path) -> str | None:
    """The last run into an output folder whose records are in a server's store."""
    found = _elsewhere(folder)
    return None if found is None else found["run"]


def _record_row(record: Record) -> dict[str, Any]:
    names = ("run", "key", "trial", "status", "time")
    row = {**{name: getattr(record, name) for name in names}, "data": record.to_json()}
    return row | {"crc": crc_of(row)}


def _later(known: Run, other: Run) -> Run:
    """What is to be kept of two accounts of one run."""
    if not known.suite_text and other.suite_text:
        return other
    ended = known.ended is None and other.ended is not None
    return replace(known, ended=other.ended, outcome=other.outcome) if ended else known


def _row(run: Run) -> dict[str, Any]:
    """A run as its row."""
    told = {name: json.dumps(value) for name, value in vars(run).items() if isinstance(value, Mapping | tuple)}
    row = {**vars(run), **told}
    return row | {"crc": crc_of(row)}


__all__ = ["FILE", "Run", "RunInProgress", "Store", "StoreError", "run_in"]
