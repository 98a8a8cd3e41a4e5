"""The journal's records as people read them: who did what, changes of cap, policy and key among them. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.state.entries import budget_key
from privacy_pipeline.ledger.storage import journal, schema
from privacy_pipeline.ledger.storage.digest_secret import covering

_BATCH = 500
# Shown in fields of its own; a secret's hash; the salt that protects a record; digests of people and rows.
_NOT_TOLD = frozenset({"principal", "token", "salt", "units", "digests"})
SECRET = "secret"  # stands for the counts of a registration whose relation keeps them


@dataclass(frozen=True, kw_only=True)
class JournalRecord:
    """One record of the journal.

    Attributes:
        seq: its number.
        at: time, UTC, ISO 8601.
        kind: what happened: genesis, register, policy (caps and policies), reserve, takeover, start, commit, expire,
            zero (served from cache), no_guarantee (a run on registered data that claims none), moved_to, moved_from,
            restored, rotate_key, key_lost, imported, accept_import.
        principal: who did it; None in records of format 3 that do not name anyone.
        dataset, budget: what it is about; None where it is about the ledger as a whole.
        entry, run_id, node: the entry that it is about, and who asked for that.
        details: the rest of its content, as JSON values.
        hash, key_id: its hash, and the key that signed it.
    """

    seq: int
    at: str
    kind: str
    principal: str | None
    dataset: str | None
    budget: str | None
    entry: int | None
    run_id: str | None
    node: str | None
    details: Mapping[str, Any]
    hash: str
    key_id: str


def newest(connection: sa.Connection, *, dataset: str | None, limit: int | None) -> list[JournalRecord]:
    """Return records, the newest first.

    Args:
        connection: a transaction.
        dataset: only of this dataset, and those about the ledger as a whole.
        limit: the largest number of records; None for all.

    Raises:
        LedgerError: a record is damaged.
    """
    found: list[JournalRecord] = []
    for record in _read(connection, covering(connection.engine.url)):
        if dataset is None or record.dataset in (dataset, None):
            found.append(record)
        if len(found) == limit:
            break
    return found


def unsalted(connection: sa.Connection) -> list[int]:
    """Return the numbers of older records with digests of data and no salt: their hashes reveal some of the data."""
    table = schema.journal
    old = sa.not_(table.c.body.contains('"salt":"', autoescape=True))
    query = sa.select(table.c.seq).where(table.c.kind.in_(journal.HOLD_DIGESTS), old).order_by(table.c.seq)
    return list(connection.scalars(query))


def _read(connection: sa.Connection, cover: Callable[[str], str]) -> Iterator[JournalRecord]:
    """Yield rows by pages, so that the first rows need not wait for the last."""
    budgets = {row["id"]: row for row in connection.execute(sa.select(schema.budgets)).mappings()}
    table, before = schema.journal, None
    while True:
        query = sa.select(table).order_by(table.c.seq.desc()).limit(_BATCH)
        if before is not None:
            query = query.where(table.c.seq < before)
        rows = connection.execute(query).mappings().all()
        if not rows:
            return
        before = rows[-1]["seq"]
        bodies = [_body(row) for row in rows]
        entries = _entries(connection, {body["entry"] for body in bodies if isinstance(body.get("entry"), int)})
        for row, body in zip(rows, bodies, strict=True):
            yield _record(row, body, budgets, entries, cover)


def _body(row: Mapping[Any, Any]) -> dict[str, Any]:
    try:
        body = json_value(row["body"])
        if isinstance(body, dict):
            return body
    except ValueError:
        pass
    raise schema.LedgerError(f"journal record {row['seq']} is damaged", fix=journal.VERIFY)


def _entries(connection: sa.Connection, ids: set[int]) -> dict[int, Mapping[Any, Any]]:
    table = schema.entries
    columns = (table.c.id, table.c.budget_id, table.c.run_id, table.c.node)
    rows = connection.execute(sa.select(*columns).where(table.c.id.in_(ids))).mappings()
    return {row["id"]: row for row in rows}


def _record(
    row: Mapping[Any, Any],
    body: Mapping[str, Any],
    budgets: Mapping[int, Mapping[Any, Any]],
    entries: Mapping[int, Mapping[Any, Any]],
    cover: Callable[[str], str],
) -> JournalRecord:
    kind, entry = row["kind"], _entry(row["kind"], body, entries)
    number = entry.get("budget_id", body.get("budget"))
    budget = budgets.get(number) if isinstance(number, int) else None
    dataset = budget["dataset"] if budget is not None else _dataset(body)
    known: dict[str, Any] = {"entry": entry.get("id"), "run_id": entry.get("run_id"), "node": entry.get("node")}
    about: dict[str, Any] = {"budget": None if budget is None else budget_key(budget), "dataset": dataset, **known}
    who = body.get("principal") or (entry.get("principal") if kind == journal.RESERVE else None)
    details = {name: _told(value, cover) for name, value in body.items() if name not in (*_NOT_TOLD, "entry", "budget")}
    same: dict[str, Any] = {name: row[name] for name in ("seq", "at", "hash", "key_id")}
    return JournalRecord(**same, **about, kind=kind, principal=who, details=details)


def _entry(kind: str, body: Mapping[str, Any], entries: Mapping[int, Mapping[Any, Any]]) -> Mapping[Any, Any]:
    if kind == journal.ZERO:
        return {"run_id": body.get("run_id"), "node": body.get("node")}
    said = body["row"] if kind == journal.IMPORTED and body.get("table") == "entries" else body.get("entry", {})
    return said if isinstance(said, dict) else entries.get(said, {"id": said})


def _dataset(body: Mapping[str, Any]) -> str | None:
    places = (body, body.get("registration"), body.get("opens"), body.get("row"))
    return next((str(place["dataset"]) for place in places if isinstance(place, dict) and "dataset" in place), None)


def _told(value: Any, cover: Callable[[str], str]) -> Any:
    """Return a value without secrets: digests of data covered; a policy as it was written rather than as text."""
    if not isinstance(value, dict):
        return value
    told = {name: part for name, part in value.items() if name not in _NOT_TOLD}
    if "splits" in told:  # a registration
        told["digest"] = cover(told["digest"])
        told["splits"] = SECRET if told["relation"] == Relation.ADD_OR_REMOVE_ONE.value else told["splits"]
    if "data_digest" in told:  # an entry
        told["data_digest"] = cover(told["data_digest"])
    if isinstance(told.get("policy"), str):
        told["policy"] = json_value(told["policy"])
    return told
