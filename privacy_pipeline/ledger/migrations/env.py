"""Alembic's entry point: the connection and its transaction come from `migrate`."""

from alembic import context

from privacy_pipeline.ledger.storage.tables import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
