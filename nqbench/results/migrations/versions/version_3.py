"""The order in which a run named its trials, as a column: it was SQLite's order of rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    op.add_column("covers", sa.Column("place", sa.Integer, nullable=False, server_default="0"))
    row = "rowid" if op.get_bind().dialect.name == "sqlite" else "ctid"
    numbered = f"(SELECT run, key, row_number() OVER (PARTITION BY run ORDER BY {row}) AS place FROM covers) AS found"
    op.execute(
        f"UPDATE covers SET place = found.place - 1 FROM {numbered} "
        "WHERE found.run = covers.run AND found.key = covers.key"
    )
