"""Which way EncryptedEvaluator goes, and what it says of it; the ways themselves are tested in tests/encrypted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tfx.types import standard_artifacts

from privacy_pipeline.backends import keras_io
from privacy_pipeline.components.artifacts import EncryptedEvaluationArtifact
from privacy_pipeline.components.encrypted_evaluator import executor
from privacy_pipeline.config.models.encrypted import EncryptedSection
from privacy_pipeline.encrypted.evaluation import evaluation, through_parties
from privacy_pipeline.encrypted.evaluation.measured import EVALUATION_FILE, BatchTimes, EncryptedEvaluation
from privacy_pipeline.encrypted.model import published
from privacy_pipeline.encrypted.model.fixed_point import Proof
from privacy_pipeline.encrypted.model.threat_model import ThreatModel, deployed_for_evaluation, on_one_host, simulated
from privacy_pipeline.errors import BadInputError
from tests.encrypted.deployment import make_parties

PLAIN = np.array([[1.0], [-1.0]])
TIMES = BatchTimes(batch=1, build_seconds=1.0, seconds=0.5, rows_per_second=2.0, bytes_per_call=9, rounds=7)


class Ways:
    """Stands for both ways, and keeps what it was given."""

    def __init__(self, threat_model: ThreatModel) -> None:
        self.threat_model = threat_model
        self.taken: list[str] = []
        self.given: dict[str, Any] = {}

    def evaluate(self, folder: Path, **given: Any) -> EncryptedEvaluation:
        """Finds what the plain model says."""
        self.taken.append("parties" if "parties" in given else "simulated")
        self.given = given
        return evaluation.compare(
            plain=given["plain"],
            private=given["plain"],
            labels=given["labels"],
            model="m",
            proof=Proof(logit_error=1e-3, largest={}, widest=("d", 2.0)),
            batches=[TIMES],
            threat_model=self.threat_model,
        )


def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ways: Ways, section: EncryptedSection) -> Any:
    rows = SimpleNamespace(inputs={"x": np.ones((2, 2)), "other": np.ones(2)}, labels=np.array([[1.0], [0.0]]))
    model = SimpleNamespace(input_names=["x"], predict=lambda inputs, **named: PLAIN)
    monkeypatch.setattr(keras_io, "read_rows", lambda *given, **named: rows)
    monkeypatch.setattr(executor, "load_trained", lambda folder: model)
    monkeypatch.setattr(published, "load", lambda folder: folder)
    monkeypatch.setattr(through_parties, "evaluate", ways.evaluate)
    monkeypatch.setattr(evaluation, "simulate", ways.evaluate)
    found = EncryptedEvaluationArtifact()
    made: dict[str, Any] = {
        "model": standard_artifacts.Model(),
        "examples": standard_artifacts.Examples(),
        "transform_graph": standard_artifacts.TransformGraph(),
        "encrypted_evaluation": found,
    }
    for name, artifact in made.items():
        artifact.uri = str(tmp_path / name)
        (tmp_path / name).mkdir()
    made["examples"].split_names = '["train", "eval"]'
    outputs = {"encrypted_evaluation": [made.pop("encrypted_evaluation")]}
    inputs = {name: [artifact] for name, artifact in made.items()}
    monkeypatch.setattr(executor.Executor, "_get_tmp_dir", lambda self: str(tmp_path))
    executor.Executor().Do(inputs, outputs, {"encrypted": section.model_dump_json()})
    return found


@pytest.mark.parametrize("threat_model", [on_one_host(), deployed_for_evaluation()])
def test_parties_are_asked_where_the_config_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threat_model: ThreatModel
) -> None:
    ways, folder = Ways(threat_model), make_parties(tmp_path / "parties")
    artifact = evaluated(tmp_path, monkeypatch, ways, EncryptedSection(parties=folder))
    assert ways.taken == ["parties"] and ways.given["parties"] == folder and list(ways.given["inputs"]) == ["x"]
    assert str(ways.given["published"]).endswith("assets.extra/published")
    assert artifact.inference_protection == threat_model.protection
    kept = EncryptedEvaluation.model_validate_json((Path(artifact.uri) / EVALUATION_FILE).read_text())
    assert kept.threat_model == threat_model and kept.batches == [TIMES]


def test_all_in_one_process_where_the_config_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways(simulated())
    artifact = evaluated(tmp_path, monkeypatch, ways, EncryptedSection(simulate=True))
    assert ways.taken == ["simulated"] and artifact.inference_protection == "simulated" and artifact.rounds == 7


def test_neither_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways(simulated())
    with pytest.raises(BadInputError, match="does not name the parties"):
        evaluated(tmp_path, monkeypatch, ways, EncryptedSection())
    assert ways.taken == []
