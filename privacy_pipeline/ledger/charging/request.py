"""What a run asks the ledger for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privacy_pipeline.ledger.state.entries import Price, budget_key, plan_key
from privacy_pipeline.spans import Span, span_key

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import ChargedPlan
    from privacy_pipeline.ledger.state.registration import Division

TRAINING = "train"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run asks the ledger for.

    Attributes:
        dataset, span, split: what it asks to read; several spans are one request.
        data_digest: SHA-256 of the data.
        run_id, node: the run and the node that request the charge.
        plan: what it will do.
        purpose: share of the budget that pays.
        division: how it divides rows into splits; None where the caller does not state it.
    """

    dataset: str
    span: Span
    data_digest: str
    split: str
    run_id: str
    node: str
    plan: ChargedPlan
    purpose: str = TRAINING
    division: Division | None = None

    def key(self, cost: Price, budget: sa.RowMapping) -> str:
        """Return the plan's part of the idempotency key of the charge to one budget."""
        several = isinstance(self.span, tuple)
        charge = f"{span_key(self.span)}\n{budget_key(budget)}" if several else ""
        return plan_key(self.plan, cost.event, charge=charge)
