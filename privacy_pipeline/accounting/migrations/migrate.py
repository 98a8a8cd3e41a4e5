"""Runs alembic within a transaction that the caller holds. A fresh ledger needs no alembic."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from privacy_pipeline.accounting.ledger_tables import SCHEMA_VERSION, version


def migrate(connection: sa.Connection, *, url: sa.URL, since: str) -> None:
    """Brings a ledger from an older format to this one.

    Args:
        connection: a write transaction; it is not committed here.
        url: the ledger's URL, which says where its key is.
        since: the format that it has.
    """
    version.create(connection, checkfirst=True)
    connection.execute(version.delete())
    connection.execute(version.insert().values(version_num=since))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes.update(connection=connection, url=url)
    command.upgrade(config, SCHEMA_VERSION)
