"""Connections to ML Metadata, and the one query that compares runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.workspace import metadata
from privacy_pipeline.reports.record.properties import metric_properties
from tests.pipelines.projects import write_project
from tests.reports.records import dp_record, make_summary, plain_record


def server(kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "host": "db.example",
        "port": 4711,
        "database": "meta",
        "user": "me",
        "password_env": "TEST_METADATA_PASSWORD",
    }


def test_sqlite(tmp_path: Path) -> None:
    found = metadata.connection_config(write_project(tmp_path))
    assert found.sqlite.filename_uri == str(tmp_path / "workspace" / "metadata.db")
    assert found.sqlite.connection_mode == mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE


def test_mysql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_METADATA_PASSWORD", "secret")
    found = metadata.connection_config(write_project(tmp_path, metadata=server("mysql")))
    assert found.WhichOneof("config") == "mysql"
    assert (found.mysql.host, found.mysql.port, found.mysql.database) == ("db.example", 4711, "meta")
    assert (found.mysql.user, found.mysql.password) == ("me", "secret")


def test_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_METADATA_PASSWORD", "secret")
    found = metadata.connection_config(write_project(tmp_path, metadata=server("postgresql")))
    assert found.WhichOneof("config") == "postgresql"
    assert (found.postgresql.host, found.postgresql.port, found.postgresql.dbname) == ("db.example", "4711", "meta")
    assert (found.postgresql.user, found.postgresql.password) == ("me", "secret")


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_a_missing_password_names_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.delenv("TEST_METADATA_PASSWORD", raising=False)
    with pytest.raises(BadInputError, match="TEST_METADATA_PASSWORD is not set"):
        metadata.connection_config(write_project(tmp_path, metadata=server(kind)))


@pytest.fixture
def connection(tmp_path: Path) -> Any:
    """A store on disk with the types that TFX would have made."""
    config = write_project(tmp_path)
    (tmp_path / "workspace").mkdir()
    made = metadata.connection_config(config)
    store = metadata_store.MetadataStore(made)
    kind = mlmd.ArtifactType(name="RunMetrics")
    for name, value in metric_properties(make_summary(dp_record())).items():
        kind.properties[name] = {str: mlmd.STRING, int: mlmd.INT, float: mlmd.DOUBLE}[type(value)]
    store.put_artifact_type(kind)
    store.put_context_type(mlmd.ContextType(name="pipeline_run"))
    return made


def test_one_row_a_run_with_utility_and_privacy_side_by_side(connection: Any) -> None:
    private, plain = metric_properties(make_summary(dp_record())), metric_properties(make_summary(plain_record()))
    metadata.copy_run_metrics(connection, run_id="run-2", properties=private | {"run_id": "run-2"})
    metadata.copy_run_metrics(connection, run_id="run-3", properties=plain | {"run_id": "run-3"})
    rows = {row["run_id"]: row for row in metadata.run_metrics(connection)}
    # ML Metadata keeps six decimals of a double; `summary.json` keeps them all.
    assert rows["run-2"] == approximately(private | {"run_id": "run-2"})
    assert rows["run-3"] == approximately(plain | {"run_id": "run-3"})
    assert "epsilon" in rows["run-2"] and "epsilon" not in rows["run-3"]


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [
        (3.0000001, 1e-7),
        (1e-9, 1e-13),
        (0.0012345678, 1.0000001e-5),
        (123456.7890123, 1e-5),
        (2.5, 0.0),
        (0.1 + 0.2, 0.3),
    ],
)
def test_what_is_stored_is_never_below_the_guarantee(connection: Any, epsilon: float, delta: float) -> None:
    record = dp_record()
    assert record.guarantee is not None
    guarantee = record.guarantee.model_copy(update={"epsilon": epsilon, "delta": delta})
    found = metric_properties(make_summary(record.model_copy(update={"guarantee": guarantee})))
    metadata.copy_run_metrics(connection, run_id="run-2", properties=found | {"run_id": "run-2"})
    (row,) = metadata.run_metrics(connection)
    assert epsilon <= row["epsilon"] <= epsilon * (1 + 1e-5) + 1.1e-6 and delta <= row["delta"] <= delta + 1.1e-6
    assert (row["epsilon"], row["delta"]) == (found["epsilon"], found["delta"])


def approximately(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        name: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        for name, value in properties.items()
    }


def test_a_copy_belongs_to_its_own_run_and_says_that_nothing_was_executed(connection: Any) -> None:
    metadata.copy_run_metrics(connection, run_id="run-2", properties={"run_id": "run-2"})
    store = metadata_store.MetadataStore(connection)
    context = store.get_context_by_type_and_name("pipeline_run", "run-2")
    (artifact,) = store.get_artifacts_by_context(context.id)
    (execution,) = store.get_executions_by_context(context.id)
    assert artifact.properties["run_id"].string_value == "run-2"
    assert execution.last_known_state == mlmd.Execution.CACHED


def test_a_store_without_runs_has_no_rows(connection: Any) -> None:
    assert metadata.run_metrics(connection) == []


def test_a_report_is_published_under_the_context_of_its_run(connection: Any) -> None:
    metadata.copy_run_metrics(connection, run_id="run-2", properties={"run_id": "run-2"})
    metadata.publish_report(connection, run_id="run-2", uri="/somewhere/report", dataset="things")
    store = metadata_store.MetadataStore(connection)
    (report,) = store.get_artifacts_by_type("DatasetReport")
    assert (report.uri, report.properties["dataset"].string_value) == ("/somewhere/report", "things")
    context = store.get_context_by_type_and_name("pipeline_run", "run-2")
    assert report.id in {artifact.id for artifact in store.get_artifacts_by_context(context.id)}


def test_a_store_that_lost_its_runs_is_one_line(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    (tmp_path / "workspace").mkdir()
    with pytest.raises(BadInputError, match="lost what the earlier runs of this workspace recorded") as caught:
        metadata.copy_run_metrics(metadata.connection_config(config), run_id="run-2", properties={"run_id": "run-2"})
    assert "--no-cache" in caught.value.fix
