"""Ledgers as formats 1, 2 and 3 left them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.ledger.state.entries import plan_key, price
from privacy_pipeline.ledger.state.registration import to_row
from privacy_pipeline.ledger.storage import journal, keys, schema
from tests.ledger.conftest import DIGEST, make_plan, make_registration

TOKEN = "0123456789abcdef" * 2
_STATEMENTS = """
CREATE TABLE ledger_meta ("key" VARCHAR(64) NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE registrations (id INTEGER NOT NULL, dataset VARCHAR(64) NOT NULL, span_key VARCHAR(32) NOT NULL,
  unit TEXT NOT NULL, contribution_bound INTEGER NOT NULL, relation VARCHAR(32) NOT NULL, splits TEXT NOT NULL,
  columns TEXT NOT NULL, digest VARCHAR(64) NOT NULL, registered VARCHAR(40) NOT NULL, PRIMARY KEY (id),
  UNIQUE (dataset, span_key));
CREATE INDEX ix_registrations_digest ON registrations (digest);
CREATE TABLE budgets (id INTEGER NOT NULL, dataset VARCHAR(64) NOT NULL, split VARCHAR(32) NOT NULL,
  unit TEXT NOT NULL, relation VARCHAR(32) NOT NULL, epsilon FLOAT NOT NULL, delta FLOAT NOT NULL, filter_order FLOAT,
  cap_changes INTEGER NOT NULL, PRIMARY KEY (id), UNIQUE (dataset, split));
CREATE TABLE entries (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, budget_id INTEGER NOT NULL,
  span_key VARCHAR(32) NOT NULL, data_digest VARCHAR(64) NOT NULL, run_id TEXT NOT NULL, node TEXT NOT NULL,
  plan_key VARCHAR(64) NOT NULL, attempt INTEGER NOT NULL, state VARCHAR(16) NOT NULL, token VARCHAR(32) NOT NULL,
  "plan" TEXT NOT NULL, event TEXT NOT NULL, executed_event TEXT, orders_version INTEGER NOT NULL, rdp TEXT NOT NULL,
  overrun BOOLEAN NOT NULL, reserved_at VARCHAR(40) NOT NULL, started_at VARCHAR(40), committed_at VARCHAR(40),
  expired_at VARCHAR(40), UNIQUE (run_id, node, plan_key, attempt),
  CONSTRAINT known_state CHECK (state IN ('reserved', 'started', 'committed', 'expired')),
  FOREIGN KEY(budget_id) REFERENCES budgets (id));
CREATE INDEX ix_entries_budget_id ON entries (budget_id);
"""
AT = "2026-01-02T00:00:00+00:00"


def make_old_ledger(url: str, *, runs: Sequence[str], version: int, states: Sequence[str] = ()) -> None:
    """A ledger, in SQLite or PostgreSQL, with a registered dataset, a cap of epsilon 3, and an entry for each run.

    Args:
        url: where to.
        runs: a committed entry of `make_plan()` for each, unless `states` says otherwise.
        version: 1 or 2.
        states: state of each entry.
    """
    engine = sa.create_engine(schema.parse(url))
    if engine.dialect.name == "sqlite":
        Path(str(engine.url.database)).parent.mkdir(parents=True, exist_ok=True)
    with engine.begin() as connection:
        for statement in _STATEMENTS.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(_of(engine.dialect.name, statement))
        _fill(connection, runs=runs, version=version, states=states)
    if engine.dialect.name == "sqlite":
        raw = engine.raw_connection()
        raw.cursor().execute("PRAGMA journal_mode=WAL")
        raw.close()
    engine.dispose()


def _of(dialect: str, statement: str) -> str:
    """A table as SQLAlchemy makes it for the dialect."""
    if dialect == "postgresql":
        statement = statement.replace("id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "id SERIAL PRIMARY KEY")
        statement = statement.replace("(id INTEGER NOT NULL", "(id SERIAL NOT NULL")
    return statement


def _fill(connection: sa.Connection, *, runs: Sequence[str], version: int, states: Sequence[str]) -> None:
    registration = {name: value for name, value in to_row(make_registration()).items() if name != "details"}
    _insert(connection, "registrations", registration)
    cost, plan = price(make_plan().event, Relation.ZERO_OUT), make_plan()
    order = 12.0 if runs else None
    same = {"dataset": "adult", "split": "train", "unit": "row", "relation": "zero_out"}
    cap = {"epsilon": 3.0, "delta": 1e-5, "filter_order": order, "cap_changes": 0}
    _insert(connection, "budgets", {"id": 1, **same, **cap})
    for number, run in enumerate(runs):
        state = states[number] if states else "committed"
        row = {
            "budget_id": 1,
            "span_key": "",
            "data_digest": DIGEST,
            "run_id": run,
            "node": "trainer",
            "plan_key": plan_key(plan, cost.event),
            "attempt": 1,
            "state": state,
            "token": TOKEN,
            "plan": json.dumps(plan.parameters(), sort_keys=True),
            "event": cost.event,
            "executed_event": cost.event if state == "committed" else None,
            "orders_version": 1,
            "rdp": json.dumps(list(cost.values)),
            "overrun": False,
            "reserved_at": AT,
            "started_at": AT if state in ("started", "committed") else None,
            "committed_at": AT if state == "committed" else None,
            "expired_at": AT if state == "expired" else None,
        }
        _insert(connection, "entries", row)
    if version == 2:
        connection.exec_driver_sql("ALTER TABLE entries ADD COLUMN total_variation DOUBLE PRECISION NOT NULL DEFAULT 0")
    _insert(connection, "ledger_meta", {"key": "schema_version", "value": str(version)})


def _insert(connection: sa.Connection, table: str, row: Mapping[str, object]) -> None:
    columns = ", ".join(f'"{name}"' for name in row)
    connection.execute(sa.text(f"INSERT INTO {table} ({columns}) VALUES ({', '.join(':' + n for n in row)})"), row)


def as_format_3(url: str) -> None:
    """Makes a ledger what format 3 left: fewer columns, and a head that signs the journal's end alone."""
    as_format(url, "3")


def as_format(url: str, version: str) -> None:
    """Makes a ledger what format 3 or 4 left, where nothing of a later format is in its journal."""
    engine = sa.create_engine(schema.parse(url))
    with engine.begin() as connection:
        for table, column in (("budgets", "ceiling"), ("budgets", "delta_factor"), ("registrations", "details")):
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
        known = json.loads(str(connection.scalar(sa.text("SELECT value FROM ledger_meta WHERE key = 'head'"))))
        key = keys.load(keys.key_file(engine.url), expected=known["key_id"])
        update = sa.text("UPDATE ledger_meta SET value = :value WHERE key = :key")
        connection.execute(update, {"value": version, "key": "schema_version"})
        connection.execute(sa.text("UPDATE ledger_version SET version_num = :version"), {"version": version})
        state = None if version == "3" else journal.trusted_state(connection)
        head = journal.Head(seq=known["seq"], hash=known["hash"], key_id=known["key_id"], signature="", state=state)
        stored = {"seq": head.seq, "hash": head.hash, "key_id": head.key_id, "signature": key.sign(head.message)}
        stored |= {} if state is None else {"state": state}
        connection.execute(update, {"value": json.dumps(stored), "key": "head"})
    engine.dispose()


def format_of(url: str) -> str:
    """The format that a ledger has now."""
    engine = sa.create_engine(schema.parse(url))
    with engine.begin() as connection:
        found = str(schema.stored_format(connection))
    engine.dispose()
    return found
