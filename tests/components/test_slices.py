"""A metric that is not defined is absent with its reason: of the split, of a slice, and for a threshold on it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd  # type: ignore[import-untyped]
import pytest
import tensorflow_model_analysis as tfma
from sklearn.metrics import average_precision_score, log_loss

from privacy_pipeline.cli.tables import diff_table, run_table
from privacy_pipeline.components.privacy_gate import executor
from privacy_pipeline.components.slices import read_slices, undefined
from privacy_pipeline.config.models.evaluation import EvaluationSection
from privacy_pipeline.pipelines.graph.eval_config import eval_config
from privacy_pipeline.reports.record.summary import SliceMetrics
from privacy_pipeline.tasks.binary import BINARY
from tests.reports.records import make_summary, plain_record

ROWS = [  # town, label, probability
    *[("both", 1, 0.9), ("both", 0, 0.2), ("both", 1, 0.4), ("both", 0, 0.6)],
    *[("no positive", 0, 0.1), ("no positive", 0, 0.7)],
    *[("all positive", 1, 0.3), ("all positive", 1, 0.8)],
    *[("none predicted", 1, 0.3), ("none predicted", 0, 0.1)],
]


def evaluated(folder: Path, rows: list[tuple[str, int, float]], **thresholds: dict[str, float]) -> list[SliceMetrics]:
    section = EvaluationSection.model_validate(
        {"slices": [["town"]], "thresholds": thresholds or {"accuracy": {"min": 0.1}}}
    )
    config = eval_config(section, task=BINARY)
    (model,) = config.model_specs
    model.signature_name = ""
    model.ClearField("preprocessing_function_names")
    model.prediction_key, model.label_key = "probability", "label"
    frame = pd.DataFrame(rows, columns=["town", "label", "probability"])
    tfma.analyze_raw_data(frame, config, output_path=str(folder))
    return read_slices(str(folder))


@pytest.mark.slow
def test_what_a_slice_does_not_define_is_absent_with_its_reason(tmp_path: Path) -> None:
    slices = {part.name.removeprefix("town="): part for part in evaluated(tmp_path, ROWS)}
    assert slices["both"].undefined == slices["overall"].undefined == {}
    labels, probabilities = [1, 0, 1, 0], [0.9, 0.2, 0.4, 0.6]
    assert slices["both"].metrics == pytest.approx(
        {
            "accuracy": 0.5,
            "auc": 0.75,
            "pr_auc": average_precision_score(labels, probabilities),
            "precision": 0.5,
            "recall": 0.5,
            "log_loss": log_loss(labels, probabilities),
            "ece": (0.1 + 0.2 + 0.6 + 0.6) / 4,
        },
        abs=0.1,
    )
    assert slices["both"].metrics["log_loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-6)
    assert slices["both"].metrics["ece"] == pytest.approx(0.375, rel=1e-6)
    none, every, quiet = slices["no positive"], slices["all positive"], slices["none predicted"]
    assert (none.metrics["auc"], none.metrics["recall"]) == (None, None)
    assert none.metrics["accuracy"] == none.metrics["precision"] + 0.5 == 0.5  # type: ignore[operator]
    assert none.undefined == dict.fromkeys(("auc", "pr_auc", "recall"), "no row has the positive class")
    assert every.metrics["auc"] is None and every.metrics["recall"] == 0.5
    assert every.undefined == {"auc": "all rows have the positive class"}
    assert quiet.metrics["precision"] is None and quiet.undefined == {"precision": "no row was predicted positive"}
    assert quiet.metrics["auc"] == 1.0 and quiet.metrics["recall"] == 0.0


def test_a_threshold_on_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in ROWS if row[1] == 1]
    (overall, *_) = evaluated(tmp_path, rows, auc={"min": 0.5}, accuracy={"min": 0.9})
    assert overall.metrics["auc"] is None
    reasons = executor.evaluation_reasons(blessed=False, evaluation_uri=str(tmp_path), held=["accuracy", "auc"])
    lacking = "auc has a threshold, and is not defined on the eval split: all rows have the positive class"
    assert lacking in reasons and any(reason.startswith("accuracy 0.") for reason in reasons) and len(reasons) == 2


@pytest.mark.slow
def test_a_threshold_that_0_meets_is_not_met_by_what_is_not_defined(tmp_path: Path) -> None:
    """TFMA takes AUC of one class for 0, blesses what may be 0, and finds no decrease from 0 to 0."""
    rows = [row for row in ROWS if row[1] == 1]
    evaluated(tmp_path, rows, auc={"min": 0.0}, accuracy={"min": 0.1})
    assert tfma.load_validation_result(str(tmp_path)).validation_ok
    reasons = executor.evaluation_reasons(blessed=True, evaluation_uri=str(tmp_path), held=["accuracy", "auc"])
    assert reasons == ["auc has a threshold, and is not defined on the eval split: all rows have the positive class"]
    assert executor.evaluation_reasons(blessed=True, evaluation_uri=str(tmp_path), held=["accuracy"]) == []


def test_a_metric_that_two_tasks_have_is_one_column_and_one_line() -> None:
    summary = make_summary(plain_record())
    whole = summary.overall.model_copy(update={"metrics": {metric.name: 0.5 for metric in BINARY.metrics}})
    run = summary.model_copy(update={"slices": [whole]})
    heads = [str(column.header) for column in run_table(run).columns]
    assert heads == ["slice", "rows", *(metric.name for metric in BINARY.metrics)]
    lines = list(diff_table(run, run).columns[0].cells)
    assert lines[: len(BINARY.metrics)] == [f"{metric.name}, overall" for metric in BINARY.metrics]
    assert not [line for line in set(lines) if line and lines.count(line) > 1]


def test_a_table_says_why() -> None:
    part = SliceMetrics(name="town=x", examples=2, metrics={"auc": None}, undefined={"auc": "no row has it"})
    summary = make_summary(plain_record())
    table = run_table(summary.model_copy(update={"slices": [*summary.slices, part]}))
    assert table.caption == "auc is not defined (town=x): no row has it"


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        ((0, 0, 0, 0), {"auc", "pr_auc", "recall", "precision"}),
        ((0, 2, 0, 0), {"auc", "pr_auc", "recall"}),
        ((0, 0, 3, 1), {"precision"}),
    ],
)
def test_counts_decide(counts: tuple[int, int, int, int], names: set[str]) -> None:
    named = ("true_positives", "false_positives", "true_negatives", "false_negatives")
    assert set(undefined(dict(zip(named, counts, strict=True)))) == names


def test_results_without_counts_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"": {"": {"example_count": {"doubleValue": 3.0}, "auc": {"doubleValue": "NaN"}}}}
    result = SimpleNamespace(slicing_metrics=[((), values)])
    monkeypatch.setattr(tfma, "load_eval_result", lambda uri: result)
    (part,) = read_slices("anywhere")
    assert part.metrics["auc"] is None and part.undefined == {}
