"""Compare the ledger's tables and totals with a replay of its journal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.audit.replay import Replay, row_digest
from privacy_pipeline.ledger.charging.charges import Charges
from privacy_pipeline.ledger.state.entries import budget_key, price
from privacy_pipeline.ledger.state.totals import Sum, Totals
from privacy_pipeline.ledger.state.unit_digests import differing_tables
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.spans import span_key, span_of, spans_of

MOST = 20  # problems that are reported
_BATCH = 2000
_ROUNDING = 1e-9  # relative, between versions of the accounting library


def compare(connection: sa.Connection, replay: Replay, *, reprice: bool) -> list[str]:
    """Return what is wrong with the tables: entries first, at most `MOST` problems.

    Args:
        connection: the transaction in which the journal was read.
        replay: the journal, replayed.
        reprice: also compute each charge again from its event.
    """
    found: list[str] = []
    for problem in _problems(connection, replay, reprice):
        found.append(problem)
        if len(found) == MOST:
            return [*found, "... and there may be more"]
    return found


def _problems(connection: sa.Connection, replay: Replay, reprice: bool) -> Iterator[str]:
    yield from _entries(connection, replay)
    yield from _several(replay)
    yield from _registrations(connection, replay)
    yield from _digests(connection, replay)
    charges = Charges(connection)
    for key in sorted(replay.budgets):
        yield from _budget(connection, replay, key, charges)
        if reprice:
            yield from _prices(replay, key, charges)
    stored = connection.scalars(sa.select(schema.budgets.c.id))
    yield from (f"budget {key} is in no journal record" for key in stored if key not in replay.budgets)


def _entries(connection: sa.Connection, replay: Replay) -> Iterator[str]:
    seen = 0
    table = schema.entries
    query = sa.select(table).order_by(table.c.id)
    rows = connection.execute(query, execution_options={"yield_per": _BATCH}).mappings()
    for row in rows:
        seen += 1
        known = replay.open.get(row["id"])
        expected = row_digest(known) if known is not None else replay.closed.get(row["id"])
        if expected is None:
            seen -= 1
            yield f"entry {row['id']} (run {row['run_id']}) is in no journal record"
        elif row_digest(row) != expected:
            yield f"entry {row['id']} (run {row['run_id']}) differs from the journal"
    if seen < len(replay.open) + len(replay.closed):
        stored = set(connection.scalars(sa.select(table.c.id)))
        yield from (f"entry {key} was deleted" for key in sorted({*replay.open, *replay.closed} - stored))


def _several(replay: Replay) -> Iterator[str]:
    """Yield runs over several spans that did not charge each of their budgets once, or whose charges moved apart."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for _, row in sorted(replay.several.items()):
        runs.setdefault(row["token"], []).append(row)
    for rows in runs.values():
        name = f"entries {', '.join(str(row['id']) for row in rows)} (run {rows[0]['run_id']})"
        if len({(row["state"], row["executed"], row["planned"], row["span_key"]) for row in rows}) > 1:
            yield f"{name} are of one run over several spans, and are not in one state or not the same charge"
        paid = sorted(row["budget_id"] for row in rows)
        if paid != sorted(_due(replay, rows[0])):
            yield f"{name} do not charge each budget of spans {rows[0]['span_key']} once"


def _due(replay: Replay, row: Mapping[str, Any]) -> set[int]:
    """Return the budgets that the spans of an entry belong to."""
    budget = replay.budgets[row["budget_id"]]
    same = {
        other["span_key"]: key
        for key, other in replay.budgets.items()
        if (other["dataset"], other["split"]) == (budget["dataset"], budget["split"])
    }
    return {same.get(span_key(span), same.get("", -1)) for span in spans_of(span_of(row["span_key"]))}


def _registrations(connection: sa.Connection, replay: Replay) -> Iterator[str]:
    rows = {}
    for row in connection.execute(sa.select(schema.registrations)).mappings():
        kept = {name: value for name, value in row.items() if name != "id"}
        rows[row["dataset"], row["span_key"]] = kept
    for key in sorted({*rows, *replay.registrations}):
        if rows.get(key) != replay.registrations.get(key):
            yield f"the registration of dataset {key[0]}, span {key[1] or 'none'}, differs from the journal"


def _digests(connection: sa.Connection, replay: Replay) -> Iterator[str]:
    """Yield tables of digests whose root differs from the journal's, and tables that no record names."""
    table = schema.unit_digests
    stored = {tuple(row) for row in connection.execute(sa.select(table.c.dataset, table.c.span_key).distinct())}
    for key in sorted(stored | set(replay.digests)):
        for name in differing_tables(connection, key, replay.digests.get(key, {})):
            yield f"the digests {name} of dataset {key[0]}, span {key[1] or 'none'}, are not those that were registered"


def _budget(connection: sa.Connection, replay: Replay, key: int, charges: Charges) -> Iterator[str]:
    table, expected = schema.budgets, replay.budgets[key]
    row = connection.execute(sa.select(table).where(table.c.id == key)).mappings().first()
    name = budget_key(expected)
    if row is None:
        yield f"budget {name} was deleted"
        return
    for column in expected:
        if row[column] != expected[column]:
            yield f"budget {name}: {column} is {row[column]!r}, the journal has {expected[column]!r}"
    spent: dict[str, Sum] = {}
    try:
        for (purpose, digest), count in replay.counted[key].items():
            cost = charges.sum(digest, expected["delta"]).times(count)
            spent[purpose] = spent.get(purpose, Sum()) + cost
    except schema.LedgerError as error:
        yield f"budget {name}: {error.message}"
        return
    totals = Totals(spent=spent, states=replay.states[key], overruns=replay.overruns[key])
    if totals.to_json() != row["totals"]:
        yield f"budget {name}: its totals are not the sum of its entries"


def _prices(replay: Replay, key: int, charges: Charges) -> Iterator[str]:
    """Yield charges that are lower than the cost of their event."""
    relation = Relation(replay.budgets[key]["relation"])
    for digest in sorted({digest for (_, digest), count in replay.counted[key].items() if count}):
        try:
            stored = charges.get(digest)
        except schema.LedgerError:
            continue  # reported already
        if stored.event is None:
            continue  # could not be priced, and is charged without limit
        if why := _too_little(stored.charge.values, stored.charge.distance, stored.event, relation):
            yield f"the charge {digest[:12]}... {why}"


def _too_little(values: tuple[float, ...], distance: float, event: Any, relation: Relation) -> str:
    from privacy_pipeline.accounting.events import from_json

    try:
        again = price(from_json(event), relation)
    except (AccountingError, BadInputError) as error:
        return f"is of an event that cannot be priced: {error.message}"
    pairs = zip((*values, distance), (*again.values, again.distance), strict=True)
    low = any(kept < due * (1 - _ROUNDING) - _ROUNDING for kept, due in pairs)
    return f"is lower than the cost of its event: {_short(event)}" if low else ""


def _short(event: Mapping[str, Any]) -> str:
    return json.dumps(event, sort_keys=True)[:200]
