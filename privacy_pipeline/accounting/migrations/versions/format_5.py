"""Format 5: a budget fixes the ceiling of its caps too; what older versions left unfixed is stated.

Up to format 4, the run after a change of a cap or a policy chose the filter's order again. If earlier runs had been
charged by then, the delta that is proven is the cap's times the number of orders (`renyi_filter`). Otherwise the order
of the first run is kept. Signing what is there would make it true, so
the ledger is verified as a whole first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

from privacy_pipeline.accounting import journal
from privacy_pipeline.accounting import ledger_tables as tables
from privacy_pipeline.accounting.accountants import ORDERS
from privacy_pipeline.accounting.journal import VERIFY
from privacy_pipeline.accounting.ledger_entries import COUNTED
from privacy_pipeline.accounting.ledger_schema import LedgerError, stored_format
from privacy_pipeline.accounting.migrations.columns import add_missing
from privacy_pipeline.accounting.totals import Totals
from privacy_pipeline.accounting.verify import tampering

revision = "5"
down_revision = "4"


def upgrade() -> None:
    """Adds the new columns and verifies. The caller appends `fixed_rules` and signs the head (`migrate.settle`).

    Raises:
        LedgerError: the ledger does not verify.
    """
    add_missing()
    tables.unit_digests.create(op.get_bind(), checkfirst=True)
    problems = tampering(op.get_bind())
    if problems:
        found = stored_format(op.get_bind())
        raise LedgerError(
            f"this ledger of format {found} does not verify, nothing was written: {problems[0]}", fix=VERIFY
        )


def fixed_rules(connection: sa.Connection) -> dict[int, dict[str, Any]]:
    """What each budget's rule has been since its first run, where its row says otherwise.

    Args:
        connection: a transaction on a ledger that verifies.

    Returns:
        Changes of the budgets' rows, by id.
    """
    past = {row.id: _Past() for row in connection.execute(sa.select(tables.budgets.c.id))}
    query = sa.select(tables.journal.c.kind, tables.journal.c.body).order_by(tables.journal.c.seq)
    for kind, body in connection.execute(query, execution_options={"yield_per": 2000}):
        _note(past, kind, json.loads(body))
    found = {}
    for row in connection.execute(sa.select(tables.budgets)).mappings():
        changes = past[row["id"]].rule(row)
        if changes:
            found[row["id"]] = changes
    return found


class _Past:
    """What the journal says of one budget.

    Attributes:
        order: the last order that was fixed.
        counted: numbers of its entries that count.
        caps: every epsilon that its cap had.
        open: whether the next run would choose an order.
        again: whether one was chosen although an entry counted.
    """

    def __init__(self) -> None:
        self.order: float | None = None
        self.counted: set[int] = set()
        self.caps: list[float] = []
        self.open = True
        self.again = False

    def opened(self, row: Mapping[str, Any]) -> None:
        self.order, self.open = row["filter_order"], row["filter_order"] is None
        self.caps.append(row["epsilon"])
        self.again = row["cap_changes"] > 0  # of a format that kept no journal: nobody can tell

    def changed(self, changes: Mapping[str, Any]) -> None:
        self.caps.append(changes["epsilon"])
        self.open = self.open or ("filter_order" in changes and changes["filter_order"] is None)

    def fixed(self, order: float) -> None:
        self.again = self.again or (self.open and bool(self.counted))
        self.order, self.open = order, False

    def rule(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        totals = Totals.from_json(row["totals"], budget=str(row["id"]))
        if not totals.all.count:
            return {}
        changes: dict[str, Any] = {}
        if row["filter_order"] != self.order:
            changes["filter_order"] = self.order
        if totals.all.distance > 0 and row["ceiling"] is None:
            changes["ceiling"] = max(self.caps)
        if self.again:
            changes["delta_factor"] = len(ORDERS)
        return changes


def _note(past: Mapping[int, _Past], kind: str, body: Any) -> None:
    """Takes in one record; the order of kinds is that of how often they occur."""
    if kind == journal.RESERVE:
        entry = body["entry"]
        past[entry["budget_id"]].fixed(body["order"])
        past[entry["budget_id"]].counted.add(entry["id"])
    elif kind == journal.TAKEOVER:
        # A reservation that goes to a new holder counted before: whoever asks anew may choose only if it is alone.
        budget = next(one for one in past.values() if body["entry"] in one.counted)
        budget.counted.discard(body["entry"])
        budget.fixed(body["order"])
        budget.counted.add(body["entry"])
    elif kind == journal.EXPIRE:
        for one in past.values():
            one.counted.discard(body["entry"])
    elif kind == journal.POLICY and "opens" in body:
        past[body["opens"]["id"]].opened(body["opens"])
    elif kind == journal.POLICY:
        past[body["budget"]].changed(body["changes"])
    elif kind == journal.REGISTER and body["budget"] is not None:
        past[body["budget"]["id"]].opened(body["budget"])
    elif kind == journal.IMPORTED and body["table"] == "budgets":
        past[body["row"]["id"]].opened(body["row"])
    elif kind == journal.IMPORTED and body["table"] == "entries" and body["row"]["state"] in COUNTED:
        past[body["row"]["budget_id"]].counted.add(body["row"]["id"])
