"""A run's cost weighed against a budget: whether the filter grants it, and how many such runs would be granted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.accounting import truncation
from privacy_pipeline.accounting.renyi import ORDERS
from privacy_pipeline.ledger.charging import charges
from privacy_pipeline.ledger.state import renyi_filter
from privacy_pipeline.ledger.state.budgets import charge_of, totals_of
from privacy_pipeline.ledger.state.entries import Cost, Price
from privacy_pipeline.ledger.state.held import enforced_epsilon, filter_delta
from privacy_pipeline.ledger.state.policy import share_of, stored_policy
from privacy_pipeline.ledger.state.totals import Sum, fixed

_ROOM_FOR = 100  # runs like the first one that may fail
_MOST = 20.0  # no cap of a budget that protects anything is higher


@dataclass(frozen=True, kw_only=True)
class BudgetCheck:
    """A run's cost checked against a budget, all at one instant.

    Attributes:
        budget: the budget's row.
        order: Renyi order at which the cap is enforced.
        ceiling: epsilon at which failures are priced, which no later cap may pass; None while no charge may fail.
        cost: what the run asks for.
        total: exact sum of all counted entries.
        purpose: what the run is for.
        share: part of the budget that the run's purpose may use.
        used: exact sum of that purpose's counted entries.
    """

    budget: sa.RowMapping
    order: float
    ceiling: float | None
    cost: Cost
    total: Sum
    purpose: str
    share: float
    used: Sum

    @property
    def spent(self) -> Cost:
        """All counted entries together."""
        return charge_of(self.total)

    @property
    def after(self) -> Cost:
        """What would be spent with the run."""
        return charge_of(self.total + Sum.of(self.cost.values, self.cost.distance, 0.0))

    @property
    def filter_epsilon(self) -> float:
        """What would count against the cap with the run, by the divergences alone."""
        delta = filter_delta(self.budget)
        return renyi_filter.filter_epsilon(ORDERS, self.after.values, order=self.order, delta=delta)

    @property
    def held_before(self) -> float:
        """What counts against the cap now."""
        return self._held(self.spent)

    @property
    def held_after(self) -> float:
        """What would count against the cap with the run: within it just where the filter grants, shares aside."""
        if self.truncations_that_fit == 0:
            return math.inf
        held, cap = self._held(self.after), float(self.budget["epsilon"])
        # The filter works in fixed point and rounds conservatively; a run that only this refuses is above the cap.
        return held if self.runs_by_order else max(held, math.nextafter(cap, math.inf))

    def _held(self, charge: Cost) -> float:
        cap = {"epsilon": self.budget["epsilon"], "delta": self.budget["delta"]}
        return enforced_epsilon(charge, order=self.order, ceiling=self.ceiling, **cap)

    @property
    def fits(self) -> bool:
        """The filter's verdict, on the Renyi divergences and on what truncation costs of delta."""
        return self.filter_epsilon <= float(self.budget["epsilon"]) and self.runs_that_fit > 0

    @property
    def truncations_that_fit(self) -> int:
        """How many such runs fit into the share of delta that is kept for truncation."""
        distance, room = self.cost.distance, self.budget["delta"] * truncation.SHARE
        priced_at = self.budget["epsilon"] if self.ceiling is None else self.ceiling
        spent = truncation.paid(self.spent.distance, epsilon=priced_at)
        return renyi_filter.runs_that_fit(spent, truncation.paid(distance, epsilon=priced_at), room=room)

    @property
    def runs_that_fit(self) -> int:
        """How many such runs would be granted, one after the other."""
        return min(self.runs_by_order, self.truncations_that_fit, self.runs_in_share)

    @property
    def runs_by_order(self) -> int:
        """How many such runs fit the cap at the filter's order."""
        at = ORDERS.index(self.order)
        room = renyi_filter.allowance(self.order, epsilon=self.budget["epsilon"], delta=filter_delta(self.budget))
        cost, endless = fixed(self.cost.values[at])
        if endless or self.total.infinite[at] or room < 0:
            return 0
        left = renyi_filter.floor_fixed(room) - self.total.numbers[at]
        return renyi_filter.runs_that_fit(0, cost, room=left)

    @property
    def runs_in_share(self) -> int:
        """How many such runs fit into the share of their purpose, at the filter's order."""
        at = ORDERS.index(self.order)
        room = renyi_filter.allowance(self.order, epsilon=self.budget["epsilon"], delta=filter_delta(self.budget))
        if self.share <= 0 or room < 0 or self.used.infinite[at]:
            return 0
        cost, endless = fixed(self.cost.values[at])
        left = renyi_filter.floor_fixed(room * self.share) - self.used.numbers[at]
        return 0 if endless else renyi_filter.runs_that_fit(0, cost, room=left)


def check_budget(
    connection: sa.Connection,
    row: sa.RowMapping,
    purpose: str,
    cost: Price,
    *,
    without: Mapping[Any, Any] | None = None,
    before: Sequence[tuple[str, Price]] = (),
) -> BudgetCheck:
    """Add a cost to all counted entries of a budget.

    Args:
        connection: the transaction in which `row` was read.
        row: the budget's row.
        purpose: share of the budget that pays.
        cost: what is asked for.
        without: row of an entry that is about to be reused, and so is not counted.
        before: purpose and price of what will be reserved before it, as if it were; the first of them fixes the order
            of a budget that has none.
    """
    totals, policy = totals_of(row), stored_policy(row["policy"])
    if without is not None:
        reused = charges.Charges(connection).sum(charges.counted_digest(without), row["delta"])
        totals = totals.adding(without["purpose"], reused.times(-1))
    total = totals.all
    order = row["filter_order"] if total.count else None
    if order is None:
        spent, delta = charge_of(total).values, filter_delta(row)
        first = before[0][1] if before else cost
        order = renyi_filter.choose_order(ORDERS, spent, first.values, epsilon=row["epsilon"], delta=delta)
    for other_purpose, other in before:
        totals = totals.adding(other_purpose, Sum.of(other.values, other.distance, 0.0))
    used, share = totals.spent.get(purpose, Sum()), share_of(policy, purpose)
    total = totals.all
    ceiling = ceiling_of(row, cost.distance)
    return BudgetCheck(
        budget=row, order=order, ceiling=ceiling, cost=cost, total=total, purpose=purpose, share=share, used=used
    )


def ceiling_of(row: Mapping[Any, Any], failure: float) -> float | None:
    """Return the epsilon at which a budget prices failures: what the first charge that may fail fixed, or would fix
    now.

    It is what the policy states, or else so high that a hundred such runs still pay for their failures, and at least
    the cap.

    Args:
        row: the budget's row.
        failure: chance of a failure of what is asked for.

    Returns:
        None while no charge may fail: nothing is fixed then.
    """
    if totals_of(row).all.distance > 0:
        return float(row["epsilon"] if row["ceiling"] is None else row["ceiling"])
    if failure <= 0:
        return None
    policy, cap = stored_policy(row["policy"]), float(row["epsilon"])
    if policy is not None and policy.ceiling is not None:
        return max(cap, policy.ceiling)
    room = row["delta"] * truncation.SHARE / _ROOM_FOR / failure
    return max(cap, min(_MOST, math.log(room) if room > 1 else 0.0))
