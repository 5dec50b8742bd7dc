"""What Alembic runs: the versions that are missing, on the connection that ``schema.migrate`` gives, in its
transaction."""

from __future__ import annotations

from alembic import context

from nqbench.results.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
