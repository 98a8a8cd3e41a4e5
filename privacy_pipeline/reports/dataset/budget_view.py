"""Budgets of a report: composition over runs from events and stored vectors, burn-down, curves, attack reading."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import JsonValue

from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.ledger.audit.profile import Profile, profile
from privacy_pipeline.ledger.state.entries import BudgetStatus, Cost, Entry, State, together
from privacy_pipeline.ledger.state.held import enforced_epsilon
from privacy_pipeline.reports.dataset.dataset_report import (
    AttackReading,
    BudgetView,
    BurnPoint,
    Curve,
    CurvePoint,
    EntryView,
)
from privacy_pipeline.reports.dataset.evidence import LedgerState
from privacy_pipeline.reports.dataset.groups import GROUPS, group_reading
from privacy_pipeline.reports.dataset.proven import WHATEVER, Proven, proven_bound
from privacy_pipeline.reports.figures import Figure, Kind, Loss, Quote, Source, day, ranges
from privacy_pipeline.reports.record.attack import FALSE_POSITIVE_RATES, true_positive_rate

MOST_ENTRIES = 500  # listed entries, and also points of the burn-down, at most
NO_BOUND = "no finite bound: an entry could not be accounted for"
CURVE_DELTAS: tuple[float, ...] = (
    *(10.0 ** (-9 + half / 2) for half in range(15)),
    *(0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
)
RDP_SUM = "stored charges added, then epsilon at the cap's delta"
HELD_SUM = "stored charges added, then epsilon at the filter's order"
FILTER = "Renyi filter"
TRUNCATED = "truncation costs more of delta than is kept for it"
PLD_ALL = "PLD over the events of all entries"
_AGREES = 1e-6  # relative; precision of the search for epsilon under truncation


def budget_view(status: BudgetStatus, ledger: LedgerState) -> BudgetView:
    """Return one budget of the report.

    Raises:
        AccountingError: stored charges are below the cost of the events, or PLD is above RDP.
    """
    entries = [entry for entry in ledger.entries if entry.budget == status.budget]
    counted = [entry for entry in entries if entry.state is not State.EXPIRED]
    charges = [ledger.charges[entry.id] for entry in counted]
    total = together(charges)
    spent, held = total.epsilon(status.cap_delta), _held(status, total)
    found = _profile(status, counted, spent)
    proven = proven_bound(status, total, entries=counted, changes=ledger.changes)
    numbers = ranges(entry.id for entry in counted) or f"none of {status.budget}"
    curves = _curves(total, found, numbers) if counted and math.isfinite(spent) else []
    return BudgetView(
        key=_quote(status, "budget", status.budget),
        split=_quote(status, "split", status.split),
        unit=_quote(status, "unit", status.unit),
        relation=_quote(status, "relation", status.relation.value),
        cap=_loss(status, status.cap_epsilon, "cap", _at(status, "cap_epsilon"), kind="cap"),
        proven=proven.loss,
        spent=_held_loss(status, held, spent, _all(numbers, "rdp", HELD_SUM)),
        left=_left(status, held),
        used=_figure(status.used, "rate", _at(status, "used")) if math.isfinite(status.used) else None,
        best_order=_loss(status, spent, "RDP", _all(numbers, "rdp", RDP_SUM)),
        simple_addition=_loss(
            status,
            status.simple_epsilon,
            "simple addition of the entries' epsilons by RDP",
            _all(numbers, "epsilon", "sum"),
        ),
        pld=_loss(status, found.epsilon, "PLD", _all(numbers, "event", PLD_ALL), missing=found.missing),
        counted=_figure(len(counted), "count", _all(numbers, "", "count")),
        states={s.value: _figure(n, "count", _at(status, f"entries.{s.value}")) for s, n in status.entries.items()},
        overruns=_figure(status.overruns, "count", _at(status, "overruns")),
        cap_changes=_figure(status.cap_changes, "count", _at(status, "cap_changes")),
        delta_factor=_figure(status.delta_factor, "count", _at(status, "delta_factor")),
        filter_order=None
        if status.filter_order is None
        else _figure(status.filter_order, "number", _at(status, "filter_order")),
        burn_down=_burn_down(status, counted, charges),
        curves=curves,
        attack=_attack(status, curves, numbers, proven),
        groups=[group_reading(size, proven.loss, total, status, numbers) for size in GROUPS] if counted else [],
        entries=[_entry(status, entry) for entry in entries[-MOST_ENTRIES:]],
        entries_left_out=_figure(max(0, len(entries) - MOST_ENTRIES), "count", _at(status, "entries", "not listed")),
    )


def _profile(status: BudgetStatus, counted: Sequence[Entry], spent: float) -> Profile:
    """Return PLD over what ran; for an entry that is not committed, over what it planned, which counts in full."""
    nothing = Profile(epsilon=None, missing="nothing was spent", epsilon_rdp=0.0, curve=())
    if not counted:
        return nothing
    if math.isinf(spent):
        return Profile(epsilon=None, missing=NO_BOUND, epsilon_rdp=spent, curve=())
    events: list[JsonValue] = [
        entry.event if entry.executed_event is None else entry.executed_event for entry in counted
    ]
    found = profile(events, relation=status.relation, delta=status.cap_delta, deltas=CURVE_DELTAS)
    if found.epsilon_rdp > spent * (1 + _AGREES) + _AGREES:
        raise AccountingError(
            f"budget {status.budget}: the stored charges give epsilon {spent:.6g}, the stored events cost "
            f"{found.epsilon_rdp:.6g} by RDP at delta {status.cap_delta:g}",
            fix="the ledger was edited or is damaged; no report is made from it",
        )
    return found


def _curves(total: Cost, found: Profile, numbers: str) -> list[Curve]:
    by_rdp = [(total.epsilon(delta), delta) for delta in CURVE_DELTAS]
    curves = [
        Curve(accountant="RDP", points=_points(by_rdp, _all(numbers, "rdp", "stored charges added, then epsilon")))
    ]
    if found.curve:
        curves.insert(0, Curve(accountant="PLD", points=_points(found.curve, _all(numbers, "event", PLD_ALL))))
    return curves


def _points(points: Sequence[tuple[float, float]], source: Source) -> list[CurvePoint]:
    return [
        CurvePoint(epsilon=_figure(epsilon, "epsilon", source), delta=_figure(delta, "delta", _given("curve delta")))
        for epsilon, delta in points
        if math.isfinite(epsilon)
    ]


def _attack(status: BudgetStatus, curves: Sequence[Curve], numbers: str, proven: Proven) -> list[AttackReading]:
    readings = []
    counted = sum(status.entries[state] for state in State if state is not State.EXPIRED)
    names = " and ".join(curve.accountant for curve in curves)
    now = [(point.epsilon.value, point.delta.value) for curve in curves for point in curve.points]
    if not counted:
        now, names = [(0.0, 0.0)], "no accountant, as nothing was spent"
    cap = [] if proven.cap is None else [proven.cap]
    held = "" if counted <= 1 else ", for runs that were fixed beforehand"
    for rate in FALSE_POSITIVE_RATES:
        fpr = _figure(rate, "rate", _given("false-positive rate"))
        for when, curve, source, basis in (
            (
                "now",
                now,
                _all(numbers, "rdp and event", "attack bound"),
                f"upper bound over the whole curve by {names}{held}",
            ),
            (
                "cap",
                cap,
                proven.source("epsilon, delta", "attack bound"),
                f"rough upper bound from epsilon and delta alone, {WHATEVER}" if cap else "no bound is proven",
            ),
        ):
            tpr = _figure(true_positive_rate(curve, false_positive_rate=rate), "rate", source)
            reading = {"false_positive_rate": fpr, "true_positive_rate": tpr, "basis": basis, "when": when}
            readings.append(AttackReading.model_validate(reading))
    return readings


def _burn_down(status: BudgetStatus, counted: Sequence[Entry], charges: Sequence[Cost]) -> list[BurnPoint]:
    kept = set(_thinned(len(counted)))
    points, running = [], together([])
    for index, (entry, charge) in enumerate(zip(counted, charges, strict=True)):
        last = index == len(counted) - 1
        # The last sum is also reported as spent: round it once, so that both are the same number.
        running = together(charges) if last else together((running, charge))
        if index not in kept:
            continue
        held, spent = _held(status, running), running.epsilon(status.cap_delta)
        before = _all(f"up to {entry.id} of {status.budget}", "rdp", HELD_SUM)
        points.append(
            BurnPoint(
                entry=_figure(entry.id, "count", _of(entry, "id")),
                reserved=_day(entry),
                spent=_held_loss(status, held, spent, before),
                left=_left(status, held, source=before),
            )
        )
    return points


def _thinned(length: int) -> list[int]:
    """Return indices of at most `MOST_ENTRIES` points, the first and the last among them."""
    if length <= MOST_ENTRIES:
        return list(range(length))
    return [round(i * (length - 1) / (MOST_ENTRIES - 1)) for i in range(MOST_ENTRIES)]


def _entry(status: BudgetStatus, entry: Entry) -> EntryView:
    alone = None if entry.state is State.EXPIRED else _loss(status, entry.epsilon, "RDP", _of(entry, "epsilon"))
    return EntryView(
        number=_figure(entry.id, "count", _of(entry, "id")),
        run=_words(entry, "run_id", entry.run_id),
        node=_words(entry, "node", entry.node),
        attempt=_figure(entry.attempt, "count", _of(entry, "attempt")),
        state=_words(entry, "state", entry.state.value),
        reserved=_day(entry),
        alone=alone,
        overrun=entry.overrun,
    )


def _held(status: BudgetStatus, total: Cost) -> float:
    """Return what counts against the cap, at the filter's present order."""
    epsilon, delta = status.cap_epsilon, status.cap_delta
    return enforced_epsilon(total, order=status.filter_order, epsilon=epsilon, delta=delta, ceiling=status.ceiling)


def _held_loss(status: BudgetStatus, held: float, best: float, source: Source) -> Loss:
    return _loss(status, held, FILTER, source, missing=TRUNCATED if math.isfinite(best) and math.isinf(held) else "")


def _left(status: BudgetStatus, held: float, source: Source | None = None) -> Figure:
    where = source or _at(status, "remaining_epsilon")
    return _figure(
        max(0.0, status.cap_epsilon - held), "epsilon left", where.model_copy(update={"method": "cap less held"})
    )


def _loss(
    status: BudgetStatus,
    epsilon: float | None,
    basis: str,
    source: Source,
    *,
    kind: Kind = "epsilon",
    missing: str = "",
) -> Loss:
    delta = _figure(status.cap_delta, "delta", _at(status, "cap_delta"))
    if epsilon is None or math.isinf(epsilon):
        return Loss(epsilon=None, delta=delta, basis=basis, missing=missing or NO_BOUND)
    return Loss(epsilon=_figure(epsilon, kind, source), delta=delta, basis=basis)


def _figure(value: float, kind: Kind, source: Source) -> Figure:
    return Figure(value=value, kind=kind, source=source)


def _quote(status: BudgetStatus, field: str, words: str) -> Quote:
    return Quote(quote=words, source=_at(status, field))


def _day(entry: Entry) -> Quote:
    return day(entry.reserved_at, _of(entry, "reserved_at"))


def _words(entry: Entry, field: str, words: str) -> Quote:
    return Quote(quote=words, source=_of(entry, field))


def _at(status: BudgetStatus, field: str, method: str = "") -> Source:
    return Source(place="budget", name=status.budget, field=field, method=method)


def _of(entry: Entry, field: str) -> Source:
    return Source(place="ledger entry", name=str(entry.id), field=field)


def _all(numbers: str, field: str, method: str) -> Source:
    return Source(place="ledger entries", name=numbers, field=field, method=method)


def _given(what: str) -> Source:
    return Source(place="report", field=what, method="chosen")
