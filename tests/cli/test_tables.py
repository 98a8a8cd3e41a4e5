"""Tables: what they say of privacy, and that an epsilon is never bare."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.api import record_rows
from privacy_pipeline.api.outcome import Run
from privacy_pipeline.cli import tables
from privacy_pipeline.pipelines.workspace.run_state import RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from privacy_pipeline.reports.record.summary import RunSummary
from tests.reports.records import dp_record, make_summary, plain_record


def rendered(table: Any) -> str:
    console = Console(width=250, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def made_run(state: RunState, summary: RunSummary | None) -> Run:
    return Run(folder=RunFolder(Path("workspace/runs") / state.run_id), state=state, summary=summary)


def make_state(**changes: Any) -> RunState:
    values = {
        "run_id": "run-1",
        "pipeline": "things",
        "config_path": "c.yaml",
        "backend": "dp_sgd",
        "fingerprint": "f",
        "training_fingerprint": "t",
        "started": "2026-01-01T00:00:00+00:00",
        "status": "done",
    }
    return RunState(**(values | changes))


def test_every_row_with_an_epsilon_names_its_delta() -> None:
    for label, text in record_rows.privacy_rows(dp_record()):
        states_epsilon = "epsilon" in f"{label} {text}" or label == "budget of the dataset"
        if states_epsilon and re.search(r"\d\.\d{3}", text):
            assert "delta" in f"{label} {text}", f"a bare epsilon: {label}: {text}"


def test_a_guarantee_comes_with_unit_and_relation() -> None:
    rows = dict(record_rows.privacy_rows(dp_record()))
    assert rows["training guarantee"] == "(epsilon, delta)-DP"
    assert "at delta 1e-05 (PLD)" in rows["epsilon"]
    assert rows["privacy unit"].startswith("one row of things")
    assert rows["neighbouring relation"].startswith("zero_out")
    assert "ledger entry 7" in rows["budget of the dataset"]


def test_what_is_not_claimed_is_said_not_to_be() -> None:
    (row,) = [text for label, text in record_rows.privacy_rows(dp_record()) if "Poisson" in label]
    assert "not claimed" in row


def test_what_is_not_covered_is_listed() -> None:
    rows = dict(record_rows.privacy_rows(dp_record()))
    for what in ("statistics and anomalies", "evaluation metrics", "choice of hyperparameters"):
        assert what in rows["not covered"]


def test_a_plain_record_shows_no_epsilon_and_no_delta() -> None:
    rows = record_rows.privacy_rows(plain_record())
    assert dict(rows)["training guarantee"] == "none"
    assert not any("epsilon" in f"{label} {text}" or "delta" in f"{label} {text}" for label, text in rows)
    assert record_rows.privacy_cell(plain_record()) == "none"


def test_a_seeded_run_shows_no_epsilon_of_its_own() -> None:
    document = dp_record().model_dump(mode="json")
    document |= {"training_guarantee": "none", "guarantee": None, "relation": None, "composition": None}
    document["randomness"]["seed_fixed"] = True
    rows = record_rows.privacy_rows(PrivacyRecord.model_validate(document))
    assert not any(label.startswith("epsilon") for label, _ in rows)


def test_the_cell_of_a_guarantee_holds_both_numbers() -> None:
    assert re.fullmatch(r"\(0\.63\d, 1e-05\)-DP", record_rows.privacy_cell(dp_record()))


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.12345, "0.1235"), (0.0, "0.0000")])
def test_numbers(value: float | None, text: str) -> None:
    assert record_rows.number(value) == text


def test_runs_are_listed_with_guarantee_and_unit() -> None:
    text = rendered(
        tables.runs_table(
            [
                made_run(make_state(), make_summary(dp_record())),
                made_run(
                    make_state(run_id="run-2", backend="plain", cached_from="run-0"), make_summary(plain_record())
                ),
                made_run(make_state(run_id="run-3", status="failed"), None),
            ]
        )
    )
    lines = {match[0]: line for line in text.splitlines() if (match := re.search(r"run-\d", line))}
    assert "-DP" in lines["run-1"] and "row" in lines["run-1"] and "0.8000" in lines["run-1"]
    assert "none" in lines["run-2"] and "done (cached)" in lines["run-2"] and "DP" not in lines["run-2"]
    assert "failed" in lines["run-3"] and "0." not in lines["run-3"]


def test_a_diff_shows_utility_by_slice_and_privacy_side_by_side() -> None:
    left, right = make_summary(plain_record()), make_summary(dp_record(), run_id="run-2")
    text = rendered(tables.diff_table(left, right))
    assert re.search(r"accuracy, overall .*0\.8000.*0\.8000.*\+0\.0000", text)
    assert "accuracy, colour=red" in text
    assert re.search(r"recall, overall .*- .*- .*-", text)
    (epsilon,) = [line for line in text.splitlines() if re.search(r"^\W*epsilon\s{3,}", line)]
    assert re.search(r"-\s+.\s+0\.63\d at delta 1e-05", epsilon)  # nothing on the plain side


def test_epsilons_of_different_units_are_said_not_to_be_comparable() -> None:
    one = make_summary(record=dp_record())
    other = make_summary(record=dp_record().model_copy(update={"unit": "person"}))
    assert "not comparable" in rendered(tables.diff_table(one, other))
    assert "not comparable" not in rendered(tables.diff_table(one, one))
    assert "not comparable" not in rendered(tables.diff_table(make_summary(record=plain_record()), one))


def test_a_slice_that_only_one_run_has_is_no_error() -> None:
    left = make_summary(dp_record())
    right = make_summary(dp_record(), slices=left.slices[:1])
    assert "colour=red" in rendered(tables.diff_table(left, right))
    assert "colour=red" in rendered(tables.diff_table(right, left))


def test_slice_names_are_not_markup() -> None:
    summary = make_summary(dp_record())
    odd = summary.slices[1].model_copy(update={"name": "colour=[red]"})
    assert "colour=[red]" in rendered(tables.run_table(summary.model_copy(update={"slices": [summary.slices[0], odd]})))
