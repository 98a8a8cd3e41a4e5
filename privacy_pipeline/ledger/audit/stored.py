"""The stored charges of a dataset's entries, for reports. Reads only."""

from __future__ import annotations

import sqlalchemy as sa

from privacy_pipeline.ledger.charging.charges import Charges, counted_digest
from privacy_pipeline.ledger.opening import open_engine
from privacy_pipeline.ledger.state.entries import COUNTED, Cost
from privacy_pipeline.ledger.storage import schema


def stored_charges(url: str, dataset: str) -> dict[int, Cost]:
    """Return the charge of each counted entry of a dataset, by the entry's number, in ascending order.

    Args:
        url: SQLAlchemy URL of the ledger.
        dataset: registered name.

    Raises:
        BadInputError: there is no ledger at the URL.
        LedgerError: the ledger cannot be read, or holds a damaged charge.
    """
    budgets, entries = schema.budgets, schema.entries
    query = (
        sa.select(entries)
        .join(budgets, entries.c.budget_id == budgets.c.id)
        .where(budgets.c.dataset == dataset, entries.c.state.in_(COUNTED))
        .order_by(entries.c.id)
    )
    with schema.transaction(open_engine(url, create=False), write=False) as connection:
        charges = Charges(connection)
        rows = connection.execute(query).mappings().all()
        return {row["id"]: charges.get(counted_digest(row)).charge for row in rows}
