"""All entries of a ledger with their events and receipts, as rows for other tools. Reads only."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.audit import records
from privacy_pipeline.ledger.charging.charges import Charges, counted_digest
from privacy_pipeline.ledger.opening import open_engine
from privacy_pipeline.ledger.state.budgets import charge_of
from privacy_pipeline.ledger.state.entries import COUNTED, Entry, budget_key
from privacy_pipeline.ledger.state.totals import Sum
from privacy_pipeline.ledger.storage import journal, schema
from privacy_pipeline.ledger.storage.digest_secret import covering
from privacy_pipeline.text.shown_text import in_csv, in_json

EXPORT_VERSION = 1
COLUMNS = (
    "export_version",
    "entry",
    "budget",
    "dataset",
    "span",
    "split",
    "unit",
    "relation",
    "purpose",
    "state",
    "run_id",
    "node",
    "attempt",
    "principal",
    "epsilon_alone",
    "epsilon_composed",
    "delta",
    "accountant",
    "overrun",
    "data_digest",
    "plan",
    "event",
    "executed_event",
    "reserved_at",
    "started_at",
    "committed_at",
    "expired_at",
    "reserve_seq",
    "reserve_hash",
    "commit_seq",
    "commit_hash",
)
_BATCH = 1000


def exported(url: str, *, dataset: str | None = None) -> list[dict[str, Any]]:
    """Return every entry, the oldest first, with the keys `COLUMNS`.

    `epsilon_alone` is the entry's own cost, `epsilon_composed` that of all counted entries of its budget up to and with
    it, both by RDP at the cap's delta, from what ran once that is known; null where the entry does not count any more
    or no finite epsilon is known. `data_digest` is covered. `reserve_*` and `commit_*` are number and hash of its
    journal records.

    Args:
        url: SQLAlchemy URL of the ledger.
        dataset: only of this dataset.

    Raises:
        BadInputError: there is no ledger at the URL, or the dataset is not registered.
        LedgerError: the ledger cannot be read, or holds a damaged charge.
    """
    with schema.transaction(open_engine(url, create=False), write=False) as connection:
        budgets = _budgets(connection, dataset)
        table = schema.entries
        query = sa.select(table).where(table.c.budget_id.in_(budgets)).order_by(table.c.id)
        rows = connection.execute(query).mappings().all()
        reserved, hashes = _records(connection)
        charges, sums = Charges(connection), dict.fromkeys(budgets, Sum())
        cover = covering(schema.parse(url))
        found = []
        for row in rows:
            budget, composed = budgets[row["budget_id"]], None
            if row["state"] in COUNTED:
                sums[budget["id"]] += charges.sum(counted_digest(row), budget["delta"])
                composed = charge_of(sums[budget["id"]]).epsilon(budget["delta"])
            receipts = _receipts(reserved.get(row["id"]), row["commit_seq"], hashes)
            entry = charges.entry(row, budget)
            found.append(_row(entry, budget, composed=composed, receipts=receipts, digest=cover(row["data_digest"])))
        return found


def exported_records(url: str, *, dataset: str | None = None) -> list[dict[str, Any]]:
    """Return every record of the journal, the oldest first, with the fields of `records.JournalRecord`.

    Args:
        url: SQLAlchemy URL of the ledger.
        dataset: only of this dataset, and those about the ledger as a whole.

    Raises:
        BadInputError: there is no ledger at the URL, or the dataset is not registered.
        LedgerError: the ledger cannot be read, or a record is damaged.
    """
    with schema.transaction(open_engine(url, create=False), write=False) as connection:
        _budgets(connection, dataset)
        found = records.newest(connection, dataset=dataset, limit=None)
    return [{"export_version": EXPORT_VERSION, **dataclasses.asdict(record)} for record in reversed(found)]


def to_json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one JSON object a line."""
    return "".join(in_json(json.dumps(row, allow_nan=False)) + "\n" for row in rows)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a header and one line for each entry; plan, events and several spans are JSON, what is null is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        nested = {name: json.dumps(row[name]) for name in ("plan", "event", "executed_event") if row[name] is not None}
        several = {"span": json.dumps(row["span"])} if isinstance(row["span"], tuple) else {}
        writer.writerow({name: in_csv(value) for name, value in {**row, **nested, **several}.items()})
    return text.getvalue()


def _budgets(connection: sa.Connection, dataset: str | None) -> dict[int, sa.RowMapping]:
    query = sa.select(schema.budgets)
    if dataset is not None:
        query = query.where(schema.budgets.c.dataset == dataset)
    found = {row["id"]: row for row in connection.execute(query).mappings()}
    if not found and dataset is not None:
        raise BadInputError(f"dataset {dataset} is not registered in the ledger", fix="privacy-pipeline budget status")
    return found


def _records(connection: sa.Connection) -> tuple[dict[int, int], dict[int, str]]:
    """Return each entry's record of its reservation, and the hash of each record of a reservation or commit."""
    table = schema.journal
    query = sa.select(table.c.seq, table.c.kind, table.c.hash, table.c.body)
    query = query.where(table.c.kind.in_((journal.RESERVE, journal.COMMIT))).order_by(table.c.seq)
    reserved, hashes = {}, {}
    for seq, kind, digest, body in _batched(connection, query):
        hashes[seq] = digest
        if kind == journal.RESERVE:
            reserved[json_value(body)["entry"]["id"]] = seq
    return reserved, hashes


def _batched(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Any]:
    yield from connection.execute(query, execution_options={"yield_per": _BATCH})


def _receipts(reserve: int | None, commit: int | None, hashes: Mapping[int, str]) -> dict[str, Any]:
    """Return an entry's receipts; None where it was imported from an older ledger, which had no journal."""
    of = {"reserve": reserve, "commit": commit}
    seqs = {f"{name}_seq": seq for name, seq in of.items()}
    return seqs | {f"{name}_hash": None if seq is None else hashes.get(seq) for name, seq in of.items()}


def _row(
    entry: Entry,
    budget: Mapping[Any, Any],
    *,
    composed: float | None,
    receipts: Mapping[str, Any],
    digest: str,
) -> dict[str, Any]:
    alone = entry.epsilon if composed is not None else None
    values = {
        "export_version": EXPORT_VERSION,
        "entry": entry.id,
        "budget": budget_key(budget),
        "unit": budget["unit"],
        "relation": budget["relation"],
        "state": entry.state.value,
        "epsilon_alone": _finite(alone),
        "epsilon_composed": _finite(composed),
        "delta": budget["delta"],
        "accountant": "rdp",
        "data_digest": digest,
        **receipts,
    }
    return {name: values[name] if name in values else getattr(entry, name) for name in COLUMNS}


def _finite(value: float | None) -> float | None:
    return None if value is None or value == float("inf") else value
