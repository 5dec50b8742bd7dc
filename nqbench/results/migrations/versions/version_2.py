"""A checksum for every row. Rows of before have none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    for table in ("runs", "records"):
        op.add_column(table, sa.Column("crc", sa.BigInteger))
