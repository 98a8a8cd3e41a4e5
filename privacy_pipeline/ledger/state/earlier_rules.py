"""What the rules of budgets have been since their first run, where a version before format 5 left them open.

Up to format 4, the run after a change of a cap or a policy chose the filter's order again, and a change could name
another delta. If runs had been charged by then, what is proven holds at a larger delta (`renyi_filter`): times the
number of orders where the order was chosen again, and at the largest delta that was in force since the first charge.
Otherwise the order of the first run is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.accounting.renyi import ORDERS
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.state.entries import COUNTED
from privacy_pipeline.ledger.state.totals import Totals
from privacy_pipeline.ledger.storage import journal, schema


def fixed_rules(connection: sa.Connection) -> dict[int, dict[str, Any]]:
    """Return what each budget's rule has been since its first run, where its row differs.

    Args:
        connection: a transaction in which the tables have the columns of this format.

    Returns:
        Changes of the budgets' rows, by id.

    Raises:
        LedgerError: the journal, or a budget's totals, are damaged.
    """
    past = {row.id: _Past() for row in connection.execute(sa.select(schema.budgets.c.id))}
    query = sa.select(schema.journal.c.kind, schema.journal.c.body).order_by(schema.journal.c.seq)
    try:
        for kind, body in connection.execute(query, execution_options={"yield_per": 2000}):
            _note(past, kind, json_value(body))
    except (ValueError, KeyError, TypeError) as error:
        raise schema.LedgerError("a record of the journal is malformed", fix=journal.VERIFY) from error
    found = {}
    for row in connection.execute(sa.select(schema.budgets)).mappings():
        changes = past[row["id"]].rule(row)
        if changes:
            found[row["id"]] = changes
    return found


class _Past:
    """What the journal holds of one budget.

    Attributes:
        order: the last order that was fixed.
        counted: numbers of its entries that count.
        caps: every epsilon that its cap had.
        deltas: every delta that its cap had since an entry counted.
        open: whether the next run would choose an order.
        again: whether one was chosen although an entry counted.
    """

    def __init__(self) -> None:
        self.order: float | None = None
        self.counted: set[int] = set()
        self.caps: list[float] = []
        self.deltas: list[float] = []
        self.open = True
        self.again = False

    def opened(self, row: Mapping[str, Any]) -> None:
        self.order, self.open = row["filter_order"], row["filter_order"] is None
        self.caps.append(row["epsilon"])
        self.deltas = [row["delta"]]
        self.again = row["cap_changes"] > 0  # of a format that kept no journal: it cannot be found out

    def changed(self, changes: Mapping[str, Any]) -> None:
        if "epsilon" in changes:
            self.caps.append(changes["epsilon"])
            self.deltas = [*(self.deltas if self.counted else []), changes["delta"]]
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
        largest, now = (Fraction(repr(delta)) for delta in (max(self.deltas), row["delta"]))  # as they were written
        factor = math.ceil((len(ORDERS) if self.again else 1) * largest / now)
        if factor != row["delta_factor"]:
            changes["delta_factor"] = factor
        return changes


def _note(past: Mapping[int, _Past], kind: str, body: Any) -> None:
    """Take in one record; the order of kinds is that of how often they occur."""
    if kind == journal.RESERVE:
        entry = body["entry"]
        past[entry["budget_id"]].fixed(body["order"])
        past[entry["budget_id"]].counted.add(entry["id"])
    elif kind == journal.TAKEOVER:
        # A reservation that goes to a new holder counted before: the new holder may choose only if it is alone.
        budget = next((one for one in past.values() if body["entry"] in one.counted), None)
        if budget is None:
            raise KeyError(body["entry"])
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
