"""What a store asks its database, in the words of either kind. To build a statement takes longer than to execute it:
those of every trial are built once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from nqbench.results.schema import covers, records, runs


class Statements(NamedTuple):
    """Writing: a new run, one from another store, what a run covers, a record."""

    run: sa.Executable
    taken: sa.Executable
    cover: sa.Executable
    record: sa.Executable


@cache
def statements(dialect: str) -> Statements:
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    taken = insert(runs)
    # the row as a whole: its checksum is of all columns
    whole = {column.name: taken.excluded[column.name] for column in runs.columns if column.name != "run"}
    record = insert(records)
    changed = {name: record.excluded[name] for name in ("trial", "status", "time", "data", "crc")}
    # of two records of the same run and key the later one counts, whichever comes first
    newer = records.c.time <= record.excluded.time
    return Statements(
        insert(runs).on_conflict_do_nothing(),
        taken.on_conflict_do_update(index_elements=["run"], set_=whole),
        insert(covers).on_conflict_do_nothing(),
        record.on_conflict_do_update(index_elements=["run", "key"], set_=changed, where=newer),
    )


IN_ORDER = (covers.c.place, covers.c.key)
LAST_PLACE = sa.select(sa.func.coalesce(sa.func.max(covers.c.place), -1)).where(covers.c.run == sa.bindparam("of"))
_OLD = sa.and_(covers.c.run == sa.bindparam("of"), covers.c.key == sa.bindparam("old"))
_there = covers.alias()
_NEW = sa.select(_there.c.key).where(_there.c.run == sa.bindparam("of"), _there.c.key == sa.bindparam("new")).exists()
RENAME = covers.update().where(_OLD, ~_NEW).values(key=sa.bindparam("new"))
FORGET = covers.delete().where(_OLD)


def last_records(keys: Sequence[str] | None, before: str | None) -> sa.Select[Any]:
    """Of every key (or of these) its record of latest time, in the order of the keys' first records. before: of records
    up to that time."""
    times = sa.select(
        records.c.key, sa.func.max(records.c.time).label("last"), sa.func.min(records.c.time).label("first")
    )
    if before is not None:
        times = times.where(records.c.time <= before)
    if keys is not None:
        times = times.where(records.c.key.in_(keys))
    last = times.group_by(records.c.key).subquery()
    same = sa.and_(records.c.key == last.c.key, records.c.time == last.c.last)
    return sa.select(records).join(last, same).order_by(last.c.first, records.c.key, records.c.run)
