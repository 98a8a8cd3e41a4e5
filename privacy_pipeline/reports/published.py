"""The fields of a run's summary and of the ledger's entries that may be published: an allow-list.

A field that is in neither list is not published, and a test fails for it. A published field is public (it follows from
config, registration and plan, which are made before a row is read), is charged to a budget, or is a verdict that the
record lists as not covered. Numbers of rows and units are in plans and records only under zero-out, where they are
public.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from privacy_pipeline.accounting import record as parts
from privacy_pipeline.ledger.audit.cap_history import LedgerChange
from privacy_pipeline.ledger.charging.unprotected import UnprotectedRun
from privacy_pipeline.releases import evaluation as noisy
from privacy_pipeline.reports.record.summary import METRICS, RunSummary, SliceMetrics

if TYPE_CHECKING:
    from privacy_pipeline.reports.dataset.evidence import LedgerState

VERSION = 1
Cover = Callable[[str], str]
_DAY_DIGITS = len("2030-01-31")
_EXACT = "exact, computed from the eval split without noise"
_TIME = "a time reveals how much data was read"

PUBLISHED: Mapping[type[BaseModel], frozenset[str]] = {
    RunSummary: frozenset({"run_id", "pipeline", "backend", "training_run", "blessed", "record", "dp_evaluation"}),
    parts.PrivacyRecord: frozenset(
        {
            "record_version",
            "run_id",
            "pipeline",
            "created",
            "backend",
            "dataset",
            "span",
            "training_guarantee",
            "inference_protection",
            "unit",
            "unit_in_words",
            "contribution_bound",
            "relation",
            "mechanism",
            "rows",
            "preprocessing",
            "tuning",
            "guarantee",
            "assumptions",
            "data_accesses",
            "composition",
            "further_compositions",
            "randomness",
            "versions",
            "audits",
        }
    ),
    parts.Assumption: frozenset({"name", "held", "detail"}),
    parts.DataAccess: frozenset({"what", "covered", "detail"}),
    parts.Guarantee: frozenset(
        {
            "epsilon",
            "delta",
            "accountant",
            "accountant_version",
            "epsilon_pld",
            "epsilon_rdp",
            "epsilon_missing",
            "curve",
            "epsilon_if_poisson_sampled",
        }
    ),
    parts.Mechanism: frozenset(
        {
            "name",
            "sampler",
            "clipping_norm",
            "noise_multiplier",
            "batch_size",
            "epochs",
            "steps",
            "units",
            "dp_event",
            "engine",
            "plan",
        }
    ),
    parts.Preprocessing: frozenset(
        {"what", "epsilon", "delta", "dp_event", "budget", "ledger_entry", "journal_seq", "journal_hash", "key_id"}
    ),
    parts.Tuning: frozenset(
        {
            "method",
            "trials",
            "distribution",
            "space",
            "metric",
            "chosen",
            "trained",
            "epsilon_one_trial",
            "accountant_one_trial",
        }
    ),
    parts.Randomness: frozenset({"generator", "cryptographic", "seed_fixed"}),
    parts.Rows: frozenset({"verdict", "one_by_one", "vectorised_whole_model"}),
    parts.Versions: frozenset({"code", "lock", "data", "packages"}),
    parts.Composition: frozenset(
        {
            "ledger_entry",
            "budget",
            "entries_before",
            "epsilon_before",
            "epsilon_after",
            "epsilon_cap",
            "delta",
            "accountant",
            "journal_seq",
            "journal_hash",
            "key_id",
        }
    ),
    noisy.DpEvaluation: frozenset(
        {
            "version",
            "unit",
            "contribution_bound",
            "relation",
            "units",
            "epsilon",
            "delta",
            "accountant",
            "decision_threshold",
            "confidence",
            "noise",
            "slices",
            "event",
            "budget",
            "ledger_entry",
            "composition",
        }
    ),
    noisy.DpSlice: frozenset({"name", "counts", "examples", "metrics"}),
    noisy.Estimate: frozenset({"value", "low", "high"}),
}
HELD_BACK: Mapping[type[BaseModel], Mapping[str, str]] = {
    RunSummary: {
        "evaluation_reasons": _EXACT,
        "reasons": "may quote exact metrics of the eval split",
        "budget_reasons": "the report states how much was left",
        "slices": "exact unless there is a dp_evaluation, which has the noisy ones",
        "model_uri": "a folder of the host",
        "tensorboard": "a folder of the host",
        "encrypted": "exact, computed from the eval split, and with times",
    },
    parts.Tuning: {"results": _EXACT},
    parts.PrivacyRecord: {"inference_error": "computed from the model's weights"},
}
AUDIT = frozenset(
    {"kind", "lower_bound", "confidence", "upper_bound", "delta", "canaries", "guesses", "correct", "statement"}
)
AUDIT_HELD_BACK = {"seconds": "a time, although of made-up data"}
ENTRY = frozenset(
    {
        "export_version",
        "entry",
        "budget",
        "dataset",
        "span",
        "split",
        "unit",
        "relation",
        "purpose",
        "state",
        "run_id",
        "node",
        "attempt",
        "epsilon_alone",
        "epsilon_composed",
        "delta",
        "accountant",
        "overrun",
        "data_digest",
        "plan",
        "event",
        "executed_event",
        "reserved_at",
        "reserve_seq",
        "reserve_hash",
        "commit_seq",
        "commit_hash",
    }
)
_WHO = "only readers of the ledger may learn who works with the data"
REPORT_HELD_BACK = {
    "changes.who": _WHO,
    "unprotected_runs.who": _WHO,
    "runs.run": "the day alone, where it has the time of day, as in version 0.1.0",
}
ENTRY_HELD_BACK = {
    "principal": _WHO,
    "started_at": _TIME,
    "committed_at": _TIME,
    "expired_at": _TIME,
}
SOMEBODY = "somebody"
_TIMED_RUN = re.compile(r"\b(\d{8})-\d{6}-([0-9a-f]{4})\b")
_Named = TypeVar("_Named", LedgerChange, UnprotectedRun)
_DAYS = frozenset({"created", "reserved_at"})  # published as days


def public_summary(summary: RunSummary, *, cover: Cover) -> dict[str, Any]:
    """Return the published part of a run: its record, the gate's verdict and the noisy evaluation, as JSON values.

    Its record can be read as a `PrivacyRecord`, and `budget verify --receipt` finds the receipts in it.

    Args:
        summary: the run's summary.
        cover: covers a digest that an older record holds plain.
    """
    return {"published_version": VERSION, **_public(summary, cover)}


def public_entry(row: Mapping[str, Any], *, cover: Cover) -> dict[str, Any]:
    """Return the published part of a ledger entry, given as `export.exported` returns it."""
    told = {name: value for name, value in row.items() if name in ENTRY}
    return {**told, "reserved_at": _day(told["reserved_at"]), "data_digest": cover(told["data_digest"])}


def without_exact_metrics(summary: RunSummary) -> RunSummary:
    """Return a run for a published report: metrics are noisy, or left out."""
    if summary.dp_evaluation is not None:
        return summary
    none = SliceMetrics(name="overall", examples=None, metrics=dict.fromkeys(METRICS))
    return summary.model_copy(update={"slices": [none]})


def without_names(ledger: LedgerState) -> LedgerState:
    """Return the ledger's part of a published report, without the names of people who asked."""

    def nameless(found: Sequence[_Named]) -> list[_Named]:
        return [replace(one, principal=None if one.principal is None else SOMEBODY) for one in found]

    return replace(ledger, changes=nameless(ledger.changes), unprotected=nameless(ledger.unprotected))


def without_times(text: str) -> str:
    """Return a text with only the day in ids of runs of version 0.1.0, which held the time of day to the second."""
    return _TIMED_RUN.sub(r"\1-\2", text)


def held_back() -> dict[str, str]:
    """Return each field that is not published, with the reason."""
    found = {f"{kind.__name__}.{name}": why for kind, names in HELD_BACK.items() for name, why in names.items()}
    found |= {f"audit.{name}": why for name, why in AUDIT_HELD_BACK.items()}
    found |= {f"report.{name}": why for name, why in REPORT_HELD_BACK.items()}
    return found | {f"entry.{name}": why for name, why in ENTRY_HELD_BACK.items()}


def _public(part: BaseModel, cover: Cover) -> dict[str, Any]:
    allowed = PUBLISHED[type(part)]  # nothing is published of a kind that is not listed
    told = {name: getattr(part, name) for name in type(part).model_fields if name in allowed}
    found = {name: _value(value, cover) for name, value in told.items()}
    if isinstance(part, parts.Versions):
        found["data"] = cover(part.data)
    if isinstance(part, parts.PrivacyRecord):
        found["audits"] = [_audit(audit) for audit in part.audits if isinstance(audit, dict)]
    return {name: _day(value) if name in _DAYS else value for name, value in found.items()}


def _audit(audit: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in audit.items() if name in AUDIT}


def _value(value: Any, cover: Cover) -> Any:
    if isinstance(value, BaseModel):
        return _public(value, cover)
    if isinstance(value, (list, tuple)):
        return [_value(one, cover) for one in value]
    if isinstance(value, Mapping):
        return {str(name): _value(one, cover) for name, one in value.items()}
    return value


def _day(stamp: str) -> str:
    return stamp[:_DAY_DIGITS]
