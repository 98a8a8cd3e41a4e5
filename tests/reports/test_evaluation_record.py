"""A DP evaluation in a run's summary, record, tables and report: noisy numbers, their intervals, and what they cost."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from rich.console import Console

from privacy_pipeline.accounting.record import Composition
from privacy_pipeline.cli import tables
from privacy_pipeline.ledger.audit.receipts import read_receipts
from privacy_pipeline.releases.evaluation import DpEvaluation
from privacy_pipeline.reports.dataset.run_views import NOISY, run_view
from privacy_pipeline.reports.record.data_accesses import EVALUATION_ACCESS
from privacy_pipeline.reports.record.dp_evaluation import slices_of, with_evaluation
from privacy_pipeline.reports.record.properties import metric_properties
from privacy_pipeline.reports.record.summary import RunSummary
from tests.releases.test_dp_evaluation import evaluation
from tests.reports.records import dp_record, make_summary

CHARGED = Composition(
    ledger_entry=7,
    budget="adult/eval/row",
    entries_before=1,
    epsilon_before=0.5,
    epsilon_after=1.25,
    epsilon_cap=2.0,
    delta=1e-5,
    journal_seq=12,
    journal_hash="ab" * 32,
    key_id="cd" * 8,
)


@functools.cache
def found() -> DpEvaluation:
    return evaluation().model_copy(update={"composition": CHARGED})


def summary() -> RunSummary:
    record = with_evaluation(dp_record(), found())
    return make_summary(record, slices=slices_of(found()), dp_evaluation=found())


def test_the_record_says_that_the_evaluation_is_covered_and_who_paid() -> None:
    before, after = dp_record(), with_evaluation(dp_record(), found())
    assert [a.what for a in after.data_accesses] == [a.what for a in before.data_accesses]
    changed = [new for old, new in zip(before.data_accesses, after.data_accesses, strict=True) if old != new]
    (access,) = changed
    assert access.what == EVALUATION_ACCESS and access.covered
    for fact in ("epsilon 1.000 at delta 1e-05 (RDP)", "unit row", "zero_out", "adult/eval/row, ledger entry 7"):
        assert fact in access.detail
    assert after.guarantee == before.guarantee


def test_who_may_be_in_both_splits_is_told_that_the_two_add_up() -> None:
    keyed = found().model_copy(update={"unit": "person", "contribution_bound": 4})
    (access,) = (a for a in with_evaluation(dp_record(), keyed).data_accesses if a.what == EVALUATION_ACCESS)
    assert "at most 4 row(s) a unit" in access.detail and "which add up" in access.detail


def test_every_number_comes_with_its_interval() -> None:
    overall = slices_of(found())[0]
    estimate = found().overall.metrics["accuracy"]
    assert overall.name == "overall" and overall.metrics["auc"] is None
    assert overall.metrics["accuracy"] == estimate.value
    assert overall.intervals["accuracy"] == (estimate.low, estimate.high)
    told = summary()
    assert RunSummary.model_validate_json(told.model_dump_json()) == told
    console = Console(width=250, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.run_table(told))
    console.print(tables.diff_table(make_summary(dp_record()), told))
    text = " ".join(console.export_text().split())
    assert f"({estimate.low:.3f} to {estimate.high:.3f})" in text
    assert "epsilon 1.000 at delta 1e-05 (RDP) for the eval split, 1.250 of 2.000 spent at delta 1e-05 (RDP)" in text
    assert "exact" in text  # the other side


def test_metadata_gets_the_noisy_numbers() -> None:
    properties = metric_properties(summary())
    assert properties["accuracy"] == found().overall.metrics["accuracy"].value
    assert "auc" not in properties and isinstance(properties["examples"], int)


def test_the_report_notes_noisy_metrics() -> None:
    assert NOISY in run_view(summary(), {}).marks
    assert NOISY not in run_view(make_summary(dp_record()), {}).marks


def test_the_evaluations_receipt_is_one_too(tmp_path: Path) -> None:
    told = summary()
    assert told.record.composition is not None and told.record.composition.journal_seq is None
    (tmp_path / "summary.json").write_text(told.model_dump_json())
    (tmp_path / "dp_evaluation.json").write_text(found().model_dump_json())
    (tmp_path / "other").mkdir()
    exact = json.loads(told.model_dump_json()) | {"dp_evaluation": None}
    (tmp_path / "other" / "summary.json").write_text(json.dumps(exact))
    for path in (tmp_path, tmp_path / "summary.json", tmp_path / "dp_evaluation.json"):
        (receipt,) = read_receipts([path])
        assert (receipt.seq, receipt.hash) == (12, "ab" * 32)
