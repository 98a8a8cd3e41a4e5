"""Runs of a report: what each record states, whether the ledger agrees, and what must not be overlooked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import JsonValue

from privacy_pipeline.accounting.record import Guarantee, Mechanism, PrivacyRecord, Rows
from privacy_pipeline.covered_digests import is_covered
from privacy_pipeline.ledger.state.entries import Entry, State
from privacy_pipeline.reports.dataset.dataset_report import (
    AccessView,
    AssumptionView,
    AuditView,
    MechanismView,
    RunView,
)
from privacy_pipeline.reports.figures import Figure, Kind, Loss, Quote, Source, day
from privacy_pipeline.reports.record.summary import RunSummary

Receipt = Literal["agrees", "differs", "missing", "none"]

NO_GUARANTEE = "no training guarantee: nothing here is private, the model may reveal single rows"
FIXED_SEED = "fixed seed: the noise can be computed again, so there is no guarantee"
NOISY = "metrics: from noisy counts, charged to the budget of the eval split"
CACHED = "cached: the model came from an earlier run, no training was charged"
NO_RECEIPT = "the ledger has no such entry: it was cut, or is another ledger"
DIFFERS = "the ledger entry that the record names is of another run, or of another event"
CONTRADICTED = "an audit contradicts the guarantee: do not rely on it"
_NUMBERS: tuple[tuple[str, Kind], ...] = (
    ("noise_multiplier", "number"),
    ("clipping_norm", "number"),
    ("batch_size", "count"),
    ("epochs", "count"),
    ("steps", "count"),
    ("units", "count"),
)


def run_view(summary: RunSummary, entries: Mapping[int, Entry]) -> RunView:
    """Return one run of the report.

    Args:
        summary: the run's summary with its record.
        entries: the dataset's ledger entries by number.
    """
    record = summary.record
    view = _View(summary)
    audits = [audit for raw in enumerate(record.audits) if (audit := _audit(view, *raw)) is not None]
    receipt = _receipt(record, entries)
    cached = summary.training_run != summary.run_id
    plain = not is_covered(record.versions.data)
    return RunView(
        run=Quote(quote=summary.run_id, source=Source(place="summary", name=summary.run_id, field="run_id")),
        trained_by=Quote(
            quote=summary.training_run, source=Source(place="summary", name=summary.run_id, field="training_run")
        ),
        created=view.day("created", record.created),
        backend=view.quote("backend", record.backend),
        guarantee=_guarantee(view, record.guarantee),
        guarantee_rdp=_guarantee_rdp(view, record.guarantee),
        unit=view.quote("unit", record.unit),
        unit_in_words=view.quote("unit_in_words", record.unit_in_words),
        relation=None if record.relation is None else view.quote("relation", record.relation),
        contribution_bound=None
        if record.contribution_bound is None
        else view.figure("contribution_bound", record.contribution_bound, "count"),
        accountant=view.quote("guarantee.accountant_version", record.guarantee.accountant_version)
        if record.guarantee
        else None,
        inference_protection=record.inference_protection,
        threat_model=_threat_model(summary),
        seed_fixed=record.randomness.seed_fixed,
        cached=cached,
        blessed=summary.blessed,
        generator=view.quote("randomness.generator", record.randomness.generator),
        cryptographic=record.randomness.cryptographic,
        metrics=_metrics(summary),
        mechanism=_mechanism(view, record.mechanism, record.rows),
        assumptions=[
            AssumptionView(
                name=view.quote(f"assumptions.{i}.name", a.name),
                held=a.held,
                detail=view.quote(f"assumptions.{i}.detail", a.detail),
            )
            for i, a in enumerate(record.assumptions)
        ],
        accesses=[
            AccessView(
                what=view.quote(f"data_accesses.{i}.what", a.what),
                covered=a.covered,
                detail=view.quote(f"data_accesses.{i}.detail", a.detail),
            )
            for i, a in enumerate(record.data_accesses)
        ],
        audits=audits,
        unreadable_audits=view.figure("audits", len(record.audits) - len(audits), "count", "not readable"),
        entry=None
        if record.composition is None
        else view.figure("composition.ledger_entry", record.composition.ledger_entry, "count"),
        further_entries=[
            view.figure(f"further_compositions.{index}.ledger_entry", further.ledger_entry, "count")
            for index, further in enumerate(record.further_compositions)
        ],
        spans=[view.quote(f"span.{index}", str(span)) for index, span in enumerate(record.span)]
        if isinstance(record.span, tuple)
        else [],
        receipt=receipt,
        versions={
            name: view.quote(f"versions.{name}", getattr(record.versions, name))
            for name in ("code", "lock", "data")
            if name != "data" or not plain
        }
        | {name: view.quote(f"versions.packages.{name}", v) for name, v in record.versions.packages.items()},
        plain_digest=plain,
        marks=_marks(summary, cached=cached, receipt=receipt, audits=audits),
    )


class _View:
    """Makes quotes and figures of the record that a run holds.

    The record of a cached training names the run that trained, but each run has its own record, with its own
    evaluation.
    """

    def __init__(self, summary: RunSummary) -> None:
        self._name = summary.run_id

    def _source(self, field: str, method: str = "") -> Source:
        return Source(place="record", name=self._name, field=field, method=method)

    def quote(self, field: str, words: str) -> Quote:
        return Quote(quote=words, source=self._source(field))

    def day(self, field: str, stamp: str) -> Quote:
        return day(stamp, self._source(field))

    def figure(self, field: str, value: float, kind: Kind, method: str = "") -> Figure:
        return Figure(value=value, kind=kind, source=self._source(field, method))


def _guarantee(view: _View, stated: Guarantee | None) -> Loss | None:
    if stated is None:
        return None
    return Loss(
        epsilon=view.figure("guarantee.epsilon", stated.epsilon, "epsilon"),
        delta=view.figure("guarantee.delta", stated.delta, "delta"),
        basis=stated.accountant.upper(),
    )


def _guarantee_rdp(view: _View, stated: Guarantee | None) -> Loss | None:
    if stated is None or stated.epsilon_rdp is None:
        return None
    return Loss(
        epsilon=view.figure("guarantee.epsilon_rdp", stated.epsilon_rdp, "epsilon"),
        delta=view.figure("guarantee.delta", stated.delta, "delta"),
        basis="RDP",
    )


def _threat_model(summary: RunSummary) -> dict[str, Quote]:
    """Return the assumptions of encrypted inference in this run, as its evaluation states them."""
    if summary.encrypted is None:
        return {}
    stated = summary.encrypted.threat_model.model_dump()
    return {
        aspect: Quote(
            quote=words if isinstance(words, str) else "; ".join(words),
            source=Source(place="summary", name=summary.run_id, field=f"encrypted.threat_model.{aspect}"),
        )
        for aspect, words in stated.items()
    }


def _metrics(summary: RunSummary) -> dict[str, Figure]:
    name = summary.run_id
    return {
        metric: Figure(
            value=value, kind="metric", source=Source(place="summary", name=name, field=f"overall.metrics.{metric}")
        )
        for metric, value in summary.overall.metrics.items()
        if value is not None and math.isfinite(value)
    }


def _mechanism(view: _View, mechanism: Mechanism | None, rows: Rows | None) -> MechanismView | None:
    if mechanism is None:
        return None
    found = {name: (getattr(mechanism, name), kind) for name, kind in _NUMBERS}
    return MechanismView(
        name=view.quote("mechanism.name", mechanism.name),
        sampler=view.quote("mechanism.sampler", mechanism.sampler),
        numbers={
            name: view.figure(f"mechanism.{name}", value, kind)
            for name, (value, kind) in found.items()
            if value is not None
        },
        rows=None if rows is None else view.quote("rows", rows.in_words),
        dp_event=mechanism.dp_event,
    )


def _audit(view: _View, index: int, raw: JsonValue) -> AuditView | None:
    """Return an audit with a lower bound at a confidence and an upper bound at a delta; None for any other audit."""
    if not isinstance(raw, dict):
        return None
    names = ("lower_bound", "upper_bound", "confidence", "delta")
    numbers: dict[str, Any] = {name: raw.get(name) for name in names}
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) or not math.isfinite(n) for n in numbers.values()):
        return None
    at = f"audits.{index}"
    delta = view.figure(f"{at}.delta", numbers["delta"], "delta")
    lower = view.figure(f"{at}.lower_bound", numbers["lower_bound"], "epsilon low")
    upper = view.figure(f"{at}.upper_bound", numbers["upper_bound"], "epsilon")
    return AuditView(
        kind=view.quote(f"{at}.kind", str(raw.get("kind", "not named"))),
        statement=view.quote(f"{at}.statement", said) if isinstance(said := raw.get("statement"), str) else None,
        lower=Loss(epsilon=lower, delta=delta, basis="measured, at least"),
        upper=Loss(epsilon=upper, delta=delta, basis="proven, at most"),
        confidence=view.figure(f"{at}.confidence", numbers["confidence"], "number"),
        contradiction=numbers["lower_bound"] > numbers["upper_bound"],
    )


def _receipt(record: PrivacyRecord, entries: Mapping[int, Entry]) -> Receipt:
    """Return whether the ledger still holds the charges that the record names, at each budget."""
    found = [_agreement(record, entries.get(charged.ledger_entry)) for charged in record.compositions]
    worst: tuple[Receipt, ...] = ("missing", "differs", "agrees")
    return next((receipt for receipt in worst if receipt in found), "none")


def _agreement(record: PrivacyRecord, entry: Entry | None) -> Receipt:
    if entry is None:
        return "missing"
    ran = entry.event if entry.executed_event is None else entry.executed_event
    # A run with a fixed seed is charged too, and its record still names the mechanism that ran.
    same = entry.run_id == record.run_id and record.mechanism is not None and record.mechanism.dp_event == ran
    return "agrees" if same and entry.state in (State.STARTED, State.COMMITTED) else "differs"


def _marks(summary: RunSummary, *, cached: bool, receipt: Receipt, audits: list[AuditView]) -> list[str]:
    record = summary.record
    found = {
        FIXED_SEED: record.randomness.seed_fixed and record.mechanism is not None,
        NO_GUARANTEE: record.training_guarantee == "none",
        NOISY: summary.dp_evaluation is not None,
        CACHED: cached,
        NO_RECEIPT: receipt == "missing",
        DIFFERS: receipt == "differs",
        CONTRADICTED: any(audit.contradiction for audit in audits),
    }
    return [mark for mark, applies in found.items() if applies]
