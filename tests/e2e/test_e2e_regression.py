"""A number, the progression of diabetes, from a CSV to a private model: what is printed, recorded and served."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

pytestmark = pytest.mark.slow
DP = ("training.backend=dp_sgd", "training.dp_sgd.noise_multiplier=1.0", "training.dp_sgd.delta=1e-3")
_VALUES = """
import json
import sys
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
given = []
for row in json.loads(sys.argv[2]):
    floats = {k: tf.train.Feature(float_list=tf.train.FloatList(value=[v])) for k, v in row.items()}
    given.append(tf.train.Example(features=tf.train.Features(feature=floats)).SerializeToString())
print(json.dumps(serve(tf.constant(given))["value"].numpy().ravel().tolist()))
"""


def _written(project: Project) -> Any:
    from sklearn.datasets import load_diabetes

    table = load_diabetes()
    lines = [",".join([*table.feature_names, "progression"])]
    lines += [",".join(map(str, [*row, label])) for row, label in zip(table.data, table.target, strict=True)]
    (project.root / "diabetes.csv").write_text("\n".join(lines) + "\n")
    project.done("init", "diabetes.csv", "--label", "progression")
    schema = project.root / "configs/schemas/diabetes.pbtxt"
    schema.write_text(schema.read_text().replace('tag: "unreviewed"', ""))
    return table


def test_a_number_from_a_csv_to_a_private_model(project: Project) -> None:
    table, config = _written(project), "configs/diabetes.yaml"
    assert project.done("check", config, "--json").json["task"] == "regression"
    assert "task regression" in project.done("check", config).text

    small = ("model.hidden_units=[16]", "model.dropout=0.3")
    bounds = "evaluation.thresholds={r2: {min: 0.01}, mae: {max: 75, max_increase: 5}}"
    plain = ("training.epochs=60", "training.batch_size=32", "training.learning_rate=0.003", *small, bounds)
    run = project.done("run", config, *_set(*plain), "--json").json["run"]["run_id"]
    (overall, *_) = project.done("show", run, "--json").json["summary"]["slices"]
    metrics = overall["metrics"]
    assert set(metrics) == {"mae", "rmse", "r2", "median_absolute_error"}
    # In the label's units, 25 to 346, whose standard deviation is 77; there are 350 rows to learn from.
    assert 30 < metrics["median_absolute_error"] < metrics["rmse"] < 90 and 30 < metrics["mae"] < metrics["rmse"]
    assert 0.01 < metrics["r2"] < 0.7
    shown = project.done("show", run).text
    assert "median" in shown
    assert "accuracy" not in shown
    (model,) = (project.root / "workspace/pushed/diabetes").iterdir()
    rows = [dict(zip(table.feature_names, row, strict=True)) for row in table.data.tolist()]
    command = [sys.executable, "-c", _VALUES, str(model), json.dumps(rows)]
    values = json.loads(subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout)
    assert sum(abs(a - b) for a, b in zip(values, table.target, strict=True)) / len(values) < 65

    project.done("budget", "register", config, "--epsilon", "50", "--delta", "1e-3")
    low = ("pipeline=diabetes-dp", "evaluation.thresholds={mae: {max: 300}}", *DP)
    private = project.done(
        "run", config, *_set("training.epochs=10", "training.batch_size=100", *small, *low), "--json"
    ).json
    other = private["run"]["run_id"]
    record = project.done("show", other, "--json").json["summary"]["record"]
    assert record["training_guarantee"] == "dp" and 0 < record["guarantee"]["epsilon"] < 50
    assert "mae, overall" in project.done("diff", run, other).text
    assert "median_absolute_error" in json.dumps(project.done("runs", "--json").json)


def test_a_label_that_no_number_can_be_is_one_line_before_anything_runs(project: Project) -> None:
    _written(project)
    path = project.root / "diabetes.csv"
    text = path.read_text()
    last = text.rstrip("\n").rsplit(",", 1)[0]
    for cell, why in (
        ("", "the value is missing"),
        ("much", "is not a number"),
        ("1000", "is above the schema's maximum"),
    ):
        path.write_text(f"{last},{cell}\n")
        ended = project.cli("check", "configs/diabetes.yaml")
        assert ended.code == 2 and "column 'progression'" in ended.text and why in ended.text, ended.text


def _set(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]
