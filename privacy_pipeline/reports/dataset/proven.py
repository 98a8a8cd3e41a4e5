"""The bound of a budget that holds without any assumption on how runs were chosen, which a report states first.

Only the filter covers a run that is chosen after the results of earlier ones were seen, and the filter proves its cap,
not what is spent (`ledger.state.renyi_filter`). Caps may have been changed after results were seen: then the largest of
them bounds every set of outcomes in which no cap was larger, at the one delta of the budget. Where an older version let
the order or the delta be chosen again, the last delta is multiplied (`ledger.state.earlier_rules`). A single entry was
chosen before any result: there the epsilon of what ran holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from privacy_pipeline.ledger.audit.cap_history import LedgerChange, caps_of
from privacy_pipeline.ledger.state.entries import BudgetStatus, Cost, Entry
from privacy_pipeline.reports.figures import Figure, Loss, Source, ranges

WHATEVER = "whatever was seen before a run was chosen"
_ONE = "RDP; one entry, so nothing was chosen after a result"
_NOTHING = "nothing was spent"
_PASSED = "entries executed more than they had planned, and more is spent than the cap allows"
_UNKNOWN = "the cap was changed before the journal began, and those caps are not known"
_USED_UP = "the delta is one or more"


@dataclass(frozen=True, kw_only=True)
class Proven:
    """The bound, and the pair of epsilon and delta that the caps prove; None where they prove nothing."""

    loss: Loss
    cap: tuple[float, float] | None
    records: str

    def source(self, field: str, method: str) -> Source:
        """Return the journal records that fixed the caps."""
        return Source(place="journal record", name=self.records, field=field, method=method)


def proven_bound(
    status: BudgetStatus, total: Cost, *, entries: Sequence[Entry], changes: Sequence[LedgerChange]
) -> Proven:
    """Return the bound of one budget.

    Args:
        status: the budget.
        total: sum of its counted entries.
        entries: those entries.
        changes: what changed the budgets' caps.
    """
    caps = [change for change in caps_of(list(changes), status.budget) if change.epsilon is not None]
    records = ranges(change.seq for change in caps)
    place = {"place": "journal record", "name": records}
    deltas = [change.delta or 0.0 for change in caps] or [0.0]
    delta = max(deltas) if status.delta_factor == 1 else status.delta_factor * deltas[-1]
    largest = max((change.epsilon or 0.0 for change in caps), default=0.0)
    why = _why_not(status, len(caps), delta)
    cap = None if why else (largest, delta)
    if len(entries) <= 1:
        return Proven(loss=_single(status, total, entries), cap=cap, records=records)
    shown = Figure(value=delta, kind="delta up", source=Source(**place, field="delta", method=_method(status)))
    basis = f"the cap, {WHATEVER}"
    if why:
        return Proven(loss=Loss(epsilon=None, delta=shown, basis=basis, missing=why), cap=None, records=records)
    epsilon = Figure(value=largest, kind="epsilon", source=Source(**place, field="epsilon", method="largest"))
    return Proven(loss=Loss(epsilon=epsilon, delta=shown, basis=basis), cap=cap, records=records)


def _method(status: BudgetStatus) -> str:
    return "largest" if status.delta_factor == 1 else f"last, times {status.delta_factor}"


def _why_not(status: BudgetStatus, starts: int, delta: float) -> str:
    if starts != status.cap_changes + 1:
        return _UNKNOWN
    if status.passed and (status.overruns or math.isinf(status.spent_epsilon)):
        return _PASSED
    return _USED_UP if delta >= 1 else ""


def _single(status: BudgetStatus, total: Cost, entries: Sequence[Entry]) -> Loss:
    at = Source(place="budget", name=status.budget, field="cap_delta")
    delta, epsilon = Figure(value=status.cap_delta, kind="delta", source=at), total.epsilon(status.cap_delta)
    numbers = ranges(entry.id for entry in entries)
    if math.isinf(epsilon):
        return Loss(epsilon=None, delta=delta, basis=_ONE, missing="the entry could not be accounted for")
    source = (
        Source(place="ledger entries", name=numbers, field="rdp", method="stored charges added, then epsilon")
        if entries
        else Source(place="budget", name=status.budget, field="spent_epsilon")
    )
    figure = Figure(value=epsilon, kind="epsilon", source=source)
    return Loss(epsilon=figure, delta=delta, basis=_ONE if entries else _NOTHING)
