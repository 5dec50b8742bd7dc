"""The tables of a store, of whatever database; their version; the checksum of a row.

Every row of ``runs`` and ``records`` has the CRC-32 of what it says (of store version 2 on; an older store's rows have
none and get none): SQLite does not notice a flipped bit. Text compares byte by byte, in PostgreSQL too, whatever its
locale.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

STORE_VERSION = 3
"""Each has a file in ``migrations/versions``, whose last is this one."""
VERSION_TABLE = "nqbench_version"
BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

metadata = sa.MetaData()
runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run", BYTEWISE, primary_key=True),
    sa.Column("suite", BYTEWISE, nullable=False),
    sa.Column("suite_text", BYTEWISE, nullable=False),
    sa.Column("settings", BYTEWISE, nullable=False),
    sa.Column("argv", BYTEWISE, nullable=False),
    sa.Column("environment", BYTEWISE, nullable=False),
    sa.Column("started", BYTEWISE, nullable=False),
    sa.Column("ended", BYTEWISE),
    sa.Column("outcome", BYTEWISE),
    sa.Column("crc", sa.BigInteger),
)
covers = sa.Table(
    "covers",
    metadata,
    sa.Column("run", BYTEWISE, sa.ForeignKey("runs.run"), primary_key=True),
    sa.Column("key", BYTEWISE, primary_key=True),
    sa.Column("place", sa.Integer, nullable=False, server_default="0"),
)
records = sa.Table(
    "records",
    metadata,
    sa.Column("run", BYTEWISE, sa.ForeignKey("runs.run"), primary_key=True),
    sa.Column("key", BYTEWISE, primary_key=True),
    sa.Column("trial", BYTEWISE, nullable=False, index=True),
    sa.Column("status", BYTEWISE, nullable=False),
    sa.Column("time", BYTEWISE, nullable=False),
    sa.Column("data", BYTEWISE, nullable=False),
    sa.Column("crc", sa.BigInteger),
    sa.Index("records_by_key", "key", "time"),
)
version = sa.Table(VERSION_TABLE, sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))
"""What Alembic keeps of itself: one row."""


def crc_of(row: Mapping[str, Any]) -> int:
    """CRC-32 of a row's columns, in the order of their names, less the checksum itself."""
    crc = 0
    for name in sorted(row):
        if name != "crc":
            value = row[name]
            crc = zlib.crc32(f"{name}\0{'' if value is None else value}\0".encode("utf-8", "surrogatepass"), crc)
    return crc


def make(connection: sa.Connection) -> None:
    """The tables of a new store."""
    metadata.create_all(connection)
    stamp(connection, STORE_VERSION)


def stamp(connection: sa.Connection, number: int) -> None:
    """Say of which version the tables are."""
    version.create(connection, checkfirst=True)
    connection.execute(version.delete())
    connection.execute(version.insert().values(version_num=str(number)))


def migrate(connection: sa.Connection) -> None:
    """Bring the tables of an older store, which say their version, to today's, inside the connection's transaction."""
    # seldom needed, and slow to import
    from pathlib import Path

    from alembic.command import upgrade
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    upgrade(config, "head")
