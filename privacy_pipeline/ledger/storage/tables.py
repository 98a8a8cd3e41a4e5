"""Tables of the budget ledger, format 5.

The journal is what happened; registrations, budgets, charges and entries are views of it that are kept for speed, and
`verify` checks them against it.
"""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = "5"
VERSION_TABLE = "ledger_version"

metadata = sa.MetaData()
meta = sa.Table(
    "ledger_meta",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
# What alembic reads; written when the ledger is made.
version = sa.Table(
    VERSION_TABLE,
    metadata,
    sa.Column("version_num", sa.String(32), primary_key=True),
)
journal = sa.Table(
    "journal",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("prev_hash", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("key_id", sa.String(16), nullable=False),
    sa.Column("signature", sa.String(128), nullable=False),
)
registrations = sa.Table(
    "registrations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.String(64), nullable=False),
    sa.Column("span_key", sa.String(32), nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("contribution_bound", sa.Integer, nullable=False),
    sa.Column("relation", sa.String(32), nullable=False),
    sa.Column("splits", sa.Text, nullable=False),
    sa.Column("columns", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("registered", sa.String(40), nullable=False),
    sa.Column("details", sa.Text),  # facts since format 5, as JSON; NULL where there are none
    sa.UniqueConstraint("dataset", "span_key"),
)
# Digests of the units and rows of registered spans (`unit_digests`); the journal holds the root of each split's.
unit_digests = sa.Table(
    "unit_digests",
    metadata,
    sa.Column("dataset", sa.String(64), primary_key=True),
    sa.Column("span_key", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(8), primary_key=True),
    sa.Column("split", sa.String(32), primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.String(64), nullable=False),
    sa.Column("split", sa.String(32), nullable=False),
    sa.Column("span_key", sa.String(32), nullable=False),  # "" is the budget that all spans share
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("relation", sa.String(32), nullable=False),
    sa.Column("epsilon", sa.Float(53), nullable=False),
    sa.Column("delta", sa.Float(53), nullable=False),
    sa.Column("policy", sa.Text),
    sa.Column("filter_order", sa.Float(53)),
    sa.Column("cap_changes", sa.Integer, nullable=False),
    sa.Column("ceiling", sa.Float(53)),
    sa.Column("delta_factor", sa.Integer, nullable=False, server_default="1"),
    sa.Column("totals", sa.Text, nullable=False),
    sa.UniqueConstraint("dataset", "split", "span_key"),
)
# One row for all entries of the same plan, event and cost; its key is the digest of the other columns.
charges = sa.Table(
    "charges",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("orders_version", sa.Integer, nullable=False),
    sa.Column("rdp", sa.Text, nullable=False),
    sa.Column("total_variation", sa.Float(53), nullable=False),
)
entries = sa.Table(
    "entries",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("budget_id", sa.ForeignKey("budgets.id"), nullable=False),
    sa.Column("span_key", sa.String(32), nullable=False),
    sa.Column("data_digest", sa.String(64), nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("plan_key", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("token", sa.String(64), nullable=False),  # SHA-256 of the holder's secret
    sa.Column("planned", sa.ForeignKey("charges.digest"), nullable=False),
    sa.Column("executed", sa.ForeignKey("charges.digest")),
    sa.Column("overrun", sa.Boolean, nullable=False),
    sa.Column("reserved_at", sa.String(40), nullable=False),
    sa.Column("started_at", sa.String(40)),
    sa.Column("committed_at", sa.String(40)),
    sa.Column("expired_at", sa.String(40)),
    sa.Column("commit_seq", sa.BigInteger),  # journal record of the commit: the receipt
    sa.UniqueConstraint("run_id", "node", "plan_key", "attempt"),
    sa.CheckConstraint("state IN ('reserved', 'started', 'committed', 'expired')", name="known_state"),
    sa.Index("ix_entries_of_budget", "budget_id", "id"),
    # Ids are never used twice: the order of ids is the order of reservations.
    sqlite_autoincrement=True,
)
