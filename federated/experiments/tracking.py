"""Finished runs in TensorBoard and in ML Metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from federated.experiments.config import Point
from federated.experiments.run_folder import RunFolder

TENSORBOARD = "tensorboard"
METADATA = "metadata.db"
_TYPE = "FederatedRun"
_TEXTS = ("experiment", "run", "algorithm", "engine", "unit", "relation", "accountant")
_INTEGERS = ("seed", "rounds", "clients_train", "clients_eval", "bytes_up", "bytes_down", "ledger_entry")
_NUMBERS = ("accuracy", "auc", "loss", "client_accuracy_mean", "client_accuracy_std", "epsilon", "delta", "seconds")


def write_tensorboard(folder: RunFolder) -> None:
    """Write the curves of a run for TensorBoard, from its own rounds; again, if they are there."""
    import shutil

    import tensorflow as tf

    path = folder.path / TENSORBOARD
    shutil.rmtree(path, ignore_errors=True)
    writer = tf.summary.create_file_writer(str(path))
    with writer.as_default():
        for line in folder.rounds():
            numbers = {**line, **line.get("eval", {})}
            for name, value in numbers.items():
                if name != "round" and isinstance(value, (int, float)):
                    tf.summary.scalar(name, value, step=line["round"])
    writer.close()


def track(point: Point, summary: dict[str, Any]) -> None:
    """Write a finished run into ML Metadata, beside the runs' folder; a run that is there already is left as it is.

    Args:
        point: the run.
        summary: its summary.
    """
    from ml_metadata.metadata_store import metadata_store
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    path = point.config.folder / METADATA
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = mlmd.ConnectionConfig()
    connection.sqlite.filename_uri = str(path)
    connection.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    store = metadata_store.MetadataStore(connection)
    artifact_type = mlmd.ArtifactType(name=_TYPE)
    kinds = ((_TEXTS, mlmd.STRING), (_INTEGERS, mlmd.INT), (_NUMBERS, mlmd.DOUBLE))
    for names, kind in kinds:
        for name in names:
            artifact_type.properties[name] = kind
    type_id = store.put_artifact_type(artifact_type)
    uri = str(point.folder)
    if any(known.type_id == type_id for known in store.get_artifacts_by_uri(uri)):
        return
    artifact = mlmd.Artifact(type_id=type_id, uri=uri, state=mlmd.Artifact.LIVE)
    for name in (*_TEXTS, *_INTEGERS, *_NUMBERS):
        value = summary.get(name)
        if value is None:
            continue
        if name in _TEXTS:
            artifact.properties[name].string_value = value
        elif name in _INTEGERS:
            artifact.properties[name].int_value = value
        else:
            artifact.properties[name].double_value = value
    for name, value in point.settings.items():
        artifact.custom_properties[name].string_value = str(value)
    store.put_artifacts([artifact])


def tracked(folder: Path) -> list[dict[str, str | int | float]]:
    """Return the properties of all runs in the ML Metadata of a folder of experiments; empty where there is none."""
    from ml_metadata.metadata_store import metadata_store
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    if not (folder / METADATA).exists():
        return []
    connection = mlmd.ConnectionConfig()
    connection.sqlite.filename_uri = str(folder / METADATA)
    store = metadata_store.MetadataStore(connection)
    return [
        {name: getattr(value, value.WhichOneof("value")) for name, value in artifact.properties.items()}
        for artifact in store.get_artifacts_by_type(_TYPE)
    ]
