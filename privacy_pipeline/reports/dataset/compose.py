"""Compose a dataset's report from the evidence."""

from __future__ import annotations

from privacy_pipeline.ledger.audit.cap_history import LedgerChange
from privacy_pipeline.ledger.charging.unprotected import UnprotectedRun
from privacy_pipeline.ledger.state.registration import Registration
from privacy_pipeline.reports.dataset.budget_view import budget_view
from privacy_pipeline.reports.dataset.checklist import checklist
from privacy_pipeline.reports.dataset.dataset_report import (
    ChangeView,
    DatasetReport,
    DeclarationView,
    SpanView,
    UnprotectedView,
    UnrecordedView,
)
from privacy_pipeline.reports.dataset.evidence import Evidence, UnrecordedRun
from privacy_pipeline.reports.dataset.first_page import first_page
from privacy_pipeline.reports.dataset.run_views import run_view
from privacy_pipeline.reports.figures import COVERED, Figure, Loss, Quote, Source, day


def dataset_report(evidence: Evidence) -> DatasetReport:
    """Return the report on one dataset over all its runs.

    Raises:
        AccountingError: the ledger's stored values contradict its events, or the accountants each other.
        BadInputError: an event in the ledger is malformed.
    """
    entries = {entry.id: entry for entry in evidence.ledger.entries}
    budgets = [budget_view(status, evidence.ledger) for status in evidence.ledger.budgets]
    runs = [run_view(summary, entries) for summary in evidence.runs]
    spans = [_span(registration) for registration in evidence.ledger.registrations]
    unreadable = [
        Quote(quote=folder, source=Source(place="workspace", field="unreadable run")) for folder in evidence.unreadable
    ]
    unrecorded = [_unrecorded(run) for run in evidence.unrecorded]
    read = {summary.run_id for summary in evidence.runs} | {run.run_id for run in evidence.unrecorded}
    unprotected = [_unprotected(run) for run in evidence.ledger.unprotected if run.run_id not in read]
    return DatasetReport(
        dataset=Quote(
            quote=evidence.dataset, source=Source(place="registration", name=evidence.dataset, field="dataset")
        ),
        generated=Quote(quote=evidence.generated, source=Source(place="report", field="generated")),
        facts=evidence.facts,
        first_page=first_page(
            budgets=budgets,
            runs=runs,
            unreadable=unreadable,
            unrecorded=unrecorded,
            unprotected=unprotected,
            key_lost=bool(evidence.ledger.keys_lost),
        ),
        spans=spans,
        budgets=budgets,
        changes=[_change(change) for change in evidence.ledger.changes],
        runs=runs,
        unreadable_runs=unreadable,
        unrecorded_runs=unrecorded,
        unprotected_runs=unprotected,
        checklist=checklist(
            facts=evidence.facts,
            spans=spans,
            budgets=budgets,
            runs=runs,
            unreadable=unreadable,
            unrecorded=unrecorded,
            unprotected=unprotected,
            key_lost=bool(evidence.ledger.keys_lost),
        ),
    )


def _unprotected(run: UnprotectedRun) -> UnprotectedView:
    def quote(field: str, words: str) -> Quote:
        return Quote(quote=words, source=Source(place="journal record", name=str(run.seq), field=field))

    return UnprotectedView(
        run=quote("run_id", run.run_id),
        backend=quote("backend", run.backend),
        who=quote("principal", run.principal),
        at=day(run.at, Source(place="journal record", name=str(run.seq), field="at")),
    )


def _change(change: LedgerChange) -> ChangeView:
    def source(field: str) -> Source:
        return Source(place="journal record", name=str(change.seq), field=field)

    def quote(field: str, words: str | None) -> Quote | None:
        return None if words is None else Quote(quote=words, source=source(field))

    cap = None
    if change.epsilon is not None and change.delta is not None:
        cap = Loss(
            epsilon=Figure(value=change.epsilon, kind="cap", source=source("epsilon")),
            delta=Figure(value=change.delta, kind="delta", source=source("delta")),
            basis="cap",
        )
    return ChangeView(
        number=Figure(value=change.seq, kind="count", source=source("seq")),
        at=day(change.at, source("at")),
        who=quote("principal", change.principal),
        budget=quote("budget", change.budget),
        what=change.what,
        cap=cap,
        key=quote("public_key", change.key),
    )


def _unrecorded(run: UnrecordedRun) -> UnrecordedView:
    def quote(field: str, text: str) -> Quote:
        return Quote(quote=text, source=Source(place="workspace", name=run.run_id, field=f"unrecorded {field}"))

    nodes = quote("nodes", ", ".join(run.nodes))
    return UnrecordedView(run=quote("run", run.run_id), status=quote("status", run.status), nodes=nodes)


def _span(registration: Registration) -> SpanView:
    def source(field: str) -> Source:
        return Source(place="registration", name=registration.name, field=field)

    def count(value: int, field: str) -> Figure:
        return Figure(value=value, kind="count", source=source(field))

    return SpanView(
        span=Quote(quote="none" if registration.span is None else str(registration.span), source=source("span")),
        digest=Quote(quote=registration.digest, source=source("digest").model_copy(update={"method": COVERED})),
        registered=day(registration.registered, source("registered")),
        contribution_bound=count(registration.contribution_bound, "contribution_bound"),
        splits={
            name: (count(split.rows, f"splits.{name}.rows"), count(split.units, f"splits.{name}.units"))
            for name, split in (registration.public_splits or {}).items()
        },
        declared=_declared(registration),
    )


def _declared(registration: Registration) -> list[DeclarationView]:
    def quote(field: str, words: str) -> Quote:
        return Quote(quote=words, source=Source(place="registration", name=registration.name, field=field))

    found = []
    if registration.id_space:
        reason = quote("reasons.id_space", registration.reasons["id_space"])
        space = quote("id_space", registration.id_space)
        found.append(DeclarationView(what="id_space", id_space=space, reason=reason))
    if "distinct_rows" in registration.reasons:
        reason = quote("reasons.distinct_rows", registration.reasons["distinct_rows"])
        found.append(DeclarationView(what="distinct_rows", id_space=None, reason=reason))
    return found
