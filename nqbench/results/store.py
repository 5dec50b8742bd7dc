"""The store: ``records.sqlite`` in the output folder. One process writes, any number read while it does.

SQLite in WAL mode with ``synchronous = NORMAL``, one commit a record: a killed run loses no record that was added, and
a reader never waits. A run *covers* trial keys: those it ran, and those it took over from earlier runs. What a run
says of a key is its own record or, where it has none, the last one before it ended.
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
from nqbench.results.database import (
    APPLICATION_ID,
    FILE,
    STORE_VERSION,
    RunInProgress,
    StoreError,
    check,
    covers,
    guard,
    hold,
    metadata,
    open_engine,
    records,
    runs,
    transaction,
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
                metadata.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.exec_driver_sql(f"PRAGMA user_version = {STORE_VERSION}")
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
        with self._begin() as connection:
            connection.execute(
                runs.insert().values(
                    run=run,
                    suite=suite,
                    suite_text=suite_text,
                    settings=json.dumps(dict(settings or {})),
                    argv=json.dumps(list(argv)),
                    environment=json.dumps(dict(describe() if environment is None else environment)),
                    started=utc_now(),
                )
            )
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

    def end_run(self, run: str, outcome: str = "ok") -> None:
        with self._begin() as connection:
            connection.execute(runs.update().where(runs.c.run == run).values(ended=utc_now(), outcome=outcome))

    def take(self, run: Run, keys: Iterable[str], found: Iterable[Record]) -> None:
        """Copy a run from another store, whole; what is here already stays as it is (merging is idempotent)."""
        with self._begin() as connection:
            values = {
                "run": run.run,
                "suite": run.suite,
                "suite_text": run.suite_text,
                "settings": json.dumps(dict(run.settings)),
                "argv": json.dumps(run.argv),
                "environment": json.dumps(dict(run.environment)),
                "started": run.started,
                "ended": run.ended,
                "outcome": run.outcome,
            }
            statement = insert(runs).values(**values)
            # an end that came after the last merge is news; everything else of a run never changes
            news = {"ended": statement.excluded.ended, "outcome": statement.excluded.outcome}
            connection.execute(statement.on_conflict_do_update(["run"], set_=news, where=runs.c.ended.is_(None)))
            self._cover(connection, run.run, keys)
            _put(connection, found)

    # -- reading -------------------------------------------------------------------------------------------------
    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        with self._begin() as connection:
            rows = connection.execute(sa.select(runs).order_by(runs.c.started, runs.c.run)).mappings().all()
        return [_run(row) for row in rows]

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
            query = sa.select(records.c.data).where(records.c.run == run).order_by(records.c.time)
            return [self._parse(text) for text in connection.execute(query).scalars()]

    def _last(self, keys: Iterable[str] | None, before: str | None = None) -> dict[str, Record]:
        """key -> its record of latest time (SQLite fills bare columns from the row that has the maximum)."""
        query = sa.select(records.c.key, records.c.data, sa.func.max(records.c.time)).group_by(records.c.key)
        if before is not None:
            query = query.where(records.c.time <= before)
        found: dict[str, str] = {}
        with self._begin() as connection:
            if keys is None:
                rows = connection.execute(query.order_by(sa.func.min(records.c.time)))
                found = {row.key: row.data for row in rows}
            else:
                wanted = list(keys)
                for at in range(0, len(wanted), 500):  # below SQLite's limit of variables
                    part = query.where(records.c.key.in_(wanted[at : at + 500]))
                    found |= {row.key: row.data for row in connection.execute(part)}
        return {key: self._parse(text) for key, text in found.items()}

    def _parse(self, text: str) -> Record:
        try:
            return Record.from_json(text)
        except BadInput as error:
            raise StoreError(f"{self.path}: {error}") from None

    def _cover(self, connection: sa.Connection, run: str, keys: Iterable[str]) -> None:
        new = [(run, key) for key in keys if (run, key) not in self._covered]
        if new:
            connection.execute(_COVER, [{"run": run, "key": key} for run, key in new])
            self._covered.update(new)

    def _begin(self) -> AbstractContextManager[sa.Connection]:
        return transaction(self.path, self._engine)


def _put_statement() -> sa.Executable:
    statement = insert(records)
    changed = {name: statement.excluded[name] for name in ("trial", "status", "time", "data")}
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
    if not rows:
        return
    connection.execute(_PUT, rows)


def _run(row: sa.RowMapping) -> Run:
    fields: dict[str, Any] = {str(name): value for name, value in row.items()}
    return Run(
        **{
            **fields,
            "settings": json.loads(fields["settings"]),
            "argv": tuple(json.loads(fields["argv"])),
            "environment": json.loads(fields["environment"]),
        }
    )


__all__ = ["FILE", "Run", "RunInProgress", "Store", "StoreError"]
