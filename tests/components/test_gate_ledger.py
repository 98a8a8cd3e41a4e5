"""PrivacyGate against the ledger: it blesses no model whose charge the ledger does not bear out."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.accounting.record import Preprocessing, PrivacyRecord
from privacy_pipeline.components.privacy_gate.decision import decide
from privacy_pipeline.components.privacy_gate.ledger_check import ledger_reasons
from privacy_pipeline.config.models.evaluation import PolicySection
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.reports.record.summary import RunSummary
from tests.reports.records import plain_record
from tests.reports.report_project import make_project, request, small_plan, summaries, train


@pytest.fixture
def url(tmp_path: Path) -> str:
    return make_project(tmp_path)


def record_of(url: str, run: str = "run-1") -> PrivacyRecord:
    folder = Path(url.removeprefix("sqlite:///")).parents[1]
    (summary,) = summaries(folder, [run])
    return summary.record


def with_composition(record: PrivacyRecord, **changed: Any) -> PrivacyRecord:
    assert record.composition is not None
    return record.model_copy(update={"composition": record.composition.model_copy(update=changed)})


def execute(url: str, statement: str) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute(statement)
    connection.close()


def test_a_charge_as_it_was_made_is_no_reason(url: str) -> None:
    for run in ("run-1", "run-2", "run-3", "run-4"):  # run-4 had a fixed seed: charged, without a guarantee
        assert ledger_reasons(record_of(url, run), None, url=url) == []


def test_a_plain_run_needs_no_ledger(tmp_path: Path) -> None:
    assert ledger_reasons(plain_record(), None, url=f"sqlite:///{tmp_path}/none.db") == []


def test_a_ledger_that_cannot_be_reached_refuses_a_private_run_in_one_line(url: str, tmp_path: Path) -> None:
    (reason,) = ledger_reasons(record_of(url), None, url=f"sqlite:///{tmp_path}/none.db")
    assert reason.startswith("the ledger cannot be compared with the record") and "\n" not in reason


def test_a_private_record_without_an_entry_is_refused(url: str) -> None:
    record = record_of(url).model_copy(update={"composition": None})
    (reason,) = ledger_reasons(record, None, url=url)
    assert "names no ledger entry" in reason


@pytest.mark.slow_but("<lambda>-has another receipt1")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda record: with_composition(record, ledger_entry=77), "is not in the ledger"),
        (lambda record: with_composition(record, ledger_entry=2), "is one of another run, event"),
        (lambda record: with_composition(record, budget="things/eval/row"), "is one of another run, event"),
        (lambda record: record.model_copy(update={"run_id": "run-2"}), "is one of another run, event"),
        (lambda record: with_composition(record, journal_hash="0" * 64), "has another receipt"),
        (lambda record: with_composition(record, journal_seq=3), "has another receipt"),
        (lambda record: with_composition(record, key_id="f" * 16), "has another receipt"),
        (lambda record: with_composition(record, journal_seq=None, journal_hash=None), "has no receipt"),
    ],
)
def test_what_the_record_names_has_to_be_what_the_ledger_holds(
    url: str, change: Callable[[PrivacyRecord], PrivacyRecord], says: str
) -> None:
    assert any(says in reason for reason in ledger_reasons(change(record_of(url)), None, url=url))


def test_another_event_in_the_record_is_refused(url: str) -> None:
    record, other = record_of(url), record_of(url, "run-2")
    assert record.mechanism is not None and other.mechanism is not None
    forged = record.model_copy(update={"mechanism": other.mechanism})
    assert any("another run, event" in reason for reason in ledger_reasons(forged, None, url=url))


def test_an_entry_that_was_never_committed_is_refused(url: str) -> None:
    execute(url, "UPDATE entries SET state = 'started' WHERE id = 1")
    (reason,) = ledger_reasons(record_of(url), None, url=url)
    assert "is started, not committed" in reason


@pytest.mark.slow
def test_a_ledger_that_was_replaced_is_refused(url: str) -> None:
    record = record_of(url)
    fresh = Path(url.removeprefix("sqlite:///")).parents[1] / "other"
    other = make_project(fresh)
    assert any("another receipt" in reason for reason in ledger_reasons(record, None, url=other))


def test_a_passed_and_a_lowered_cap_are_refused(url: str) -> None:
    ledger = Ledger.open(url)
    ledger.set_cap("things", epsilon=0.5, delta=1e-5)
    (reason,) = ledger_reasons(record_of(url), None, url=url)
    assert "above its cap of 0.5" in reason
    ledger.set_cap("things", epsilon=9.0, delta=1e-5)
    assert ledger_reasons(record_of(url), None, url=url) == []


def test_an_overrun_is_refused(url: str) -> None:
    ledger, less = Ledger.open(url), small_plan(5.0)
    summary = train(ledger, "run-7", small_plan(6.0), accuracy=0.7)
    with ledger.spend(**request("run-8", small_plan(6.0))) as grant:
        grant.start()
        grant.commit(less.event)
    assert summary.record.mechanism is not None
    mechanism = summary.record.mechanism.model_copy(update={"dp_event": ledger.entries("things")[-1].executed_event})
    update = {"run_id": "run-8", "mechanism": mechanism, "composition": ledger.composition(grant.entry_id)}
    reasons = ledger_reasons(summary.record.model_copy(update=update), None, url=url)
    assert len(reasons) == 1 and "is an overrun" in reasons[0]
    assert ledger_reasons(summary.record, None, url=url) == []  # the budget itself is not passed


def test_the_charge_of_dp_statistics_is_looked_up_too(url: str) -> None:
    record, earlier = record_of(url, "run-3"), record_of(url, "run-1")
    made, mechanism = earlier.composition, earlier.mechanism
    assert made is not None and mechanism is not None
    stamp = {name: getattr(made, name) for name in ("budget", "ledger_entry", "journal_seq", "journal_hash", "key_id")}
    paid = Preprocessing(what="ranges", epsilon=0.1, delta=1e-5, dp_event=mechanism.dp_event, **stamp)
    assert ledger_reasons(record.model_copy(update={"preprocessing": paid}), None, url=url) == []
    cut = paid.model_copy(update={"journal_hash": "0" * 64})
    (reason,) = ledger_reasons(record.model_copy(update={"preprocessing": cut}), None, url=url)
    assert "of the DP statistics has another receipt" in reason


def test_reasons_of_policy_and_ledger_are_told_apart_from_quality(url: str) -> None:
    record = record_of(url)
    given = {"record": record, "expected_class": record.privacy_class}
    weak = decide(evaluation_reasons=["auc"], policy=PolicySection(), ledger_reasons=(), **given)
    assert not weak.blessed and weak.budget == ()
    costly = decide(evaluation_reasons=[], policy=PolicySection(max_epsilon=0.01), ledger_reasons=["cut"], **given)
    assert not costly.blessed and len(costly.budget) == 2 and costly.reasons == costly.budget


def test_a_summary_of_an_older_version_has_no_such_reasons() -> None:
    assert RunSummary.model_fields["budget_reasons"].default == []
