"""Runs alembic within a transaction that the caller holds. A fresh ledger needs no alembic."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from privacy_pipeline.accounting.keys import SigningKey
from privacy_pipeline.accounting.ledger_tables import SCHEMA_VERSION, meta, version


def migrate(connection: sa.Connection, *, since: str, key: SigningKey | None = None) -> None:
    """Brings a ledger from an older format to this one. A ledger of format 3 needs its head signed anew afterwards.

    Args:
        connection: a write transaction; it is not committed here.
        since: the format that it has.
        key: begins the journal of a ledger of format 1 or 2.

    Raises:
        LedgerError: the ledger does not verify.
    """
    version.create(connection, checkfirst=True)
    connection.execute(version.delete())
    connection.execute(version.insert().values(version_num=since))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes.update(connection=connection, key=key)
    command.upgrade(config, SCHEMA_VERSION)
    connection.execute(meta.update().where(meta.c.key == "schema_version").values(value=SCHEMA_VERSION))
