"""Examples and models carry the digest of what they are of; who charges or pushes holds it against the run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tfx.types import standard_artifacts

from privacy_pipeline.components import artifacts
from privacy_pipeline.components.artifacts import bind_model, bind_to_data, data_of, require_data, require_model
from privacy_pipeline.components.dp_evaluator import executor as dp_evaluator
from privacy_pipeline.components.dp_statistics import executor as dp_statistics
from privacy_pipeline.components.example_gen.executor import digest_in, with_digest
from privacy_pipeline.components.pusher.executor import push
from privacy_pipeline.components.trainer import executor as trainer
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.reports.record.properties import metric_properties
from privacy_pipeline.tasks.registry import metrics
from tests.pipelines.projects import DIGEST
from tests.reports.records import dp_record, make_summary


def examples(digest: str | None = DIGEST) -> Any:
    made = standard_artifacts.Examples()
    if digest is not None:
        bind_to_data([made], digest)
    return made


@pytest.mark.parametrize("digest", [None, "", "e" * 64], ids=["of an earlier version", "empty", "of other data"])
def test_examples_of_other_data_are_refused_before_anything_is_charged(
    monkeypatch: pytest.MonkeyPatch, digest: str | None
) -> None:
    monkeypatch.setattr(Ledger, "open", lambda *given, **more: pytest.fail("the ledger was asked"))
    for module in (trainer, dp_statistics, dp_evaluator):
        with pytest.raises(PipelineError, match="not made of the data"):
            module.Executor().Do({"examples": [examples(digest)]}, {}, {"data_digest": DIGEST})
    require_data([examples()], DIGEST)


def test_two_artifacts_of_different_data_are_of_none() -> None:
    assert data_of([examples("a"), examples("b")]) == "" and data_of([examples("a"), examples("a")]) == "a"


def test_the_digest_goes_through_the_parameters_of_example_gen() -> None:
    from tfx.utils import proto_utils

    text = proto_utils.proto_to_json(with_digest("hmac-sha256:9"))
    assert digest_in({"custom_config": text}) == "hmac-sha256:9"


@pytest.fixture
def model(tmp_path: Path) -> Any:
    made = standard_artifacts.Model()
    made.uri = str(tmp_path / "model")
    folder = tmp_path / "model/Format-Serving"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables/data").write_bytes(b"weights")
    bind_model(made)
    return made


@pytest.mark.parametrize("how", ["changed", "added", "removed", "renamed"])
def test_a_model_that_was_swapped_is_not_pushed(model: Any, tmp_path: Path, how: str) -> None:
    require_model(model)
    folder = tmp_path / "model/Format-Serving"
    target = push(model=folder, base=tmp_path / "pushed", check=lambda copy: require_model(model, copy))
    assert (target / "variables/data").read_bytes() == b"weights"
    data = folder / "variables/data"
    if how == "changed":
        data.write_bytes(b"WEIGHTS")
    elif how == "added":
        (folder / "assets").write_bytes(b"")
    elif how == "removed":
        data.unlink()
    else:
        data.rename(folder / "variables/other")
    with pytest.raises(PipelineError, match="changed since it was trained"):
        require_model(model)
    with pytest.raises(PipelineError, match="changed since it was trained"):
        push(model=folder, base=tmp_path / "pushed", check=lambda copy: require_model(model, copy))
    assert [path.name for path in (tmp_path / "pushed").iterdir()] == [target.name]


def test_a_model_of_an_earlier_version_is_pushed(model: Any, tmp_path: Path) -> None:
    model.set_string_custom_property(artifacts.MODEL_DIGEST, "")
    folder = tmp_path / "model/Format-Serving"
    (folder / "saved_model.pb").write_bytes(b"other")
    require_model(model)
    pushed = push(model=folder, base=tmp_path / "pushed", check=lambda copy: require_model(model, copy))
    assert (pushed / "saved_model.pb").read_bytes() == b"other"


def test_a_push_removes_what_killed_ones_left(model: Any, tmp_path: Path) -> None:
    left = tmp_path / "pushed/.part-0123456789abcdef/variables"
    left.mkdir(parents=True)
    (left / "data").write_bytes(b"half")
    (tmp_path / "pushed/7").mkdir()
    target = push(model=tmp_path / "model/Format-Serving", base=tmp_path / "pushed")
    assert sorted(path.name for path in (tmp_path / "pushed").iterdir()) == sorted(["7", target.name])


def test_ml_metadata_has_a_property_for_each_value_of_a_run() -> None:
    summary = make_summary(dp_record())
    whole = summary.overall.model_copy(update={"metrics": dict.fromkeys(metrics(), 0.5)})
    values = metric_properties(summary.model_copy(update={"slices": [whole]}))
    assert set(metrics()) < set(values) == set(artifacts.RunMetricsArtifact.PROPERTIES)
