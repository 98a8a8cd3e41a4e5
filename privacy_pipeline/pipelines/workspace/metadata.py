"""Connections to ML Metadata, and the query that compares runs. Imports `ml_metadata`, but no TFX."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from privacy_pipeline.components import left_files
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.workspace import moved
from privacy_pipeline.pipelines.workspace.stored_text import store_of
from privacy_pipeline.pipelines.workspace.workspace import Workspace
from privacy_pipeline.text import secret_text

RESOLVER = "resolver.Resolver"  # ends the type of an execution whose outputs are the baseline's, of another run


def connection_config(config: PipelineConfig) -> Any:
    """Return an `ml_metadata` ConnectionConfig for the config's `metadata` section; update the paths in a store that
    was moved.

    Raises:
        BadInputError: the password's environment variable is not set, or the store cannot be read or written.
    """
    from ml_metadata.proto import metadata_store_pb2

    connection = metadata_store_pb2.ConnectionConfig()
    workspace = Workspace(config)
    path = workspace.metadata_path
    if path is not None:
        moved.follow(store=path, root=workspace.root)
    metadata = config.metadata
    if metadata.kind == "sqlite":
        connection.sqlite.filename_uri = str(path)
        connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        return connection
    password = os.environ.get(metadata.password_env)
    if password is None:
        # A name that does not look like a variable may be the password, in the wrong place.
        shown = metadata.password_env if metadata.password_env.isupper() else "that it names"
        raise BadInputError(
            f"metadata.password_env: the environment variable {shown} is not set", fix="export it with the password"
        )
    secret_text.note_variable(metadata.password_env)
    if metadata.kind == "mysql":
        server = connection.mysql
        server.host, server.port, server.database = metadata.host, metadata.port, metadata.database
        server.user, server.password = metadata.user, password
    else:
        postgres = connection.postgresql
        postgres.host, postgres.port, postgres.dbname = (
            _word(metadata.host),
            str(metadata.port),
            _word(metadata.database),
        )
        postgres.user, postgres.password = _word(metadata.user), _word(password)
    return connection


def _word(value: str) -> str:
    """Return a value as PostgreSQL's connection string needs it; ML Metadata inserts it unchanged."""
    if value and not re.search(r"[\s'\\]", value):
        return value
    escaped = re.sub(r"(['\\])", r"\\\1", value)
    return f"'{escaped}'"


def require_usable(config: PipelineConfig) -> None:
    """Connect to a server of ML Metadata once, before a run starts; a file in the workspace needs no such check.

    Raises:
        BadInputError: the server cannot be reached or refuses the user, or the password's variable is not set.
    """
    metadata = config.metadata
    if metadata.kind == "sqlite":
        return
    connection = connection_config(config)
    try:
        store_of(connection)
    except RuntimeError as error:
        place = f"{metadata.user}@{metadata.host}:{metadata.port}/{metadata.database}"
        raise BadInputError(
            f"metadata: {metadata.kind} {place} cannot be used: {' '.join(str(error).split())[:300]}",
            fix="check that the server runs, that the user may make tables there, and metadata.password_env",
        ) from error


def run_metrics(connection: Any) -> list[dict[str, Any]]:
    """Return the properties of every RunMetrics artifact: one query, one row per run."""
    store = store_of(connection)
    rows = store.get_artifacts_by_type("RunMetrics")
    return [{name: _value(value) for name, value in row.properties.items()} for row in rows]


def copy_run_metrics(connection: Any, *, run_id: str, properties: dict[str, str | int | float]) -> None:
    """Publish the metrics of a run in which no node had to run, under the run's own context.

    Args:
        connection: an `ml_metadata` ConnectionConfig.
        run_id: the new run.
        properties: its RunMetrics properties.

    Raises:
        BadInputError: the store holds no run, so that it is not the one of the earlier run.
    """
    from ml_metadata import errors
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    store = store_of(connection)
    try:
        kind, runs = store.get_artifact_type("RunMetrics").id, store.get_context_type("pipeline_run").id
    except errors.NotFoundError:
        raise BadInputError(
            "metadata: the store has lost what the earlier runs of this workspace recorded",
            fix="put the database back, or run again with --no-cache",
        ) from None
    execution = mlmd.Execution(
        type_id=store.put_execution_type(mlmd.ExecutionType(name="RunMetricsCopy")),
        last_known_state=mlmd.Execution.CACHED,
    )
    artifact = mlmd.Artifact(type_id=kind, state=mlmd.Artifact.LIVE)
    for name, value in properties.items():
        _set(artifact.properties[name], value)
    context = mlmd.Context(type_id=runs, name=run_id)
    event = mlmd.Event(type=mlmd.Event.OUTPUT)
    store.put_execution(execution, [(artifact, event)], [context])


def publish_report(connection: Any, *, run_id: str, uri: str, dataset: str) -> None:
    """Publish the report of a run's dataset as an artifact of type DatasetReport, under the run's own context.

    Args:
        connection: an `ml_metadata` ConnectionConfig.
        run_id: the run.
        uri: folder of the report's files.
        dataset: name of the dataset.
    """
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    store = store_of(connection)
    names = dict.fromkeys(("run_id", "dataset"), mlmd.STRING)
    kind = store.put_artifact_type(mlmd.ArtifactType(name="DatasetReport", properties=names))
    artifact = mlmd.Artifact(type_id=kind, uri=uri, state=mlmd.Artifact.LIVE)
    _set(artifact.properties["run_id"], run_id)
    _set(artifact.properties["dataset"], dataset)
    execution = mlmd.Execution(
        type_id=store.put_execution_type(mlmd.ExecutionType(name="DatasetReport")),
        last_known_state=mlmd.Execution.COMPLETE,
    )
    context = store.get_context_by_type_and_name("pipeline_run", run_id)
    event = mlmd.Event(type=mlmd.Event.OUTPUT)
    store.put_execution(execution, [(artifact, event)], [] if context is None else [context])


def without_files(connection: Any, *, run_id: str) -> dict[str, str]:
    """Return the done nodes of a run whose files are no longer all on the disk, each with its first missing folder.

    Args:
        connection: an `ml_metadata` ConnectionConfig.
        run_id: the run.
    """
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    store = store_of(connection)
    context = store.get_context_by_type_and_name("pipeline_run", run_id)
    executions = [] if context is None else store.get_executions_by_context(context.id)
    found: dict[str, str] = {}
    for execution in executions:
        if execution.last_known_state not in (mlmd.Execution.COMPLETE, mlmd.Execution.CACHED):
            continue
        if str(execution.type).endswith(RESOLVER):
            continue
        names = [c.name for c in store.get_contexts_by_execution(execution.id) if c.type == "node"]
        events = store.get_events_by_execution_ids([execution.id])
        made = store.get_artifacts_by_id([event.artifact_id for event in events if event.type == mlmd.Event.OUTPUT])
        for one in made:
            if one.state == mlmd.Artifact.LIVE and not _are_left(one):
                found |= {name.rpartition(".")[2]: str(one.uri) for name in names}
    return found


def _are_left(artifact: Any) -> bool:
    splits = artifact.properties[left_files.SPLITS].string_value if left_files.SPLITS in artifact.properties else ""
    return not artifact.uri or left_files.are_left(str(artifact.type), Path(artifact.uri), splits=splits)


def _set(target: Any, value: str | int | float) -> None:
    if isinstance(value, str):
        target.string_value = value
    elif isinstance(value, int):
        target.int_value = value
    else:
        target.double_value = value


def _value(value: Any) -> str | int | float:
    found: str | int | float = getattr(value, value.WhichOneof("value"))
    return found
