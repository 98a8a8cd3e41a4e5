"""The grant that a run holds until it commits, and the resume token that lets a killed run go on under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privacy_pipeline.accounting.renyi import ORDERS, AccountingError
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.charging import charges, entries
from privacy_pipeline.ledger.charging.entries import token_hash
from privacy_pipeline.ledger.state.entries import Price, State, price
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import Receipt, Writer
from privacy_pipeline.ledger.write_transactions import writing

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.plan import ChargedPlan


@dataclass(frozen=True, kw_only=True)
class ResumeToken:
    """A started entry (the first of a run over several spans) and the secret of its holder.

    It is kept beside the run's key, never in a record or a log.
    """

    entry_id: int
    token: str = field(repr=False)


class Grant:
    """Leave to run one plan once. Made by `Ledger.spend`.

    Attributes:
        entry_ids: the ledger entries that pay for the run, one for each budget that its spans belong to. They start and
            commit together, in one transaction, or none does.
        entry_id: the first of them.
        attempt: counts the charges of one run, node and plan; 1 for the first.
        budget: key of the budget that the first entry charges.
        continued: an attempt that was killed goes on under its own charge; it was started then.
        receipts: of the commit, one for each entry, once there was one.
    """

    def __init__(
        self,
        *,
        engine: sa.Engine,
        entry_ids: Sequence[int],
        attempt: int,
        budget: str,
        token: str,
        plan: ChargedPlan,
        continued: bool = False,
    ) -> None:
        self.entry_ids = tuple(entry_ids)
        self.attempt = attempt
        self.budget = budget
        self.continued = continued
        self._engine = engine
        self._token = token
        self._plan = plan
        self.receipts: tuple[Receipt, ...] = ()

    @property
    def entry_id(self) -> int:
        """The first of the entries."""
        return self.entry_ids[0]

    @property
    def resume_token(self) -> ResumeToken:
        """What proves, to a later process, that it holds this grant."""
        return ResumeToken(entry_id=self.entry_id, token=self._token)

    def start(self) -> None:
        """Start the entry, right before anything is computed from the data. From here on it counts for ever.

        Raises:
            BudgetRefusedError: the reservation expired, was taken over by a later attempt, or was started before.
            LedgerError: the ledger cannot be written; the data must not be read.
        """
        with writing(self._engine) as journal:
            for entry in self._held(journal, State.RESERVED):
                entries.start(journal, entry)

    def commit(self, executed_event: DpEvent) -> Receipt:
        """Record what really ran. Costing less is never refunded; costing more is charged and marked.

        Args:
            executed_event: the event of what was executed.

        Returns:
            The receipt of the first entry's commit, for the run's record; `receipts` has all of them.

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
        return self._commit(executed)

    def _commit(self, executed: Price) -> Receipt:
        with writing(self._engine) as journal:
            receipts = [self._commit_one(journal, entry, executed) for entry in self._held(journal, State.STARTED)]
        self.receipts = tuple(receipts)
        return self.receipts[0]

    def _commit_one(self, journal: Writer, entry: sa.RowMapping, executed: Price) -> Receipt:
        planned = charges.Charges(journal.connection).get(entry["planned"])
        digest, overrun = entry["planned"], False
        if executed.event != planned.text:
            values = tuple(map(max, planned.charge.values, executed.values))
            distance = max(planned.charge.distance, executed.distance)
            overrun = (values, distance) != (planned.charge.values, planned.charge.distance)
            done = Price(event=executed.event, values=values, distance=distance)
            digest = charges.put(journal.connection, charges.row_of(charges.plan_text(self._plan), done))
        return entries.commit(journal, entry, digest, overrun=overrun)

    def release(self) -> None:
        """Give the reservation back, if it was never started."""
        with schema.transaction(self._engine, write=False) as connection:
            idle = bool(self._rows(connection, State.RESERVED))
        if idle:  # else nothing has to be written
            with writing(self._engine) as journal:
                for row in self._rows(journal.connection, State.RESERVED):
                    entries.expire(journal, row)

    def _held(self, journal: Writer, expected: State) -> Sequence[sa.RowMapping]:
        """Return all entries of the grant in the expected state: they move together or not at all."""
        rows = self._rows(journal.connection, expected)
        if len(rows) != len(self.entry_ids):
            raise BudgetRefusedError(
                f"ledger entry {self.entry_id} is no longer {expected.value} for this attempt: it expired, moved "
                "on, or another attempt of the run took it over",
                fix="run again; a new attempt makes a new reservation",
            )
        return rows

    def _rows(self, connection: sa.Connection, state: State) -> Sequence[sa.RowMapping]:
        table = schema.entries
        held = (table.c.id.in_(self.entry_ids), table.c.token == token_hash(self._token), table.c.state == state.value)
        return connection.execute(sa.select(table).where(*held).order_by(table.c.id)).mappings().all()
