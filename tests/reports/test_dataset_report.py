"""What the dataset report states, marks, and refuses to state."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from dp_accounting import UnsupportedDpEvent
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from privacy_pipeline.accounting.events import gaussian_passes, to_json
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.encrypted.model.threat_model import simulated
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.audit import profile as profiles
from privacy_pipeline.ledger.audit.cap_history import ledger_changes
from privacy_pipeline.ledger.charging.charges import content_digest
from privacy_pipeline.ledger.copies.moving import move
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.ledger.state.registration import Division
from privacy_pipeline.ledger.storage.journal import POLICY
from privacy_pipeline.ledger.storage.schema import LedgerError
from privacy_pipeline.ledger.write_transactions import writing
from privacy_pipeline.pipelines.reporting.reporting import evidence as gathered
from privacy_pipeline.reports.dataset.compose import dataset_report
from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.dataset.evidence import Evidence, read_ledger
from privacy_pipeline.reports.dataset.facts import ReportFacts, load_facts
from privacy_pipeline.reports.dataset.run_views import CONTRADICTED, FIXED_SEED, NO_GUARANTEE, NO_RECEIPT, run_view
from privacy_pipeline.reports.figures import Figure, Source, plain, ranges
from privacy_pipeline.reports.record.attack import true_positive_rate
from privacy_pipeline.reports.record.summary import RunSummary
from privacy_pipeline.reports.render.html import to_html
from tests.components.test_gate_decision import encrypted_evaluation
from tests.reports.conftest import GENERATED
from tests.reports.records import make_plan
from tests.reports.report_project import AUDIT, make_project, registration, request, small_plan, summaries, train


def lines(report: DatasetReport, number: int) -> list[str]:
    return [plain(statement.words) for statement in report.checklist[number - 1].statements]


def first_page(report: DatasetReport) -> str:
    return "\n".join(plain(s.words) for passage in report.first_page for s in passage.statements)


def again(evidence: Evidence, runs: list[RunSummary]) -> DatasetReport:
    return dataset_report(dataclasses.replace(evidence, runs=runs))


def test_all_runs_together(report: DatasetReport, project: Path) -> None:
    (budget,) = report.budgets
    (status,) = Ledger.open(f"sqlite:///{project}/ledger/ledger.db").status("things")
    assert budget.spent.epsilon and budget.pld.epsilon and budget.simple_addition.epsilon
    assert budget.best_order.epsilon and budget.burn_down[-1].spent.epsilon
    assert budget.spent.epsilon.value == status.enforced_epsilon == budget.burn_down[-1].spent.epsilon.value
    assert budget.left.value == status.remaining_epsilon == status.cap_epsilon - status.enforced_epsilon
    assert budget.best_order.epsilon.value == status.spent_epsilon < status.enforced_epsilon
    assert budget.pld.epsilon.value < status.spent_epsilon < budget.simple_addition.epsilon.value
    assert [point.entry.value for point in budget.burn_down] == [1, 2, 3, 4, 5]  # 6 was given back


def test_the_first_epsilon_is_the_one_that_needs_no_assumption(report: DatasetReport) -> None:
    """Later runs were chosen after earlier results, so nothing below the cap is proven for all of them together."""
    (budget,) = report.budgets
    strength = next(passage for passage in report.first_page if passage.title == "How strongly")
    first = plain(strength.statements[0].words)
    assert "epsilon 5.000 at delta 1e-05 (the cap, whatever was seen before a run was chosen)" in first
    assert "Had all runs been fixed before the first result was seen" in plain(strength.statements[1].words)
    (guess,) = [passage for passage in report.first_page if passage.title == "What a guess could gain"]
    order = [plain(s.words) for s in guess.statements[1:]]
    assert "whatever was seen" in order[0] and all("fixed beforehand" in line for line in order[-2:])
    assert budget.proven.epsilon and budget.proven.epsilon.value == 5.0


def history(tmp_path: Path, *, runs: int) -> Ledger:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger/ledger.db", create=True)
    ledger.register(registration(), epsilon=5.0, delta=1e-5)
    for number in range(runs):
        train(ledger, f"run-{number}", small_plan(6.0), accuracy=0.7)
    return ledger


def reported(tmp_path: Path) -> DatasetReport:
    ledger = read_ledger(f"sqlite:///{tmp_path}/ledger/ledger.db", "things")
    return dataset_report(Evidence(dataset="things", ledger=ledger, runs=[], generated=GENERATED))


def test_one_entry_was_chosen_before_any_result(tmp_path: Path) -> None:
    ledger = history(tmp_path, runs=1)
    (budget,) = reported(tmp_path).budgets
    assert budget.proven.epsilon and budget.proven.epsilon.value == ledger.status()[0].spent_epsilon < 1
    assert "one entry" in budget.proven.basis


def test_the_headline_is_the_largest_cap_at_the_one_delta(tmp_path: Path) -> None:
    ledger = history(tmp_path, runs=2)
    ledger.set_cap("things", epsilon=8.0, delta=1e-5)
    ledger.set_cap("things", epsilon=4.0, delta=1e-5)
    report = reported(tmp_path)
    (budget,) = report.budgets
    assert budget.proven.epsilon and budget.proven.epsilon.value == 8.0  # what was granted, was granted under it
    assert budget.proven.delta.value == 1e-5
    assert "The cap or the policy was changed 2 time(s). That costs no delta" in first_page(report)
    worst = next(a for a in budget.attack if a.when == "cap" and a.false_positive_rate.value == 0.01)
    assert worst.true_positive_rate.value == true_positive_rate([(8.0, 1e-5)], false_positive_rate=0.01)
    assert [change.what for change in report.changes][2:] == ["the cap or the policy was changed"] * 2
    assert budget.cap_changes.value == 2 and budget.delta_factor.value == 1


def test_the_first_policy_of_an_unused_budget_adds_nothing(tmp_path: Path) -> None:
    ledger = history(tmp_path, runs=0)
    ledger.apply_policy(Policy(dataset="things", epsilon=5.0, delta=1e-5, unit="row"))
    for number in range(2):
        train(ledger, f"run-{number}", small_plan(6.0), accuracy=0.7)
    (budget,) = reported(tmp_path).budgets
    assert budget.proven.delta.value == 1e-5 and budget.cap_changes.value == 0


def test_a_person_with_several_rows_is_protected_less(report: DatasetReport, tmp_path: Path) -> None:
    (budget,) = report.budgets
    two, five, ten = budget.groups
    assert [reading.size.value for reading in budget.groups] == [2, 5, 10]
    assert two.proven.epsilon and two.fixed.epsilon and budget.best_order.epsilon
    assert (two.proven.epsilon.value, two.proven.delta.value) == pytest.approx((10.0, 1e-5 * (1 + math.exp(5))))
    assert two.fixed.epsilon.value > 2 * budget.best_order.epsilon.value and two.fixed.delta.value == 1e-5
    assert five.proven.missing == ten.proven.missing == "no bound for a group of that size"
    assert "a person with" in to_html(report)
    history(tmp_path, runs=0)
    assert reported(tmp_path).budgets[0].groups == []


def test_an_overrun_beyond_the_cap_leaves_nothing_proven(tmp_path: Path) -> None:
    ledger = history(tmp_path, runs=1)
    with ledger.spend(**request("overrun", small_plan(6.0))) as grant:
        grant.start()
        grant.commit(small_plan(0.6).event)
    report = reported(tmp_path)
    (budget,) = report.budgets
    assert budget.proven.epsilon is None and "executed more than" in budget.proven.missing
    assert budget.left.value == 0.0 and budget.best_order.epsilon and budget.best_order.epsilon.value > 5
    assert "executed more than they had planned" in first_page(report)
    assert [a.true_positive_rate.value for a in budget.attack if a.when == "cap"] == [1.0, 1.0]


def test_changes_of_cap_policy_and_key_are_told_with_who_asked(tmp_path: Path) -> None:
    ledger = history(tmp_path, runs=0)
    ledger.apply_policy(Policy(dataset="things", epsilon=6.0, delta=1e-5, unit="row", eval_epsilon=1.0))
    old, new = ledger.rotate_key()
    changes = reported(tmp_path).changes
    said = [(change.what.split(",")[0], change.budget and change.budget.quote) for change in changes]
    assert said == [
        ("the ledger began with this key", None),
        ("registered", "things/train/row"),
        ("the cap or the policy was changed", "things/train/row"),
        ("the eval split got a budget", "things/eval/row"),
        ("this key took over; the one before signed that", None),
    ]
    assert [change.key.quote for change in changes if change.key] == [old, new]
    caps = [(c.cap.epsilon.value, c.cap.delta.value) for c in changes if c.cap and c.cap.epsilon]
    assert caps == [(5.0, 1e-5), (6.0, 1e-5), (1.0, 1e-5)]


def test_what_was_declared_at_registration_is_an_assumption(several_report: DatasetReport) -> None:
    lines = [plain(s.words) for s in several_report.checklist[12].statements if "declared" in plain(s.words)]
    keys = "its keys number other people than those of other datasets (id space the shop)"
    assert [line.split(" declared")[0] for line in lines] == [
        "NOT checked: the person who registered span " + span for span in ("1", "1", "2", "3")
    ]
    assert all(keys in lines[at] and lines[at].endswith("given: members of a shop") for at in (0, 2, 3))
    assert "its rows that occur in other datasets too are those of other people" in lines[1]
    assert lines[1].endswith("the reason given: coarse columns")


def test_a_move_and_what_an_older_registration_lacked_are_told(tmp_path: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/old.db", create=True)
    ledger.register(registration(), epsilon=5.0, delta=1e-5)
    divided = dataclasses.replace(registration(), division=Division(buckets=None, key=None, patterns={"train": "*"}))
    ledger.register(divided, epsilon=5.0, delta=1e-5)
    move(f"sqlite:///{tmp_path}/old.db", f"sqlite:///{tmp_path}/ledger/ledger.db")
    said = [change.what for change in reported(tmp_path).changes]
    assert said[2:] == [
        "a registration got what it lacked: reasons, or, of an older format, division and units",
        "the ledger was moved to another database; this one grants nothing any more",
        "the ledger was moved here from another database",
    ]


def test_a_principal_in_the_journal_is_shown(evidence: Evidence) -> None:
    first, second, *rest = evidence.ledger.changes
    changes = [dataclasses.replace(first, principal=None), dataclasses.replace(second, principal="alice"), *rest]
    ledger = dataclasses.replace(evidence.ledger, changes=changes)
    page = to_html(dataset_report(dataclasses.replace(evidence, ledger=ledger)))
    assert ">alice<" in page and "not recorded" in page


def test_the_points_are_21_and_none_is_left_out(report: DatasetReport) -> None:
    assert [point.number for point in report.checklist] == list(range(1, 22))
    assert all(point.statements for point in report.checklist)
    status = {point.number: point.status for point in report.checklist}
    assert status[1] == status[19] == "answered" and status[20] == status[21] == "partly"


def test_nothing_is_invented_where_no_facts_are_given(evidence: Evidence) -> None:
    report = dataset_report(dataclasses.replace(evidence, facts=ReportFacts()))
    assert {point.number for point in report.checklist if point.status == "not known"} >= {1, 7, 16, 19}
    assert lines(report, 1) == [f"{what}: not known" for what in (
        "product", "curators", "intended use", "type of product", "region or law", "publication date"
    )]  # fmt: skip


def test_runs_without_a_guarantee_are_marked(report: DatasetReport) -> None:
    marks = {run.run.quote: run.marks for run in report.runs}
    assert FIXED_SEED in marks["run-4"] and NO_GUARANTEE in marks["run-4"] and marks["run-5"] == [NO_GUARANTEE]
    assert marks["run-1"] == [] and "cached" in marks["run-6"][0]
    assert "2 run(s) on this data trained without any guarantee" in first_page(report)
    assert any("run run-4: its seed was fixed" in line for line in lines(report, 14))
    without = [run for run in report.runs if NO_GUARANTEE in run.marks]
    assert all(run.guarantee is None and run.guarantee_rdp is None for run in without)


def test_what_is_not_covered_says_who_can_see_it(report: DatasetReport) -> None:
    assert "statistics and anomalies: exact, on both splits; anyone who can read the workspace sees them" in first_page(
        report
    )


def test_charged_runs_without_a_record_and_unreadable_folders_are_told(report: DatasetReport) -> None:
    assert "1 run(s) were charged but left no record" in first_page(report)
    assert "1 run folder(s) could not be read" in first_page(report)


def test_the_audit_stands_beside_the_upper_bound(evidence: Evidence, report: DatasetReport) -> None:
    (audit,) = report.runs[1].audits
    assert not audit.contradiction and audit.lower.epsilon and audit.lower.epsilon.text == "0.210"
    refuted = evidence.runs[1].record.model_copy(update={"audits": [AUDIT | {"lower_bound": 0.7}, {"kind": "odd"}]})
    found = again(evidence, [evidence.runs[1].model_copy(update={"record": refuted})])
    assert CONTRADICTED in found.runs[0].marks and found.runs[0].unreadable_audits.value == 1
    assert any("CONTRADICTS" in line for line in lines(found, 18))


def test_encryption_gets_a_threat_model_and_no_epsilon(evidence: Evidence) -> None:
    plain_run = evidence.runs[4]
    encrypted = plain_run.record.model_copy(update={"inference_protection": "encrypted"})
    report = again(evidence, [plain_run.model_copy(update={"record": encrypted})])
    told = [line for line in lines(report, 7) if "encrypted" in line]
    assert len(told) == 2 and told[1] == "threat model of encrypted inference: not known"
    assert not any("epsilon" in line for line in told) and report.runs[0].guarantee is None
    assert "protects nobody whose data the model was trained on" in first_page(report)


def test_the_threat_model_of_a_run_is_told_as_its_evaluation_states_it(evidence: Evidence) -> None:
    plain_run = evidence.runs[4]
    record = plain_run.record.model_copy(update={"inference_protection": "simulated"})
    evaluated = plain_run.model_copy(update={"record": record, "encrypted": encrypted_evaluation()})
    report = again(evidence, [evaluated])
    told = [line for line in lines(report, 7) if "encrypted inference" in line]
    assert len(told) == 2 and "not known" not in "".join(told)
    stated = simulated()
    assert all(words in told[1] for words in (stated.protection, stated.driver, stated.adversary, stated.threshold))
    assert not any("epsilon" in line for line in told) and report.runs[0].guarantee is None


def test_a_record_whose_entry_the_ledger_lost_is_marked(evidence: Evidence) -> None:
    ledger = dataclasses.replace(evidence.ledger, entries=evidence.ledger.entries[:2] + evidence.ledger.entries[3:])
    ledger = dataclasses.replace(ledger, charges={n: c for n, c in evidence.ledger.charges.items() if n != 3})
    report = dataset_report(dataclasses.replace(evidence, ledger=ledger))
    assert NO_RECEIPT in next(run for run in report.runs if run.run.quote == "run-3").marks
    assert any("run run-3: the ledger entry" in line for line in lines(report, 21))


def test_an_entry_of_another_event_is_no_receipt(evidence: Evidence) -> None:
    first, second, *_ = evidence.ledger.entries
    other_event = dataclasses.replace(first, executed_event=second.executed_event)
    assert run_view(evidence.runs[0], {1: first}).receipt == "agrees"
    assert run_view(evidence.runs[0], {1: other_event}).receipt == "differs"
    assert run_view(evidence.runs[0], {1: dataclasses.replace(first, run_id="run-0")}).receipt == "differs"


def test_no_report_is_made_of_a_ledger_that_was_tampered_with(tmp_path: Path) -> None:
    url = make_project(tmp_path)
    with sqlite3.connect(tmp_path / "ledger" / "ledger.db") as connection:
        connection.row_factory = sqlite3.Row
        query = "SELECT charges.* FROM charges JOIN entries ON digest = executed WHERE id = ?"
        (cheap,), (dear,) = (connection.execute(query, (number,)).fetchall() for number in (1, 3))
        forged = dict(dear) | {"rdp": cheap["rdp"]}
        forged["digest"] = content_digest(forged)
        marks = ", ".join(f":{name}" for name in forged)
        connection.execute(f"INSERT INTO charges ({', '.join(forged)}) VALUES ({marks})", forged)
        connection.execute("UPDATE entries SET executed = ? WHERE id = 3", (forged["digest"],))
    connection.close()
    with pytest.raises(LedgerError, match="does not verify"):
        read_ledger(url, "things")


def test_no_report_is_made_of_charges_that_say_less_than_the_events(evidence: Evidence) -> None:
    charges = dict(evidence.ledger.charges)
    charges[3] = charges[1]
    ledger = dataclasses.replace(evidence.ledger, charges=charges)
    with pytest.raises(AccountingError, match="stored charges give"):
        dataset_report(dataclasses.replace(evidence, ledger=ledger))


def test_a_lost_key_is_refused_until_somebody_accepts_it_and_then_told_on_the_first_page(tmp_path: Path) -> None:
    url = make_project(tmp_path)
    silent = dataset_report(Evidence(dataset="things", ledger=read_ledger(url, "things"), runs=[], generated=GENERATED))
    (tmp_path / "ledger" / "ledger_key.pem").unlink()
    _, new = Ledger.open(url).rotate_key(lost=True)
    with pytest.raises(LedgerError, match=f"--accept-lost-key {new}"):
        read_ledger(url, "things")
    with pytest.raises(LedgerError, match=f"--accept-lost-key {new}"):
        read_ledger(url, "things", accepted=["f" * 16])
    ledger = read_ledger(url, "things", accepted=[new])
    told = dataset_report(Evidence(dataset="things", ledger=ledger, runs=[], generated=GENERATED))
    assert "was declared lost" in first_page(told) and "was declared lost" not in first_page(silent)
    assert any("declared lost" in line for line in lines(told, 21))


def test_an_accepted_key_that_was_never_lost_is_not_told_as_lost(tmp_path: Path) -> None:
    url = make_project(tmp_path)
    (key,) = Ledger.open(url).verify().keys
    assert read_ledger(url, "things", accepted=[key]).keys_lost == []


def test_a_ledger_without_what_a_record_has_a_receipt_of_is_refused(tmp_path: Path) -> None:
    make_project(tmp_path)
    shorter = f"sqlite:///{tmp_path}/shorter/ledger.db"
    Ledger.open(shorter, create=True).register(registration(Relation.ZERO_OUT), epsilon=5.0, delta=1e-5)
    with pytest.raises(LedgerError, match="of which there is a receipt, is missing"):
        gathered("things", ledger=shorter, workspaces=[tmp_path / "workspace"])
    found = gathered("things", ledger=f"sqlite:///{tmp_path}/ledger/ledger.db", workspaces=[tmp_path / "workspace"])
    assert len(found.runs) == 6


@pytest.mark.slow
def test_a_secret_number_of_units_is_told_nowhere(tmp_path: Path) -> None:
    url = make_project(tmp_path, relation=Relation.ADD_OR_REMOVE_ONE)
    runs = summaries(tmp_path, ["run-1", "run-2", "run-3"])
    made = Evidence(dataset="things", ledger=read_ledger(url, "things"), runs=runs, generated=GENERATED)
    report = dataset_report(made)
    assert (
        report.spans[0].splits == {}
        and "1,000" not in to_html(report)
        and '"value":1000' not in report.model_dump_json()
    )
    assert any("the number of units is not stated here" in line for line in lines(report, 5))


def test_a_dataset_on_which_nothing_ran(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger/ledger.db"
    Ledger.open(url, create=True).register(registration(Relation.ZERO_OUT), epsilon=5.0, delta=1e-5)
    ledger = read_ledger(url, "things")
    report = dataset_report(Evidence(dataset="things", ledger=ledger, runs=[], generated=GENERATED))
    (budget,) = report.budgets
    assert budget.pld.missing == "nothing was spent" and budget.burn_down == [] and budget.left.value == 5.0
    assert [a.true_positive_rate.value for a in budget.attack if a.when == "now"] == [0.01, 0.1]
    assert "There is no record of a run" in first_page(report) and to_html(report)


def test_an_entry_that_could_not_be_priced_leaves_no_epsilon(tmp_path: Path) -> None:
    url = make_project(tmp_path)
    with Ledger.open(url).spend(**request("endless", make_plan())) as grant:
        grant.start()
        with pytest.raises(AccountingError):
            grant.commit(UnsupportedDpEvent())
    report = dataset_report(Evidence(dataset="things", ledger=read_ledger(url, "things"), runs=[], generated=GENERATED))
    (budget,) = report.budgets
    assert budget.spent.epsilon is None and budget.pld.epsilon is None and budget.left.value == 0
    assert all(a.true_positive_rate.value == 1 for a in budget.attack if a.when == "now")
    assert "no epsilon (no finite bound" in first_page(report) and to_html(report)


def test_truncated_sampling_is_counted_with_its_share_of_delta() -> None:
    cut = {
        "type": "TruncatedSubsampledGaussianDpEvent",
        "dataset_size": 1000,
        "sampling_probability": 0.1,
        "truncated_batch_size": 180,
        "noise_multiplier": 3.0,
    }
    events = [
        {"type": "SelfComposedDpEvent", "event": cut, "count": 20},
        {"type": "GaussianDpEvent", "noise_multiplier": 8.0},
    ]
    found = profiles.profile(events, relation=Relation.ZERO_OUT, delta=1e-5, deltas=(1e-5,))
    assert found.epsilon is not None and found.curve[0][0] == found.epsilon <= found.epsilon_rdp < 2 * found.epsilon


def test_pld_is_left_out_with_a_reason() -> None:
    zcdp = {"type": "ZCDpEvent", "rho": 0.01, "xi": 0.0}
    found = profiles.profile([zcdp, zcdp], relation=Relation.ZERO_OUT, delta=1e-5, deltas=(1e-5,))
    assert found.epsilon is None and "does not support" in found.missing and found.epsilon_rdp > 0


def test_pld_over_all_events_counts_each() -> None:
    one = to_json(gaussian_passes(noise_multiplier=8.0, epochs=1))
    four = to_json(gaussian_passes(noise_multiplier=8.0, epochs=4))
    given_delta = {"relation": Relation.ZERO_OUT, "delta": 1e-5, "deltas": (1e-5,)}
    left, right = (profiles.profile(events, **given_delta).epsilon for events in ([one] * 4, [four]))
    assert left == pytest.approx(right, rel=1e-3)


@given(mu=st.floats(0.05, 3.0), rate=st.floats(0.001, 0.5))
def test_the_attack_bound_holds_and_is_tight_for_gaussians(mu: float, rate: float) -> None:
    """The truth for a Gaussian mechanism is known (Dong, Roth and Su 2022, definition 2.6)."""
    epsilons = np.linspace(0, 15, 1500)
    deltas = norm.cdf(mu / 2 - epsilons / mu) - np.exp(epsilons) * norm.cdf(-mu / 2 - epsilons / mu)
    curve = zip(epsilons.tolist(), deltas.tolist(), strict=True)
    truth, bound = norm.cdf(norm.ppf(rate) + mu), true_positive_rate(curve, false_positive_rate=rate)
    assert truth - 1e-6 <= bound <= truth + 0.01


def test_facts_errors_name_line_and_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "facts.yaml"
    path.write_text("report:\n  product: Model\n  curatrs: [Office]\n")
    with pytest.raises(BadInputError, match=r"facts.yaml:3: unknown key 'curatrs' in `report`") as error:
        load_facts(path)
    assert error.value.fix == "did you mean 'curators'?"
    path.write_text("report:\n  deployment_model: Centrl\n")
    with pytest.raises(BadInputError, match=r"facts.yaml:2: .*must be 'Local', 'Central'"):
        load_facts(path)
    path.write_text("curators: [Office]\n")
    with pytest.raises(BadInputError, match="unknown key 'curators' at the top level"):
        load_facts(path)


def test_a_stranger_is_no_dataset(project: Path) -> None:
    with pytest.raises(BadInputError, match="dataset nothing is not registered"):
        read_ledger(f"sqlite:///{project}/ledger/ledger.db", "nothing")


@pytest.mark.slow
def test_long_histories_are_thinned_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy_pipeline.reports.dataset.budget_view.MOST_ENTRIES", 3)
    url = make_project(tmp_path)
    ledger = Ledger.open(url)
    for number in range(3):
        train(ledger, f"more-{number}", small_plan(6.0), accuracy=0.7)
    report = dataset_report(Evidence(dataset="things", ledger=read_ledger(url, "things"), runs=[], generated=GENERATED))
    (budget,) = report.budgets
    assert [entry.number.value for entry in budget.entries] == [7, 8, 9] and budget.entries_left_out.value == 6
    assert [point.entry.value for point in budget.burn_down] == [1, 5, 9]
    assert "6 older ones are not listed" in to_html(report)


def test_ranges_of_entry_numbers() -> None:
    assert ranges([3, 1, 2, 7, 9, 8]) == "1-3, 7-9" and ranges([4]) == "4" and ranges([]) == ""


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("epsilon", 1.2341, "1.235"),
        ("epsilon left", 3.6269, "3.626"),
        ("epsilon low", 0.2109, "0.210"),
        ("rate", 0.0231, "2.4 %"),
        ("rate", 0.1, "10 %"),
        ("delta", 1e-5, "1e-05"),
        ("delta up", 1.4941e-3, "1.5e-03"),
        ("delta up", 2.01e-7, "2.1e-07"),
        ("delta up", 9.91e-4, "1e-03"),
        ("delta up", 1e-5, "1e-05"),
        ("count", 1000, "1,000"),
    ],
)
def test_what_people_read_is_never_better_than_the_truth(kind: Any, value: float, text: str) -> None:
    assert Figure(value=value, kind=kind, source=Source(place="report")).text == text


def test_who_asked_is_read_from_the_journal_where_the_record_says_it(tmp_path: Path) -> None:
    history(tmp_path, runs=0)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/ledger/ledger.db")
    with writing(engine) as journal:
        body = {"budget": 1, "changes": {"epsilon": 4.0, "delta": 1e-5}, "principal": "bob"}
        journal.append(POLICY, body)
    engine.dispose()
    found = ledger_changes(f"sqlite:///{tmp_path}/ledger/ledger.db", "things")
    assert (found[-1].principal, found[-1].epsilon, found[-1].budget) == ("bob", 4.0, "things/train/row")
