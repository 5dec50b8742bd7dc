"""The store's SQLite side: its tables, how a file is opened and recognised, the lock on its folder, its errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import sqlalchemy as sa

from nqbench.api.errors import NqbenchError

FILE = "records.sqlite"
LOCK = ".nqbench.lock"
APPLICATION_ID = 0x6E71626E  # 'nqbn', in the SQLite header: tells our file from a stranger's
STORE_VERSION = 1

metadata = sa.MetaData()
runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("suite", sa.String, nullable=False),
    sa.Column("suite_text", sa.Text, nullable=False),
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("argv", sa.Text, nullable=False),
    sa.Column("environment", sa.Text, nullable=False),
    sa.Column("started", sa.String, nullable=False),
    sa.Column("ended", sa.String),
    sa.Column("outcome", sa.String),
)
covers = sa.Table(
    "covers",
    metadata,
    sa.Column("run", sa.String, sa.ForeignKey("runs.run"), primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
)
records = sa.Table(
    "records",
    metadata,
    sa.Column("run", sa.String, sa.ForeignKey("runs.run"), primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("trial", sa.String, nullable=False, index=True),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("time", sa.String, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Index("records_by_key", "key", "time"),
)


class StoreError(NqbenchError):
    """The store, or its folder, cannot be used; the text says which and why."""


class RunInProgress(StoreError):
    """Another run holds the output folder."""


def open_engine(path: Path, mode: str) -> sa.Engine:
    """mode: SQLite's own: 'rwc' makes the file, 'ro' only reads."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=30, check_same_thread=False)
        connection.execute("PRAGMA foreign_keys = ON")
        if mode == "rwc":
            connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    return sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.QueuePool, pool_size=1)


def check(connection: Any, path: Path, *, new: bool = False) -> None:
    """Refuse a file that is not a store of a version we read. new: an empty file will do, it becomes one."""
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    identity = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if tables == 0:
        if new:
            return
        raise StoreError(f"{path}: holds no records yet; its run was stopped before the first trial")
    if identity != APPLICATION_ID:
        if new and version == 0 and _half_made(connection):
            return
        raise StoreError(f"{path}: is an SQLite file, but not one that nqbench wrote")
    if version > STORE_VERSION:
        raise StoreError(
            f"{path}: was written by a newer nqbench (store version {version}; this one reads {STORE_VERSION})"
        )


def _half_made(connection: Any) -> bool:
    """Whether every table is ours: a first run was killed between making them and signing the file."""
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return names <= set(metadata.tables)


@contextmanager
def guard(path: Path) -> Iterator[None]:
    """SQLite's own errors as one line that names the file."""
    try:
        yield
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        reason = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise StoreError(f"{path}: cannot be used as a store of records: {reason}") from None


@contextmanager
def transaction(path: Path, engine: sa.Engine) -> Iterator[sa.Connection]:
    with guard(path), engine.begin() as connection:
        yield connection


def hold(folder: Path) -> filelock.BaseFileLock:
    """Make the folder and lock it for this process, at once or not at all."""
    lock = filelock.FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunInProgress(
            f"{folder}: another run is writing into this folder; wait for it, or give --output another one"
        ) from None
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written ({error.strerror or error}); give --output a folder of yours"
        ) from None
    return lock
