"""How the tables of an older store become today's: Alembic's folder, one file a version under ``versions``."""
