"""Carry records of one journal over to a ledger that holds all records before them: the same records, word for word.

Hashes and signatures stay as they were, so receipts and pins of what is carried hold. The tables are changed as the
records state. Where the journal holds only digests (charges, tables of unit digests), the content comes from the other
ledger's tables. The caller verifies the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.charging import entries
from privacy_pipeline.ledger.charging.charges import Charges, counted_digest
from privacy_pipeline.ledger.state.budgets import set_totals, totals_of
from privacy_pipeline.ledger.state.entries import State
from privacy_pipeline.ledger.state.totals import Totals
from privacy_pipeline.ledger.storage import journal, schema

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The last records of a journal, with what they need beside it.

    Attributes:
        records: rows of the journal, in order.
        charges: rows of charges, by digest.
        digests: rows of tables of unit digests.
    """

    records: Sequence[Row]
    charges: Mapping[str, Row]
    digests: Sequence[Row]


def tail_after(connection: sa.Connection, seq: int, *, last: int) -> Tail:
    """Return the records of a ledger after one, up to another.

    Args:
        connection: a transaction.
        seq: number of the last record that is not asked for.
        last: number of the last one that is.
    """
    table = schema.journal
    query = sa.select(table).where(table.c.seq > seq, table.c.seq <= last).order_by(table.c.seq)
    read = connection.execute
    return Tail(
        records=[dict(row) for row in read(query).mappings()],
        charges={row["digest"]: dict(row) for row in read(sa.select(schema.charges)).mappings()},
        digests=[dict(row) for row in read(sa.select(schema.unit_digests)).mappings()],
    )


def carry(connection: sa.Connection, tail: Tail) -> None:
    """Write a tail behind the journal of a ledger, and into its tables.

    Args:
        connection: a write transaction; the caller who began it seals the journal.

    Raises:
        LedgerError: a record does not fit what is before it.
    """
    carrier = _Carrier(connection, tail)
    for row in tail.records:
        connection.execute(schema.journal.insert(), row)
        try:
            carrier.apply(row)
        except (KeyError, TypeError, ValueError) as error:
            raise schema.LedgerError(f"journal record {row['seq']} ({row['kind']}) cannot be carried over") from error


class _Carrier:
    def __init__(self, connection: sa.Connection, tail: Tail) -> None:
        self._connection, self._tail = connection, tail
        self._apply: dict[str, Callable[[Row, Any], None]] = {
            journal.REGISTER: self._register,
            journal.BIND: self._bind,
            journal.POLICY: self._policy,
            journal.RESERVE: self._reserve,
            journal.TAKEOVER: self._take_over,
            journal.START: self._start,
            journal.COMMIT: self._commit,
            journal.EXPIRE: self._expire,
            journal.ROTATE: self._key,
            journal.LOST: self._key,
        }

    def apply(self, row: Row) -> None:
        """Change the tables as a record states; other kinds of records change no table."""
        if row["kind"] in self._apply:
            self._apply[row["kind"]](row, json_value(row["body"]))

    def _register(self, _: Row, body: Any) -> None:
        self._connection.execute(schema.registrations.insert(), body["registration"])
        self._add_digests(body["registration"])
        if body["budget"] is not None:
            self._open(body["budget"])

    def _bind(self, _: Row, body: Any) -> None:
        row, table = body["registration"], schema.registrations
        same = (table.c.dataset == row["dataset"], table.c.span_key == row["span_key"])
        self._connection.execute(table.update().where(*same).values(details=row["details"]))
        self._add_digests(row)

    def _add_digests(self, registration: Row) -> None:
        key, table = (registration["dataset"], registration["span_key"]), schema.unit_digests
        self._connection.execute(table.delete().where(table.c.dataset == key[0], table.c.span_key == key[1]))
        self._insert(table, (row for row in self._tail.digests if (row["dataset"], row["span_key"]) == key))

    def _insert(self, table: sa.Table, rows: Iterable[Row]) -> None:
        found = list(rows)
        if found:
            self._connection.execute(table.insert(), found)

    def _open(self, row: Row) -> None:
        self._connection.execute(schema.budgets.insert(), {**row, "totals": Totals().to_json()})

    def _policy(self, _: Row, body: Any) -> None:
        if "opens" in body:
            self._open(body["opens"])
            return
        budget = self._budget(body["budget"])
        set_totals(self._connection, budget["id"], totals_of(budget), **body["changes"])

    def _reserve(self, record: Row, body: Any) -> None:
        row = entries.new_row(body["entry"], at=record["at"])
        self._charge(row["planned"])
        self._connection.execute(schema.entries.insert(), row)
        budget = self._budget(row["budget_id"])
        cost = Charges(self._connection).sum(row["planned"], budget["delta"])
        totals = totals_of(budget).adding(row["purpose"], cost).moving(None, State.RESERVED.value)
        set_totals(self._connection, budget["id"], totals, **_rule(body))

    def _take_over(self, record: Row, body: Any) -> None:
        row, budget = self._held(body)
        self._change(row, token=body["token"], reserved_at=record["at"])
        set_totals(self._connection, budget["id"], totals_of(budget), **_rule(body))

    def _start(self, record: Row, body: Any) -> None:
        row, budget = self._held(body)
        totals = totals_of(budget).moving(row["state"], State.STARTED.value)
        set_totals(self._connection, budget["id"], totals)
        self._change(row, state=State.STARTED.value, started_at=record["at"])

    def _commit(self, record: Row, body: Any) -> None:
        row, budget = self._held(body)
        self._charge(body["executed"])
        charges, totals = Charges(self._connection), totals_of(budget)
        if body["executed"] != row["planned"]:
            planned, done = (charges.sum(one, budget["delta"]) for one in (row["planned"], body["executed"]))
            totals = totals.adding(row["purpose"], done - planned)
        totals = totals.moving(row["state"], State.COMMITTED.value, overrun=body["overrun"])
        set_totals(self._connection, budget["id"], totals)
        done_at = {"state": State.COMMITTED.value, "committed_at": record["at"], "commit_seq": record["seq"]}
        self._change(row, executed=body["executed"], overrun=body["overrun"], **done_at)

    def _expire(self, record: Row, body: Any) -> None:
        row, budget = self._held(body)
        cost = Charges(self._connection).sum(counted_digest(row), budget["delta"])
        totals = totals_of(budget).adding(row["purpose"], cost.times(-1)).moving(row["state"], State.EXPIRED.value)
        set_totals(self._connection, budget["id"], totals)
        self._change(row, state=State.EXPIRED.value, expired_at=record["at"])

    def _key(self, _: Row, body: Any) -> None:
        journal.name_key(self._connection, body["public_key"])

    def _charge(self, digest: str) -> None:
        table = schema.charges
        if self._connection.scalar(sa.select(table.c.digest).where(table.c.digest == digest)) is None:
            self._connection.execute(table.insert(), self._tail.charges[digest])

    def _budget(self, number: int) -> sa.RowMapping:
        table = schema.budgets
        return self._connection.execute(sa.select(table).where(table.c.id == number)).mappings().one()

    def _held(self, body: Any) -> tuple[sa.RowMapping, sa.RowMapping]:
        table = schema.entries
        row = self._connection.execute(sa.select(table).where(table.c.id == body["entry"])).mappings().one()
        return row, self._budget(row["budget_id"])

    def _change(self, row: Mapping[Any, Any], **changes: Any) -> None:
        table = schema.entries
        self._connection.execute(table.update().where(table.c.id == row["id"]).values(**changes))


def _rule(body: Any) -> dict[str, Any]:
    return {"filter_order": body["order"], "ceiling": body.get("ceiling")}
