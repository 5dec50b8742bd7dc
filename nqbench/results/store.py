"""The store: ``records.sqlite`` in the output folder. One process writes; any number of processes can read meanwhile.

SQLite in WAL mode with ``synchronous = NORMAL``, one commit per record: a killed run loses no record that was added,
and readers never wait. A row with a wrong checksum is not read. A run *covers* trial keys: those that it ran, and those
that it reused from earlier runs. The record of a run for a key is its own or, if it has none, the last one before it
ended.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import filelock
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.parsing import parse_json
from nqbench.results.database import (
    FILE,
    RunInProgress,
    StoreError,
    check,
    covers,
    crc_of,
    damaged,
    guard,
    hold,
    open_engine,
    records,
    runs,
    transaction,
    upgrade,
)
from nqbench.results.environment import environment as describe
from nqbench.results.record import Record, utc_now


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
    """Use as a context manager. ``Store.write(folder)`` for the one writer, ``Store.read(path)`` for the others."""

    def __init__(self, path: Path, engine: sa.Engine, lock: filelock.BaseFileLock | None = None) -> None:
        self.path = path
        self._engine = engine
        self._lock = lock
        self._covered: set[tuple[str, str]] = set()  # what this process has said already

    # -- opening -------------------------------------------------------------------------------------------------
    @classmethod
    def write(cls, folder: str | Path) -> Store:
        """Make the folder and the store if need be, and hold both alone until closed.

        Raises RunInProgress where another process holds the folder, StoreError where it cannot be written.
        """
        folder = Path(folder)
        lock = hold(folder)
        try:
            path = folder / FILE
            engine = open_engine(path, "rwc")
            with guard(path), engine.connect() as connection:
                check(connection.connection.driver_connection, path, new=True)
                # only now: a stranger's file was not touched
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                upgrade(connection)
                connection.commit()
        except BaseException:
            lock.release()
            raise
        return cls(path, engine, lock)

    @classmethod
    def read(cls, path: str | Path) -> Store:
        """Open for reading: an output folder or its records.sqlite. Raises StoreError with one line."""
        path = Path(path)
        if path.is_dir():
            path = path / FILE
        if not path.is_file():
            raise StoreError(f"{path}: no such file; expected a folder that `nqbench run --output` wrote")
        engine = open_engine(path, "ro")
        with guard(path):
            try:
                with engine.connect() as connection:
                    check(connection.connection.driver_connection, path)
            except sa.exc.OperationalError:
                # a read-only medium cannot make the WAL's index; without a WAL the file alone is the whole truth
                if path.with_name(path.name + "-wal").exists():
                    raise
                engine = open_engine(path, "ro&immutable=1")
                with engine.connect() as connection:
                    check(connection.connection.driver_connection, path)
        return cls(path, engine)

    def close(self) -> None:
        self._engine.dispose()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        begun = Run(run, suite, suite_text, dict(settings or {}), tuple(argv), dict(told), utc_now())
        with self._begin() as connection:
            connection.execute(runs.insert().values(**_row(begun)))
            self._cover(connection, run, keys)
        return run

    def add(self, record: Record) -> None:
        """Write one record, at once and durably. One of the same run and key is replaced."""
        with self._begin() as connection:
            self._cover(connection, record.run, [record.key])
            _put(connection, [record])

    def reuse(self, run: str, keys: Iterable[str]) -> None:
        """This run takes over the records that earlier runs left under these keys."""
        with self._begin() as connection:
            self._cover(connection, run, keys)

    def rename(self, run: str, keys: Mapping[str, str]) -> None:
        """Trials that this run covers have other keys, now that their networks are known; they keep their places."""
        with self._begin() as connection:
            for old, new in keys.items():
                if old != new:
                    values = {"run": run, "old": old, "new": new}
                    connection.execute(
                        sa.text("UPDATE OR IGNORE covers SET key = :new WHERE run = :run AND key = :old"), values
                    )
                    connection.execute(sa.text("DELETE FROM covers WHERE run = :run AND key = :old"), values)
                    self._covered = self._covered - {(run, old)} | {(run, new)}

    def end_run(self, run: str, outcome: str = "ok") -> None:
        with self._begin() as connection:
            chosen = runs.c.run == run
            connection.execute(runs.update().where(chosen).values(ended=utc_now(), outcome=outcome))
            row = connection.execute(sa.select(runs).where(chosen)).mappings().one()
            connection.execute(runs.update().where(chosen).values(crc=crc_of(dict(row))))

    def take(self, run: Run, keys: Iterable[str], found: Iterable[Record]) -> None:
        """Copy a run from another store, whole; what is here already stays as it is (merging is idempotent)."""
        with self._begin() as connection:
            statement = insert(runs).values(**_row(run))
            # an end that came after the last merge is news; everything else of a run never changes
            news = {name: statement.excluded[name] for name in ("ended", "outcome", "crc")}
            connection.execute(statement.on_conflict_do_update(["run"], set_=news, where=runs.c.ended.is_(None)))
            self._cover(connection, run.run, keys)
            _put(connection, found)

    # -- reading -------------------------------------------------------------------------------------------------
    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        with self._begin() as connection:
            query = sa.select(*self._columns(connection, runs)).order_by(runs.c.started, runs.c.run)
            rows = connection.execute(query).mappings().all()
        return [self._run(row) for row in rows]

    def latest(self) -> Run | None:
        """The run that started last, or None."""
        found = self.runs()
        return found[-1] if found else None

    def keys(self, run: str) -> list[str]:
        """The trial keys that a run covers, in the order they were named."""
        with self._begin() as connection:
            query = sa.select(covers.c.key).where(covers.c.run == run).order_by(sa.text("rowid"))
            return list(connection.execute(query).scalars())

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
        chosen = next((r for r in self.runs() if r.run == run), None)
        if chosen is None:
            raise StoreError(f"{self.path}: no run '{run}'")
        keys = self.keys(run)
        own = {r.key: r for r in self.own(run)}
        taken = self._last([key for key in keys if key not in own], before=chosen.ended)
        return [own.get(key) or taken[key] for key in keys if key in own or key in taken]

    def own(self, run: str) -> list[Record]:
        """The records that a run wrote itself."""
        with self._begin() as connection:
            columns = self._columns(connection, records)
            query = sa.select(*columns).where(records.c.run == run).order_by(records.c.time)
            rows = connection.execute(query).mappings().all()
        return [self._record(row) for row in rows]

    def _last(self, keys: Iterable[str] | None, before: str | None = None) -> dict[str, Record]:
        """key -> its record of latest time (SQLite fills bare columns from the row that has the maximum)."""
        found: dict[str, sa.RowMapping] = {}
        with self._begin() as connection:
            columns = self._columns(connection, records)
            query = sa.select(*columns, sa.func.max(records.c.time).label("last")).group_by(records.c.key)
            if before is not None:
                query = query.where(records.c.time <= before)
            if keys is None:
                rows = connection.execute(query.order_by(sa.func.min(records.c.time)))
                found = {row["key"]: row for row in rows.mappings()}
            else:
                wanted = list(keys)
                for at in range(0, len(wanted), 500):  # below SQLite's limit of variables
                    part = query.where(records.c.key.in_(wanted[at : at + 500]))
                    found |= {row["key"]: row for row in connection.execute(part).mappings()}
        return {key: self._record(row) for key, row in found.items()}

    def _columns(self, connection: sa.Connection, table: sa.Table) -> list[sa.ColumnElement[Any]]:
        """A table's columns; an older store, opened for reading, has no checksums."""
        there = {row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table.name})")}
        if "crc" in there:
            return list(table.c)
        return [column if column.name != "crc" else sa.null().label("crc") for column in table.c]

    def _record(self, row: sa.RowMapping) -> Record:
        self._verify(row, records)
        try:
            record = Record.from_json(row["data"])
        except BadInput as error:
            raise StoreError(f"{self.path}: {error}") from None
        if (record.run, record.key) != (row["run"], row["key"]):
            raise damaged(self.path, f"the record of {row['key'][:12]} is another's")
        return record

    def _run(self, row: sa.RowMapping) -> Run:
        self._verify(row, runs)
        try:
            told = {name: parse_json(row[name]) for name in ("settings", "argv", "environment")}
            fields = {name: value for name, value in row.items() if name != "crc"}
            return Run(**{**fields, **told, "argv": tuple(told["argv"])})
        except (ValueError, TypeError) as error:
            raise damaged(self.path, f"the run {row['run']}: {error}") from None

    def _verify(self, row: sa.RowMapping, table: sa.Table) -> None:
        """Raises StoreError where a row is not what was written."""
        if row["crc"] is not None and row["crc"] != crc_of({column.name: row[column.name] for column in table.c}):
            raise damaged(self.path, f"a row of the table {table.name} is not what was written")

    def _cover(self, connection: sa.Connection, run: str, keys: Iterable[str]) -> None:
        new = [(run, key) for key in keys if (run, key) not in self._covered]
        if new:
            connection.execute(_COVER, [{"run": run, "key": key} for run, key in new])
            self._covered.update(new)

    def _begin(self) -> AbstractContextManager[sa.Connection]:
        return transaction(self.path, self._engine)


def _put_statement() -> sa.Executable:
    statement = insert(records)
    changed = {name: statement.excluded[name] for name in ("trial", "status", "time", "data", "crc")}
    # of two records of the same run and key the later one counts, whichever comes first
    newer = records.c.time <= statement.excluded.time
    return statement.on_conflict_do_update(["run", "key"], set_=changed, where=newer)


# to build and compile a statement takes longer than to execute it
_PUT = _put_statement()
_COVER = insert(covers).on_conflict_do_nothing()


def _put(connection: sa.Connection, found: Iterable[Record]) -> None:
    rows = [
        {"run": r.run, "key": r.key, "trial": r.trial, "status": r.status, "time": r.time, "data": r.to_json()}
        for r in found
    ]
    if rows:
        connection.execute(_PUT, [row | {"crc": crc_of(row)} for row in rows])


def _row(run: Run) -> dict[str, Any]:
    """A run as its row."""
    told = {name: json.dumps(value) for name, value in vars(run).items() if isinstance(value, Mapping | tuple)}
    row = {**vars(run), **told}
    return row | {"crc": crc_of(row)}


__all__ = ["FILE", "Run", "RunInProgress", "Store", "StoreError"]
