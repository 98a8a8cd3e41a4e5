"""Replays the journal: what the ledger's tables have to hold if every record is true."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from privacy_pipeline.ledger.charging import entries
from privacy_pipeline.ledger.state.entries import COUNTED, State
from privacy_pipeline.ledger.storage import journal
from privacy_pipeline.ledger.storage.older_formats import SINCE_5


class ReplayError(Exception):
    """A record that cannot have been written by the ledger."""


class Replay:
    """State of the ledger after the records so far.

    Attributes:
        registrations: rows by dataset and span key.
        budgets: rows by id, without the totals.
        open: rows of entries that may still change, by id.
        closed: digest of the row of each entry that is committed or expired.
        counted: for each budget, how many counted entries there are of each purpose and charge.
        states: for each budget, how many entries there are in each state.
        overruns: for each budget.
        digests: what the journal holds of each span's tables of digests.
        several: rows of the entries of runs over several spans, by id: those of one run have to move together.
    """

    def __init__(self) -> None:
        self.registrations: dict[tuple[str, str], dict[str, Any]] = {}
        self.budgets: dict[int, dict[str, Any]] = {}
        self.open: dict[int, dict[str, Any]] = {}
        self.closed: dict[int, bytes] = {}
        self.counted: dict[int, Counter[tuple[str, str]]] = {}
        self.states: dict[int, Counter[str]] = {}
        self.overruns: Counter[int] = Counter()
        self.several: dict[int, dict[str, Any]] = {}
        self.digests: dict[tuple[str, str], Any] = {}
        self._last_entry = 0
        self._apply: dict[str, Callable[[int, str, Any], None]] = {
            journal.REGISTER: self._register,
            journal.POLICY: self._policy,
            journal.RESERVE: self._reserve,
            journal.TAKEOVER: self._take_over,
            journal.START: self._start,
            journal.COMMIT: self._commit,
            journal.EXPIRE: self._expire,
            journal.ZERO: self._zero,
            journal.UNPROTECTED: self._unprotected,
            journal.BIND: self._bind,
            journal.IMPORTED: self._imported,
            journal.ACCEPT: self._accepted,
        }

    def apply(self, *, seq: int, at: str, kind: str, body: Mapping[str, Any]) -> None:
        """Apply one record; those of keys and of a move change nothing here.

        Raises:
            ReplayError: the record contradicts those before it, or is malformed.
        """
        if kind in (
            journal.GENESIS,
            journal.ROTATE,
            journal.LOST,
            journal.MOVED_TO,
            journal.MOVED_FROM,
            journal.RESTORED,
        ):
            return
        if kind not in self._apply:
            raise ReplayError(f"is of the unknown kind {kind!r}")
        try:
            self._apply[kind](seq, at, body)
        except (KeyError, TypeError, AttributeError) as error:
            raise ReplayError(f"is malformed ({error!r})") from error

    def _register(self, _seq: int, _at: str, body: Any) -> None:
        self._add_registration(body["registration"])
        self._add_digests(body)
        if body["budget"] is not None:
            self._add_budget(body["budget"])

    def _bind(self, _seq: int, _at: str, body: Any) -> None:
        row = body["registration"]
        key = (row["dataset"], row["span_key"])
        known = self.registrations.get(key)
        if known is None or {**known, "details": None} != {**row, "details": None}:
            raise ReplayError(f"adds to {key}, which is not registered so")
        self.registrations[key] = dict(row)
        self._add_digests(body)

    def _add_digests(self, body: Any) -> None:
        if body.get("digests") is not None:
            row = body["registration"]
            self.digests[row["dataset"], row["span_key"]] = body["digests"]

    def _add_registration(self, row: Any) -> None:
        key = (row["dataset"], row["span_key"])
        if key in self.registrations:
            raise ReplayError(f"registers {key} again")
        self.registrations[key] = {**SINCE_5["registrations"], **row}

    def _add_budget(self, row: Any) -> None:
        if row["id"] in self.budgets:
            raise ReplayError(f"opens budget {row['id']} again")
        self.budgets[row["id"]] = {**SINCE_5["budgets"], **row}
        self.counted[row["id"]], self.states[row["id"]] = Counter(), Counter()

    def _policy(self, _seq: int, _at: str, body: Any) -> None:
        if "opens" in body:
            self._add_budget(body["opens"])
            return
        self.budgets[body["budget"]].update(body["changes"])

    def _reserve(self, _seq: int, at: str, body: Any) -> None:
        row = entries.new_row(body["entry"], at=at)
        self._add_entry(row)
        self._rule(row["budget_id"], body)

    def _rule(self, budget: int, body: Any) -> None:
        self.budgets[budget].update(filter_order=body["order"], ceiling=body.get("ceiling"))

    def _add_entry(self, row: dict[str, Any]) -> None:
        if row["id"] <= self._last_entry:
            raise ReplayError(f"reserves entry {row['id']} after entry {self._last_entry}")
        self._last_entry = row["id"]
        self.states[row["budget_id"]][row["state"]] += 1
        self.overruns[row["budget_id"]] += row["overrun"]
        if row["state"] in COUNTED:
            self.counted[row["budget_id"]][row["purpose"], row["executed"] or row["planned"]] += 1
        self._keep(row)

    def _keep(self, row: dict[str, Any]) -> None:
        if row["span_key"] and not row["span_key"].isdigit():
            self.several[row["id"]] = row
        if row["state"] in (State.COMMITTED.value, State.EXPIRED.value):
            self.open.pop(row["id"], None)
            self.closed[row["id"]] = row_digest(row)
        else:
            self.open[row["id"]] = row

    def _held(self, body: Any, state: State) -> dict[str, Any]:
        row = self.open.get(body["entry"])
        if row is None or row["state"] != state.value:
            raise ReplayError(f"moves entry {body['entry']}, which is not {state.value}")
        return row

    def _move(self, row: dict[str, Any], state: State, **changes: Any) -> None:
        states = self.states[row["budget_id"]]
        states[row["state"]] -= 1
        states[state.value] += 1
        row.update(state=state.value, **changes)
        self._keep(row)

    def _take_over(self, _seq: int, at: str, body: Any) -> None:
        row = self._held(body, State.RESERVED)
        row.update(token=body["token"], reserved_at=at)
        self._rule(row["budget_id"], body)

    def _start(self, _seq: int, at: str, body: Any) -> None:
        self._move(self._held(body, State.RESERVED), State.STARTED, started_at=at)

    def _commit(self, seq: int, at: str, body: Any) -> None:
        row = self._held(body, State.STARTED)
        counted, budget = self.counted[row["budget_id"]], row["budget_id"]
        counted[row["purpose"], row["planned"]] -= 1
        counted[row["purpose"], body["executed"]] += 1
        self.overruns[budget] += body["overrun"]
        done = {"committed_at": at, "executed": body["executed"], "overrun": body["overrun"], "commit_seq": seq}
        self._move(row, State.COMMITTED, **done)

    def _expire(self, _seq: int, at: str, body: Any) -> None:
        row = self._held(body, State.RESERVED)
        self.counted[row["budget_id"]][row["purpose"], row["planned"]] -= 1
        self._move(row, State.EXPIRED, expired_at=at)

    def _zero(self, _seq: int, _at: str, body: Any) -> None:
        paid = body["paid_by"]
        if paid is not None and paid not in self.open and paid not in self.closed:
            raise ReplayError(f"names entry {paid}, which there is not")

    def _unprotected(self, _seq: int, _at: str, body: Any) -> None:
        if not any(dataset == body["dataset"] for dataset, _ in self.registrations):
            raise ReplayError(f"names dataset {body['dataset']}, which is not registered")

    def _imported(self, _seq: int, _at: str, body: Any) -> None:
        add: dict[str, Callable[[dict[str, Any]], None]] = {
            "registrations": self._add_registration,
            "budgets": self._add_budget,
            "entries": self._add_entry,
        }
        add[body["table"]](dict(body["row"]))

    def _accepted(self, _seq: int, _at: str, body: Any) -> None:
        if not (isinstance(body["hash"], str) and isinstance(body["principal"], str)):
            raise ReplayError("accepts nothing")


def row_digest(row: Mapping[Any, Any]) -> bytes:
    """Return the SHA-256 of a row: its columns by name."""
    return hashlib.sha256(json.dumps(dict(row), sort_keys=True, separators=(",", ":")).encode()).digest()
