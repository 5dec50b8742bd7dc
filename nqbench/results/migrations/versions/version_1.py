"""Runs, what they cover, and records."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from nqbench.results.schema import BYTEWISE

revision = "1"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("run", BYTEWISE, primary_key=True),
        *(sa.Column(name, BYTEWISE, nullable=False) for name in ("suite", "suite_text", "settings", "argv")),
        *(sa.Column(name, BYTEWISE, nullable=False) for name in ("environment", "started")),
        *(sa.Column(name, BYTEWISE) for name in ("ended", "outcome")),
    )
    op.create_table(
        "covers",
        sa.Column("run", BYTEWISE, sa.ForeignKey("runs.run"), primary_key=True),
        sa.Column("key", BYTEWISE, primary_key=True),
    )
    op.create_table(
        "records",
        sa.Column("run", BYTEWISE, sa.ForeignKey("runs.run"), primary_key=True),
        sa.Column("key", BYTEWISE, primary_key=True),
        *(sa.Column(name, BYTEWISE, nullable=False) for name in ("trial", "status", "time", "data")),
    )
    op.create_index("ix_records_trial", "records", ["trial"])
    op.create_index("records_by_key", "records", ["key", "time"])
