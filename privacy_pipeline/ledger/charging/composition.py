"""A run among all that the ledger holds for the same budget, from the budget's totals and the entries after it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.charging.charges import Charges, counted_digest
from privacy_pipeline.ledger.state.budgets import charge_of, totals_of
from privacy_pipeline.ledger.state.entries import COUNTED, budget_key
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import receipt_of

if TYPE_CHECKING:
    from privacy_pipeline.accounting.record import Composition


def composition_of(connection: sa.Connection, entry_id: int) -> Composition:
    """See `Ledger.composition`. What was reserved later is taken off the totals, so that few entries are read."""
    from privacy_pipeline.accounting.record import Composition

    table, budgets = schema.entries, schema.budgets
    counts = table.c.state.in_(COUNTED)
    row = connection.execute(sa.select(table).where(table.c.id == entry_id, counts)).mappings().first()
    if row is None:
        raise BadInputError(f"the ledger has no entry {entry_id} that counts")
    budget = connection.execute(sa.select(budgets).where(budgets.c.id == row["budget_id"])).mappings().one()
    charges, delta = Charges(connection), budget["delta"]
    after = totals_of(budget).all
    digest = sa.func.coalesce(table.c.executed, table.c.planned)
    later = sa.select(digest, sa.func.count()).where(table.c.budget_id == budget["id"], table.c.id > entry_id, counts)
    for key, count in connection.execute(later.group_by(digest)):
        after = after - charges.sum(key, delta).times(count)
    before = after - charges.sum(counted_digest(row), delta)
    epsilon_before, epsilon_after = (charge_of(part).epsilon(delta) for part in (before, after))
    if math.isinf(epsilon_after):
        raise AccountingError(f"budget {budget_key(budget)} has no finite epsilon: a run could not be accounted for")
    receipt = receipt_of(connection, row["commit_seq"]) if row["commit_seq"] else None
    return Composition(
        ledger_entry=entry_id,
        budget=budget_key(budget),
        entries_before=before.count,
        epsilon_before=epsilon_before,
        epsilon_after=epsilon_after,
        epsilon_cap=budget["epsilon"],
        delta=delta,
        journal_seq=receipt.seq if receipt else None,
        journal_hash=receipt.hash if receipt else None,
        key_id=receipt.key_id if receipt else None,
    )
