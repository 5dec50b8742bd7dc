"""The store's PostgreSQL side: a database that a team shares, in which nqbench has a schema of its own, ``nqbench``.

What it is called, in every message and record, is its URL without user and password.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from nqbench.results.database import APPLICATION_ID, StoreError, guard, newer
from nqbench.results.schema import STORE_VERSION, VERSION_TABLE, make, migrate
from nqbench.secret import masked

FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
SCHEMA = "nqbench"
_CONNECT = 10
"""Seconds to connect."""
_STATEMENT = "300s"
_SETTINGS = {
    "connect_timeout": _CONNECT,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "nqbench",
}
"""libpq's, so that a server that is gone is noticed within a minute. A URL may say others."""


def is_server(place: object) -> bool:
    """Whether a store is named by a URL, not by a path."""
    return isinstance(place, str) and "://" in place


def connect(url: str, *, write: bool) -> sa.Engine:
    """write: make the schema, or bring an older one to today's version. Raises StoreError, in one line: the server is
    away, refuses the user, has no store or one of another version."""
    name = masked(url)
    engine = _engine(url, name)
    try:
        with guard(name), engine.begin() as connection:
            found = _version(connection)
            if found > STORE_VERSION:
                raise newer(name, found)
            if found < STORE_VERSION:
                if not write:
                    raise StoreError(_old(name, found))
                _upgrade(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _engine(url: str, name: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        # a password that is not escaped ends in the host, and what is wrong about that would be told
        sound = parsed.get_backend_name() in ("postgresql", "postgres") and "@" not in (parsed.host or "")
    except (sa.exc.ArgumentError, ValueError):
        sound = False
    if not sound or not parsed.database:
        raise StoreError(f"{name}: expected {FORM} (a '@' or '/' in a password is written %40 or %2F)")
    parsed = parsed.set(drivername="postgresql+psycopg")
    settings = {option: value for option, value in _SETTINGS.items() if option not in parsed.query}
    try:
        engine = sa.create_engine(
            parsed, pool_size=1, max_overflow=0, connect_args={**settings, "prepare_threshold": None}
        )
    except ImportError:
        raise StoreError(f'{name}: needs psycopg: pip install "nqbench[cluster]"') from None

    def prepare(connection: Any, _: Any) -> None:
        connection.execute(f"SET search_path TO {SCHEMA}")
        connection.execute(f"SET statement_timeout TO '{_STATEMENT}'")
        connection.commit()

    sa.event.listen(engine, "connect", prepare)
    return engine


def _version(connection: sa.Connection) -> int:
    """0 where there is no store yet."""
    there = connection.execute(sa.text(f"SELECT to_regclass('{SCHEMA}.{VERSION_TABLE}')")).scalar()
    if there is None:
        return 0
    found = connection.execute(sa.text(f"SELECT version_num FROM {SCHEMA}.{VERSION_TABLE}")).scalar()
    return int(found or 0)


def _upgrade(connection: sa.Connection) -> None:
    """Make the tables, or bring them to today's version, in this transaction; one of many drivers does."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(APPLICATION_ID)))
    found = _version(connection)
    if found == 0:
        connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        make(connection)
    elif found < STORE_VERSION:
        migrate(connection)


def _old(name: str, version: int) -> str:
    if version == 0:
        return f"{name}: holds no records yet; expected a store that `nqbench run --store` wrote"
    return (
        f"{name}: is of store version {version}, this nqbench reads {STORE_VERSION}: "
        "a run with --store brings it to that"
    )
