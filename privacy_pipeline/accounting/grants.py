"""The grant that a run holds until it commits, and the ticket that lets a killed run go on under it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privacy_pipeline.accounting import ledger_schema as schema
from privacy_pipeline.accounting.accountants import ORDERS, AccountingError
from privacy_pipeline.accounting.ledger_entries import Price, State, encode_rdp, now, price
from privacy_pipeline.errors import BadInputError, BudgetRefusedError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.plan import MechanismPlan


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A started entry and the secret of its holder. It is kept beside the run's key, never in a record or a log."""

    entry_id: int
    token: str = field(repr=False)


class Grant:
    """Leave to run one plan once. Made by `Ledger.spend`.

    Attributes:
        entry_id: the ledger entry that pays for the run.
        attempt: counts the charges of one run, node and plan; 1 for the first.
        budget: key of the budget.
        continued: an attempt that was killed goes on under its own charge; it was started then.
    """

    def __init__(
        self,
        *,
        engine: sa.Engine,
        entry_id: int,
        attempt: int,
        budget: str,
        token: str,
        plan: MechanismPlan,
        cost: Price,
        continued: bool = False,
    ) -> None:
        self.entry_id = entry_id
        self.attempt = attempt
        self.budget = budget
        self.continued = continued
        self._engine = engine
        self._token = token
        self._plan = plan
        self._cost = cost

    @property
    def ticket(self) -> Ticket:
        """What proves, to a later process, that it holds this grant."""
        return Ticket(entry_id=self.entry_id, token=self._token)

    def start(self) -> None:
        """To be called right before the first read of data. From here on the entry counts for ever.

        Raises:
            BudgetRefusedError: the reservation expired, was taken over by a later attempt, or was started before.
            LedgerError: the ledger cannot be written: the data may not be read.
        """
        self._move(State.RESERVED, state=State.STARTED.value, started_at=now())

    def commit(self, executed_event: DpEvent) -> None:
        """Records what really ran. Costing less is never refunded; costing more is charged and marked.

        Args:
            executed_event: the event of what was executed.

        Raises:
            AccountingError: RDP does not support the executed event; the budget is charged without limit.
            BadInputError: the executed event is malformed; the budget is charged without limit.
            BudgetRefusedError: this grant was not started, or was committed before.
            LedgerError: the ledger cannot be written; the entry stays started and counts as planned.
        """
        try:
            executed = price(executed_event, self._plan.relation)
        except (AccountingError, BadInputError):
            # What cannot be priced may have cost anything; it is charged before the error goes on.
            self._commit(Price(event="null", values=(math.inf,) * len(ORDERS)))
            raise
        self._commit(executed)

    def _commit(self, executed: Price) -> None:
        planned = self._cost
        same = executed.event == planned.event
        values = planned.values if same else tuple(map(max, planned.values, executed.values))
        distance = max(planned.distance, executed.distance)
        self._move(
            State.STARTED,
            state=State.COMMITTED.value,
            committed_at=now(),
            executed_event=executed.event,
            overrun=(values, distance) != (planned.values, planned.distance),
            rdp=encode_rdp(values),
            total_variation=distance,
        )

    def release(self) -> None:
        """Gives the reservation back, if it was never started."""
        with schema.transaction(self._engine, write=True) as connection:
            self._update(connection, State.RESERVED, {"state": State.EXPIRED.value, "expired_at": now()})

    def _move(self, expected: State, **changes: Any) -> None:
        with schema.transaction(self._engine, write=True) as connection:
            moved = self._update(connection, expected, changes)
        if moved != 1:
            raise BudgetRefusedError(
                f"ledger entry {self.entry_id} is no longer {expected.value} for this attempt: it expired, moved "
                "on, or another attempt of the run took it over",
                fix="run again; a new attempt reserves anew",
            )

    def _update(self, connection: sa.Connection, state: State, changes: dict[str, Any]) -> int:
        table = schema.entries
        held = (table.c.id == self.entry_id, table.c.token == self._token, table.c.state == state.value)
        return connection.execute(table.update().where(*held).values(**changes)).rowcount
