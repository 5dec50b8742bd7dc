"""The store's SQLite side: its tables, how a file is opened and recognised, the lock on its folder, its errors.

SQLite does not notice a flipped bit in a row. So every row of ``runs`` and ``records`` has the CRC-32 of what it says
(of store version 2 on; an older store's rows have none and get none), and what rows are found by, which the tables and
their indexes both hold, is compared when a store is opened (``PRAGMA integrity_check``).
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import sqlalchemy as sa

from nqbench.api.errors import NqbenchError

FILE = "records.sqlite"
FILES = "files"
"""Folder of the compressed files, beside the store."""
LOCK = ".nqbench.lock"
WRITTEN = (FILE, f"{FILE}-wal", f"{FILE}-shm", f"{FILE}-journal", LOCK, ".scratch", FILES, "figures")
"""What is written in an output folder by its own name. All else is replaced as a whole, whatever it was."""
APPLICATION_ID = 0x6E71626E  # 'nqbn', in the SQLite header: tells our file from a stranger's
STORE_VERSION = 2

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
    sa.Column("crc", sa.Integer),
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
    sa.Column("crc", sa.Integer),
    sa.Index("records_by_key", "key", "time"),
)


def crc_of(row: Mapping[str, Any]) -> int:
    """CRC-32 of a row's columns, in the order of their names, less the checksum itself."""
    crc = 0
    for name in sorted(row):
        if name != "crc":
            value = row[name]
            crc = zlib.crc32(f"{name}\0{'' if value is None else value}\0".encode("utf-8", "surrogatepass"), crc)
    return crc


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
        raise StoreError(f"{path}: has no records yet: the run was stopped before its first trial ended")
    if identity != APPLICATION_ID:
        if new and version == 0 and _half_made(connection):
            return
        raise StoreError(f"{path}: is an SQLite file, but not one that nqbench wrote")
    if version > STORE_VERSION:
        raise StoreError(
            f"{path}: was written by a newer nqbench (store version {version}; this one reads {STORE_VERSION})"
        )
    if (found := connection.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
        raise damaged(path, found)


def damaged(path: Path, reason: object) -> StoreError:
    """What a store that says something else than was written is refused with."""
    reason = " ".join(str(reason).split())
    return StoreError(
        f"{path}: is damaged ({reason}); restore it from a copy, or move it away and run again: "
        "what the cache holds is not computed anew"
    )


def upgrade(connection: sa.Connection) -> None:
    """Make the tables, or give those of an older store the columns that they lack."""
    metadata.create_all(connection)
    for table in (runs, records):
        there = {row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table.name})")}
        if "crc" not in there:
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN crc INTEGER")
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.exec_driver_sql(f"PRAGMA user_version = {STORE_VERSION}")


def _half_made(connection: Any) -> bool:
    """Whether every table is ours: a first run was killed between making them and signing the file."""
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return names <= set(metadata.tables)


@contextmanager
def guard(path: Path) -> Iterator[None]:
    """SQLite's own errors, and what is no text, as one line that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise damaged(path, error) from None
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
        refuse_links(folder)
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


def refuse_links(folder: Path) -> None:
    """Raises StoreError where what is written into an output folder, somebody else's perhaps, would land elsewhere."""
    for name in WRITTEN:
        if (folder / name).is_symlink():
            raise StoreError(
                f"{folder / name}: is a symbolic link, and what is written there would change what it points to; "
                "remove it, or give --output another folder"
            )
