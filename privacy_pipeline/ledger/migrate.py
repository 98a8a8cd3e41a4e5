"""Runs alembic within a transaction that the caller holds. A fresh ledger needs no alembic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from privacy_pipeline.ledger.storage.keys import SigningKey
from privacy_pipeline.ledger.storage.older_formats import OLDER
from privacy_pipeline.ledger.storage.tables import SCHEMA_VERSION, budgets, meta, registrations, version

if TYPE_CHECKING:
    from privacy_pipeline.ledger.storage.journal import Writer

_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(connection: sa.Connection, *, since: str, key: SigningKey | None = None) -> None:
    """Bring a ledger from an older format to this one; `settle` has to follow.

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
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes.update(connection=connection, key=key)
    command.upgrade(config, SCHEMA_VERSION)
    connection.execute(meta.update().where(meta.c.key == "schema_version").values(value=SCHEMA_VERSION))


def settle(journal: Writer) -> None:
    """Record, signed, what an older format left of budgets and registrations, and sign the head over the tables.

    Args:
        journal: goes on with the journal of a ledger that was just brought to this format.
    """
    from privacy_pipeline.ledger.state.earlier_rules import fixed_rules
    from privacy_pipeline.ledger.storage.journal import BIND, POLICY

    connection, table = journal.connection, registrations
    query = sa.select(table).where(table.c.details.is_(None)).order_by(table.c.id)
    for row in connection.execute(query).mappings().all():
        connection.execute(table.update().where(table.c.id == row["id"]).values(details=OLDER))
        kept = {name: value for name, value in row.items() if name != "id"}
        journal.append(BIND, {"registration": {**kept, "details": OLDER}})
    for number, changes in fixed_rules(connection).items():
        connection.execute(budgets.update().where(budgets.c.id == number).values(**changes))
        journal.append(POLICY, {"budget": number, "changes": changes})
    journal.seal()
