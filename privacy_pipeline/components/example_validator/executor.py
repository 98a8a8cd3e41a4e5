"""Runs TFDV's validation and raises on what it finds, in lines that a person can read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import types
from tfx.components.example_validator import executor as stock
from tfx.types import artifact_utils

from privacy_pipeline.errors import BadInputError

ANOMALIES_FILE = "SchemaDiff.pb"


class DataAnomaliesError(BadInputError):
    """The data does not keep the schema; one line for each anomaly."""


class Executor(stock.Executor):
    """Stock executor, then the gate."""

    def Do(  # noqa: N802 (TFX names it)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> Any:
        """Validates every split.

        Raises:
            DataAnomaliesError: a split is empty or does not keep the schema.
        """
        result = super().Do(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(output_dict["anomalies"])
        lines: list[str] = []
        for split in artifact_utils.decode_split_names(artifact.split_names):
            folder = artifact_utils.get_split_uri(output_dict["anomalies"], split)
            found = anomalies_pb2.Anomalies()
            with open(os.path.join(folder, ANOMALIES_FILE), "rb") as file:
                found.ParseFromString(file.read())
            lines += [f"{split} split: {line}" for line in _readable(found)]
        statistics = artifact_utils.get_single_instance(input_dict["statistics"])
        lines += _empty_splits(statistics)
        if lines:
            raise DataAnomaliesError(
                "the data does not keep the schema:\n" + "\n".join(f"  {line}" for line in lines),
                fix="correct the rows, or the schema where it is wrong about the public domain",
            )
        return result


def _readable(anomalies: anomalies_pb2.Anomalies) -> Iterator[str]:
    if anomalies.HasField("dataset_anomaly_info"):
        yield anomalies.dataset_anomaly_info.description
    for feature, info in sorted(anomalies.anomaly_info.items()):
        for reason in info.reason:
            yield f"{feature}: {reason.description} ({reason.short_description.lower()})"


def _empty_splits(statistics: types.Artifact) -> list[str]:
    lines = []
    for split in artifact_utils.decode_split_names(statistics.split_names):
        folder = artifact_utils.get_split_uri([statistics], split)
        loaded = tfdv.load_stats_binary(os.path.join(folder, "FeatureStats.pb"))
        if not loaded.datasets or not loaded.datasets[0].num_examples:
            lines.append(f"{split} split: no rows")
    return lines
