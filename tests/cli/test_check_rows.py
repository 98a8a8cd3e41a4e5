"""`check` says whether a model keeps its examples apart, before anything is reserved."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.ledger.ledger import Ledger
from tests.pipelines.projects import write_project

MIXING = """
import tensorflow as tf

def build_model(context):
    (name, spec), = context.inputs.items()
    features = tf.keras.Input(shape=spec.shape, dtype=spec.dtype, name=name)
    centred = tf.keras.layers.Lambda(lambda x: x - tf.reduce_mean(x, axis=0, keepdims=True), name="centred")(features)
    return tf.keras.Model(features, tf.keras.layers.Dense(1)(centred))
"""
PREPROCESSING = """
def preprocessing_fn(inputs, custom_config):
    raise AssertionError("check runs no preprocessing")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    config = write_project(tmp_path, backend="dp_sgd")
    path = tmp_path / "c.yaml"
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True))
    )
    result = call("budget", "register", path, "--epsilon", 50, "--delta", 1e-4)
    assert result.exit_code == 0, result.output
    return path


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_model_that_keeps_examples_apart_is_said_to(project: Path) -> None:
    told = call("check", project)
    assert told.exit_code == 0 and "examples stay apart: proven for all" in told.output
    facts = json.loads(call("check", project, "--json").stdout)
    assert facts["rows"] == {"verdict": "proven", "one_by_one": [], "vectorised_whole_model": False}


def test_a_model_that_mixes_rows_is_refused_with_layer_and_op(project: Path) -> None:
    Path("mixing_rows.py").write_text(MIXING)
    told = call("check", project, "--set", "model=mixing_rows", "--json")
    assert told.exit_code == 2
    assert "centred" in told.output and "(Mean)" in told.output
    document = yaml.safe_load(project.read_text())
    assert Ledger.open(document["ledger"]).entries("things") == []


def test_what_a_users_preprocessing_makes_is_examined_when_the_run_starts(project: Path) -> None:
    Path("own_preprocessing.py").write_text(PREPROCESSING)
    facts = json.loads(call("check", project, "--set", "model=own_preprocessing", "--json").stdout)
    assert facts["rows"]["verdict"] == "not_examined" and "preprocessing_fn" in facts["rows"]["later"]
