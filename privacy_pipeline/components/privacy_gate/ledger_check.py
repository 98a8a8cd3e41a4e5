"""What the budget ledger has against a model: the charges that its record and its evaluation name. No TFX in here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from privacy_pipeline.errors import PipelineError
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import Entry, State

if TYPE_CHECKING:
    from privacy_pipeline.accounting.record import Composition, Preprocessing, PrivacyRecord
    from privacy_pipeline.releases.evaluation import DpEvaluation


@dataclass(frozen=True, kw_only=True)
class _Named:
    """A charge as a record names it; `run_id` is None where an earlier run may have been charged."""

    what: str
    entry: int
    budget: str
    event: JsonValue
    run_id: str | None
    receipt: tuple[int | None, str | None, str | None]


def ledger_reasons(record: PrivacyRecord, evaluation: DpEvaluation | None, *, url: str) -> list[str]:
    """Return why the ledger does not confirm what was stated; none where nothing was charged, or where it does.

    Holds each named entry's run, event, budget and receipt against the ledger, and the budget against its cap. What
    cannot be looked up is a reason too.

    Args:
        record: the privacy record of the training.
        evaluation: what a DP evaluation released; None where metrics are exact.
        url: SQLAlchemy URL of the ledger.
    """
    found = []
    if record.training_guarantee == "dp" and record.composition is None:
        found.append("the record claims DP and names no ledger entry: nothing shows that the training was charged")
    named = list(_named(record, evaluation))
    if not named:
        return found
    try:
        ledger = Ledger.open(url)
        for charge in named:
            found += _entry_reasons(ledger, charge, record.dataset)
        budgets = {charge.budget for charge in named}
        found += [
            f"budget {status.budget}: the ledger holds epsilon {status.enforced_epsilon:.4g}, above its cap of "
            f"{status.cap_epsilon:g} at delta {status.cap_delta:g}: an overrun, or the cap was lowered"
            for status in ledger.status(record.dataset)
            if status.budget in budgets and status.passed
        ]
    except PipelineError as error:
        found.append(f"the ledger cannot be compared with the record: {error.message}")
    return found


def pin_reasons(*, url: str, data: Sequence[Path], workspace: Path) -> list[str]:
    """Return why the ledger is not that of the data and the workspace; none where it is, or nothing is pinned.

    Args:
        url: SQLAlchemy URL of the ledger.
        data: the folders that the data lies in.
        workspace: the workspace.
    """
    try:
        pins.open_pinned(url, data=data, workspace=workspace)
    except PipelineError as error:
        return [error.message]
    return []


def _named(record: PrivacyRecord, evaluation: DpEvaluation | None) -> Iterator[_Named]:
    event = record.mechanism.dp_event if record.mechanism is not None else None
    for made in record.compositions:
        yield _of(made, "training", made.ledger_entry, made.budget, event, record.run_id)
    if record.preprocessing is not None:
        made_before = record.preprocessing
        released, entry, budget = made_before.dp_event, made_before.ledger_entry, made_before.budget
        yield _of(made_before, "DP statistics", entry, budget, released, None)
    if evaluation is not None:
        yield _of(evaluation.composition, "DP evaluation", evaluation.ledger_entry, evaluation.budget, evaluation.event)


def _of(
    stamp: Composition | Preprocessing | None,
    what: str,
    entry: int,
    budget: str,
    event: JsonValue,
    run_id: str | None = None,
) -> _Named:
    receipt = (None, None, None) if stamp is None else (stamp.journal_seq, stamp.journal_hash, stamp.key_id)
    return _Named(what=what, entry=entry, budget=budget, event=event, run_id=run_id, receipt=receipt)


def _entry_reasons(ledger: Ledger, named: _Named, dataset: str) -> list[str]:
    name = f"ledger entry {named.entry} of the {named.what}"
    entry = ledger.entry(named.entry)
    if entry is None:
        return [f"{name} is not in the ledger: it was cut, or this is another ledger"]
    if entry.state is not State.COMMITTED:
        return [f"{name} is {entry.state.value}, not committed"]
    found = []
    if not _same(entry, named, dataset):
        found.append(f"{name} is one of another run, event, dataset or budget")
    stamped = ledger.composition(named.entry)
    if None in named.receipt:
        found.append(f"{name} has no receipt in the record: train again, with a ledger of the present format")
    elif named.receipt != (stamped.journal_seq, stamped.journal_hash, stamped.key_id):
        found.append(f"{name} has another receipt than the record: the ledger was cut, rolled back or replaced")
    if entry.overrun:
        found.append(f"{name} is an overrun: more was executed than was planned and granted")
    return found


def _same(entry: Entry, named: _Named, dataset: str) -> bool:
    ran = entry.event if entry.executed_event is None else entry.executed_event
    run_fits = named.run_id is None or entry.run_id == named.run_id
    return run_fits and (entry.dataset, entry.budget, ran) == (dataset, named.budget, named.event)
