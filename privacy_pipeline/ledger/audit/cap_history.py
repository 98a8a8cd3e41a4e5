"""What the journal holds beside entries: registrations, caps, policies and keys, for reports. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.opening import open_engine
from privacy_pipeline.ledger.state.entries import budget_key
from privacy_pipeline.ledger.storage import journal, schema
from privacy_pipeline.ledger.storage.journal import VERIFY
from privacy_pipeline.ledger.storage.keys import PublicKey

_KINDS = (
    journal.GENESIS,
    journal.REGISTER,
    journal.POLICY,
    journal.ROTATE,
    journal.LOST,
    journal.IMPORTED,
    journal.ACCEPT,
    journal.BIND,
    journal.MOVED_TO,
    journal.MOVED_FROM,
    journal.RESTORED,
)
_WHOLE_LEDGER = {
    journal.ACCEPT: "what was taken over from an older format was accepted",
    journal.MOVED_TO: "the ledger was moved to another database; this one grants nothing any more",
    journal.MOVED_FROM: "the ledger was moved here from another database",
    journal.RESTORED: "the ledger was restored from a backup; what was not known is charged without limit",
}


@dataclass(frozen=True, kw_only=True)
class LedgerChange:
    """One journal record that changed a budget's rules, or the key that signs.

    Attributes:
        seq: number of the record.
        at: time, UTC, ISO 8601.
        kind: kind of the record.
        principal: who asked, where the record names them.
        budget: key of the budget; None for a key, or for a span that shares a budget.
        what: what changed, in words without numbers.
        key: id of the key that signs from here on; None unless it changed.
        epsilon, delta: the cap from here on; None where no budget changed.
        counts: whether it counts as a change of the cap, and not as the first policy of an unused budget.
    """

    seq: int
    at: str
    kind: str
    principal: str | None
    budget: str | None
    what: str
    key: str | None = None
    epsilon: float | None = None
    delta: float | None = None
    counts: bool = False


def ledger_changes(url: str, dataset: str) -> list[LedgerChange]:
    """Return every change of a dataset's caps and policies, and of the ledger's key, the oldest first.

    Args:
        url: SQLAlchemy URL of the ledger.
        dataset: registered name.

    Raises:
        BadInputError: there is no ledger at the URL.
        LedgerError: the ledger cannot be read, or a record is malformed.
    """
    table = schema.journal
    query = sa.select(table).where(table.c.kind.in_(_KINDS)).order_by(table.c.seq)
    found: list[LedgerChange] = []
    keys: dict[int, str] = {}
    with schema.transaction(open_engine(url, create=False), write=False) as connection:
        for row in connection.execute(query).mappings():
            try:
                change = _change(row, json_value(row["body"]), dataset, keys)
            except (ValueError, KeyError, TypeError) as error:
                raise schema.LedgerError(f"journal record {row['seq']} is malformed", fix=VERIFY) from error
            if change is not None:
                found.append(change)
    return found


def caps_of(changes: list[LedgerChange], budget: str) -> list[LedgerChange]:
    """Return the records that fixed the caps under which a budget's runs were granted, the oldest first.

    A first policy on an unused budget stands in for the cap before it.
    """
    found: list[LedgerChange] = []
    for change in changes:
        if change.budget == budget and change.delta is not None:
            found = [*(found if change.counts else []), change]
    return found


def _change(row: Mapping[Any, Any], body: Any, dataset: str, keys: dict[int, str]) -> LedgerChange | None:
    common = {"seq": row["seq"], "at": row["at"], "kind": row["kind"], "principal": body.get("principal")}
    kind = row["kind"]
    if kind in (journal.GENESIS, journal.ROTATE, journal.LOST):
        what = {
            journal.GENESIS: "the ledger began with this key",
            journal.ROTATE: "this key took over; the one before signed that",
            journal.LOST: "this key took over from one that was declared lost; nobody else signed that",
        }
        key = PublicKey(body["public_key"]).id
        return LedgerChange(**common, budget=None, what=what[kind], key=key)
    if kind in _WHOLE_LEDGER:
        return LedgerChange(**common, budget=None, what=_WHOLE_LEDGER[kind])
    if kind == journal.IMPORTED:
        if body["table"] != "budgets":
            return None
        return _opened(common, body["row"], dataset, keys, "taken over from an older format")
    if kind == journal.REGISTER:
        if body["budget"] is not None:
            return _opened(common, body["budget"], dataset, keys, "registered, with a budget")
        if body["registration"]["dataset"] != dataset:
            return None
        return LedgerChange(**common, budget=None, what="a further span was registered; it shares a budget")
    if kind == journal.BIND:
        if body["registration"]["dataset"] != dataset:
            return None
        return LedgerChange(
            **common,
            budget=None,
            what="a registration got what it lacked: reasons, or, of an older format, division and units",
        )
    if "opens" in body:
        return _opened(common, body["opens"], dataset, keys, "the eval split got a budget")
    return _changed(common, body, keys)


def _opened(
    common: Mapping[str, Any], row: Mapping[str, Any], dataset: str, keys: dict[int, str], what: str
) -> LedgerChange | None:
    if row["dataset"] != dataset:
        return None
    keys[row["id"]] = name = budget_key(row)
    epsilon, delta = float(row["epsilon"]), float(row["delta"])
    return LedgerChange(**common, budget=name, what=what, epsilon=epsilon, delta=delta)


def _changed(common: Mapping[str, Any], body: Any, keys: Mapping[int, str]) -> LedgerChange | None:
    name, changes = keys.get(body["budget"]), body["changes"]
    if name is None:
        return None
    if "epsilon" not in changes:
        return LedgerChange(**common, budget=name, what=f"changed: {', '.join(sorted(changes))}")
    counts = "cap_changes" in changes
    what = "the cap or the policy was changed" if counts else "the first policy, before the budget was used"
    epsilon, delta = float(changes["epsilon"]), float(changes["delta"])
    return LedgerChange(**common, budget=name, what=what, counts=counts, epsilon=epsilon, delta=delta)
