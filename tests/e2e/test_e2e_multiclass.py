"""Handwritten digits, ten classes, from a CSV to a private model: what is printed, recorded, compared and served."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

pytestmark = pytest.mark.slow
DP = ("training.backend=dp_sgd", "training.dp_sgd.noise_multiplier=1.0", "training.dp_sgd.delta=1e-4")
_CLASSES = """
import sys
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
row = {f"p{n}": int(value) for n, value in enumerate(sys.argv[2].split(","))}
ints = {k: tf.train.Feature(int64_list=tf.train.Int64List(value=[v])) for k, v in row.items()}
given = tf.train.Example(features=tf.train.Features(feature=ints)).SerializeToString()
print(serve(tf.constant([given]))["class"].numpy()[0, 0].decode())
"""


def test_digits_from_a_csv_to_a_private_model(project: Project) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    lines = [",".join([*(f"p{n}" for n in range(64)), "digit"])]
    lines += [
        ",".join(map(str, [*map(int, row), label])) for row, label in zip(digits.data, digits.target, strict=True)
    ]
    (project.root / "digits.csv").write_text("\n".join(lines) + "\n")
    project.done("init", "digits.csv", "--label", "digit")
    config, schema = "configs/digits.yaml", project.root / "configs/schemas/digits.pbtxt"
    assert "positive_class:" not in (project.root / config).read_text()
    schema.write_text(schema.read_text().replace('tag: "unreviewed"', ""))
    assert project.done("check", config, "--json").json["task"] == "multiclass"

    plain = ("training.epochs=30", "training.batch_size=64", "evaluation.thresholds={macro_f1: {min: 0.8}}")
    done = project.done("run", config, *_set(*plain), "--json").json
    run = done["run"]["run_id"]
    (overall, *_) = project.done("show", run, "--json").json["summary"]["slices"]
    assert overall["metrics"]["accuracy"] > 0.85 and overall["metrics"]["top_3_accuracy"] > 0.95
    assert set(overall["metrics"]) == {"accuracy", "top_3_accuracy", "macro_f1", "log_loss", "ece"}
    shown = project.done("show", run).text
    assert "macro_f1" in shown and "auc" not in shown

    project.done("budget", "register", config, "--epsilon", "20", "--delta", "1e-4")
    low = ("pipeline=digits-dp", "evaluation.thresholds={accuracy: {min: 0.2}, log_loss: {max: 9}}", *DP)
    private = project.done("run", config, *_set("training.epochs=10", "training.batch_size=256", *low), "--json").json
    other = private["run"]["run_id"]
    record = project.done("show", other, "--json").json["summary"]["record"]
    assert record["training_guarantee"] == "dp" and 0 < record["guarantee"]["epsilon"] < 20
    assert "accuracy, overall" in project.done("diff", run, other).text
    assert "macro_f1" in json.dumps(project.done("runs", "--json").json)
    (model,) = (project.root / "workspace/pushed/digits").iterdir()
    seven = ",".join(str(int(value)) for value in digits.data[7])
    command = [sys.executable, "-c", _CLASSES, str(model), seven]
    found = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout
    assert found.strip() == "7"


def test_parts_that_know_two_classes_are_refused_before_anything_is_read(project: Project) -> None:
    asked = ("dataset.positive_class=null", "evaluation.thresholds={accuracy: {min: 0.1}}")
    dp = "evaluation.dp={epsilon: 1.0, delta: 1e-5}"
    ended = project.cli("check", "configs/dp.yaml", *_set(*asked, dp))
    assert ended.code == 2 and "evaluation.dp does not go with task multiclass" in ended.text
    ended = project.cli("check", "configs/plain.yaml", *_set("dataset.positive_class=null"))
    assert ended.code == 0
    ended = project.cli("check", "configs/plain.yaml", *_set(asked[0], "evaluation.thresholds={auc: {min: 0.1}}"))
    assert ended.code == 2 and "task multiclass has no such metric; one of accuracy" in ended.text


def _set(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]
