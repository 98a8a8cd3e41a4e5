"""What a report is made from: one dataset's budgets, entries and registrations, and the runs that used it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.audit.cap_history import LedgerChange, ledger_changes
from privacy_pipeline.ledger.audit.stored import stored_charges
from privacy_pipeline.ledger.charging.unprotected import UnprotectedRun
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import BudgetStatus, Cost, Entry, State
from privacy_pipeline.ledger.state.registration import Registration
from privacy_pipeline.ledger.storage.journal import Receipt
from privacy_pipeline.ledger.storage.schema import REGISTER_FIX, LedgerError
from privacy_pipeline.reports.dataset.facts import ReportFacts
from privacy_pipeline.reports.record.summary import RunSummary

_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class LedgerState:
    """A dataset's part of the ledger at one instant.

    Attributes:
        budgets: its budgets.
        entries: entries of all its budgets, the oldest first.
        charges: stored charge of each counted entry, by number.
        changes: changes of its caps and policies, and of the ledger's key, the oldest first.
        registrations: its registered spans.
        unprotected: runs without a guarantee in the journal, the oldest first.
        keys_lost: accepted keys that replaced a key that was declared lost, and that no other key signed.
    """

    budgets: Sequence[BudgetStatus]
    entries: Sequence[Entry]
    charges: Mapping[int, Cost]
    changes: Sequence[LedgerChange]
    registrations: Sequence[Registration]
    keys_lost: Sequence[str] = ()
    unprotected: Sequence[UnprotectedRun] = ()


@dataclass(frozen=True, kw_only=True)
class UnrecordedRun:
    """A run that read the data and left no record: it failed, was killed, was partial, or is still running.

    Attributes:
        run_id: the run.
        status: its status.
        nodes: nodes that read the data, or outputs that others made from it.
    """

    run_id: str
    status: str
    nodes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a report is made from.

    Attributes:
        dataset: registered name.
        ledger: the dataset's part of the ledger.
        runs: summaries of the runs on the dataset, oldest first.
        unreadable: run folders that could not be read: the report may lack their runs.
        facts: the curator's facts.
        generated: day of the report, UTC, ISO 8601.
        unrecorded: runs that read the data and left no record.
    """

    dataset: str
    ledger: LedgerState
    runs: Sequence[RunSummary]
    generated: str
    unreadable: Sequence[str] = ()
    facts: ReportFacts = field(default_factory=ReportFacts)
    unrecorded: Sequence[UnrecordedRun] = ()


def read_ledger(
    url: str, dataset: str, *, receipts: Sequence[Receipt] = (), accepted: Collection[str] = ()
) -> LedgerState:
    """Read a dataset's part of a ledger.

    Args:
        url: SQLAlchemy URL of the ledger.
        dataset: registered name.
        receipts: receipts of journal records that the ledger must hold, from the records of runs.
        accepted: ids of keys that replaced a lost one and that a person has checked.

    Raises:
        BadInputError: there is no ledger, or the dataset is not in it.
        LedgerError: the ledger cannot be read, was tampered with, or kept changing while it was read.
    """
    ledger = Ledger.open(url)
    keys_lost = _verified(ledger, receipts, accepted)
    for _ in range(_TRIES):
        before = ledger.status(dataset)
        if not before:
            raise BadInputError(f"dataset {dataset} is not registered in the ledger", fix=REGISTER_FIX)
        entries, charges = ledger.entries(dataset), stored_charges(url, dataset)
        changes = ledger_changes(url, dataset)
        registrations = [known for known in ledger.registrations() if known.dataset == dataset]
        counted = {entry.id for entry in entries if entry.state is not State.EXPIRED}
        if before == ledger.status(dataset) and counted == set(charges):
            return LedgerState(
                budgets=before,
                entries=entries,
                charges=charges,
                changes=changes,
                registrations=registrations,
                keys_lost=keys_lost,
                unprotected=ledger.unprotected_runs(dataset),
            )
    raise LedgerError(f"dataset {dataset}: the ledger changed while it was read", fix="ask for the report again")


def _verified(ledger: Ledger, receipts: Sequence[Receipt], accepted: Collection[str]) -> Sequence[str]:
    """Verify the ledger, and return the accepted keys that replaced a lost one, which the report must name.

    Raises:
        LedgerError: the ledger is not what its writers wrote, or a key that was not accepted replaced another one.
    """
    # The report itself prices all events again.
    found = ledger.verify(receipts=receipts, accepted=accepted, reprice=False)
    if not found.ok:
        raise LedgerError(f"the ledger does not verify: {found.problems[0]}", fix="privacy-pipeline budget verify")
    if not accepted:
        return ()
    said = " ".join(ledger.verify(accepted=(), reprice=False).problems)
    return [key for key in found.keys if key in accepted and f"--accept-lost-key {key}" in said]
