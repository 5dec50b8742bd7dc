"""The store's SQLite side: how a file is opened and recognised, the lock on its folder, and the errors of any store.

What rows are found by, which the tables and their indexes both hold, is compared when a store is opened (``PRAGMA
integrity_check``); what else they say has a checksum of its own (``schema``). A file of an older version is brought to
today's when it is written to; to read it, a copy of it in memory is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import sqlalchemy as sa

from nqbench.api.errors import NqbenchError
from nqbench.api.toolkit import paths
from nqbench.results.schema import STORE_VERSION, make, metadata, migrate, stamp
from nqbench.secret import masked

FILE = "records.sqlite"
FILES = "files"
"""Folder of the compressed files, beside the store."""
LOCK = ".nqbench.lock"
ELSEWHERE = "store.json"
"""In an output folder whose records are in a server's store: which store, and which run."""
WRITTEN = (FILE, f"{FILE}-wal", f"{FILE}-shm", f"{FILE}-journal", LOCK, ".scratch", FILES, "figures")
"""What is written in an output folder by its own name. All else is replaced as a whole, whatever it was."""
APPLICATION_ID = 0x6E71626E  # 'nqbn', in the SQLite header: tells our file from a stranger's


class StoreError(NqbenchError):
    """The store, or its folder, cannot be used; the text says which and why."""


class RunInProgress(StoreError):
    """Another run holds the output folder."""


def open_to_write(path: Path) -> sa.Engine:
    """A file of today's version: made, or brought to it. Raises StoreError for a stranger's file or a newer one's."""
    engine = _engine(path, "rwc")
    with guard(path), engine.connect() as connection:
        own = connection.connection.driver_connection
        found = _check(own, path, new=True)
        # only now: a stranger's file was not touched
        own.execute("PRAGMA journal_mode = WAL")  # type: ignore[union-attr]
        if found < STORE_VERSION:
            _upgrade(connection, found)
    return engine


def open_to_read(path: Path) -> sa.Engine:
    """Raises StoreError for what is no store of a version that we read."""
    with guard(path):
        engine = _engine(path, "ro")
        try:
            found = _version(engine, path)
        except sa.exc.OperationalError:
            # a read-only medium cannot make the WAL's index; without a WAL the file alone is the whole truth
            if path.with_name(path.name + "-wal").exists():
                raise
            engine = _engine(path, "ro&immutable=1")
            found = _version(engine, path)
        if found < STORE_VERSION:
            older, engine = engine, _copy(engine)
            older.dispose()
            with engine.connect() as connection:
                _upgrade(connection, found)
        return engine


def _engine(path: Path, mode: str) -> sa.Engine:
    """mode: SQLite's own: 'rwc' makes the file, 'ro' only reads."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=30, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        if mode == "rwc":
            connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.QueuePool, pool_size=1)
    # Python's sqlite3 would begin a transaction of its own accord, but not before what makes or changes tables
    begin = "BEGIN IMMEDIATE" if mode == "rwc" else "BEGIN"
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _copy(engine: sa.Engine) -> sa.Engine:
    """All of a database, in memory."""
    memory = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    with engine.connect() as connection:
        connection.connection.driver_connection.backup(memory)  # type: ignore[union-attr]
    copy = sa.create_engine("sqlite://", creator=lambda: memory, poolclass=sa.pool.StaticPool)
    sa.event.listen(copy, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return copy


def _version(engine: sa.Engine, path: Path) -> int:
    with engine.connect() as connection:
        return _check(connection.connection.driver_connection, path)


def _check(connection: Any, path: Path, *, new: bool = False) -> int:
    """Refuse a file that is not a store of a version we read. new: an empty file will do, it becomes one. Its version;
    0 where it is empty."""
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    identity = connection.execute("PRAGMA application_id").fetchone()[0]
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if tables == 0:
        if new:
            return 0
        raise StoreError(f"{path}: has no records yet: the run was stopped before its first trial ended")
    if identity != APPLICATION_ID:
        if new and version == 0 and _half_made(connection):
            return 0
        raise StoreError(f"{path}: is an SQLite file, but not one that nqbench wrote")
    if version > STORE_VERSION:
        raise newer(path, version)
    if (found := connection.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
        raise damaged(path, found)
    return _made_as(connection)


def _made_as(connection: Any) -> int:
    """The version of the tables, by their columns: the number in the header has no checksum."""

    def has(table: str, column: str) -> bool:
        return column in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}

    return 3 if has("covers", "place") else 2 if has("records", "crc") else 1


def _upgrade(connection: sa.Connection, version: int) -> None:
    """Make the tables, or bring those of an older store to today's; all of it or nothing."""
    with connection.begin():
        if version:
            stamp(connection, version)
            migrate(connection)
        else:
            metadata.drop_all(connection)  # empty ones, if any: they were not signed
            make(connection)
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version = {STORE_VERSION}")


def _half_made(connection: Any) -> bool:
    """Whether every table is ours, and empty: a first run was killed between making them and signing the file."""
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    ours = names <= set(metadata.tables)
    return ours and not any(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names)


def newer(name: object, version: int) -> StoreError:
    """What a store of a later version is refused with."""
    return StoreError(
        f"{name}: was written by a newer nqbench (store version {version}; this one reads {STORE_VERSION})"
    )


def damaged(name: object, reason: object) -> StoreError:
    """What a store that says something else than was written is refused with."""
    reason = " ".join(str(reason).split())
    return StoreError(
        f"{name}: is damaged ({reason}); restore it from a copy, or move it away and run again: "
        "what the cache holds is not computed anew"
    )


@contextmanager
def guard(name: object) -> Iterator[None]:
    """A database's own errors, and what is no text, as one line that names the store."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise damaged(name, error) from None
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        reason = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        text = " ".join(masked(str(reason)).split())
        remedy = "; make room there, and the same command goes on" if "full" in text else ""
        raise StoreError(f"{name}: cannot be used as a store of records: {text}{remedy}") from None


def hold(folder: Path) -> filelock.BaseFileLock:
    """Make the folder and lock it for this process, at once or not at all."""
    lock = filelock.FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunInProgress(
            f"{folder}: another run is writing into this folder; wait for it, or give --output another one"
        ) from None
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written ({paths.reason(error)}); give --output a folder of yours"
        ) from None
    return lock


def refuse_links(folder: Path) -> None:
    """Raises StoreError where what is written into an output folder, somebody else's perhaps, would land elsewhere."""
    for name in WRITTEN:
        if (folder / name).is_symlink():
            raise StoreError(
                f"{folder / name}: is a symbolic link, and what is written there would change what it points to; "
                "remove it, or give --output another folder"
            )
