"""What the shares of a policy come to: parts of the Renyi divergence that the cap allows, given as epsilons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privacy_pipeline.accounting.renyi import ORDERS, epsilon_at_order
from privacy_pipeline.ledger.state import renyi_filter
from privacy_pipeline.ledger.state.budgets import totals_of
from privacy_pipeline.ledger.state.entries import budget_key
from privacy_pipeline.ledger.state.held import filter_delta
from privacy_pipeline.ledger.state.policy import stored_policy
from privacy_pipeline.ledger.state.totals import Sum


@dataclass(frozen=True, kw_only=True)
class ShareStatus:
    """The share of one purpose, as a reservation would weigh it.

    Attributes:
        budget: key of the budget.
        purpose: who the share is for.
        share: part of the Renyi divergence that the cap allows at the filter's order.
        epsilon: what the purpose may reach alone, at the filter's order; None before the first run fixed the order.
        used: what its counted entries come to by the same rule.
    """

    budget: str
    purpose: str
    share: float
    epsilon: float | None
    used: float


def shares_of(row: Mapping[Any, Any]) -> list[ShareStatus]:
    """Return the shares of a budget's row; empty where it has no policy."""
    policy, spent = stored_policy(row["policy"]), totals_of(row).spent
    order, delta = row["filter_order"], filter_delta(row)
    found = []
    for purpose, share in (policy.shares if policy is not None else {}).items():
        epsilon, used, paid = None, 0.0, spent.get(purpose, Sum())
        if order is not None:
            room = renyi_filter.allowance(order, epsilon=row["epsilon"], delta=delta)
            epsilon = max(0.0, epsilon_at_order(order, room * share, delta)) if share > 0 and room > 0 else 0.0
            used = epsilon_at_order(order, paid.values[ORDERS.index(order)], delta) if paid.count else 0.0
        found.append(
            ShareStatus(budget=budget_key(row), purpose=purpose, share=share, epsilon=epsilon, used=max(0.0, used))
        )
    return found
