"""Runs TFDV's validation and raises on what it finds, in lines that a person can read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import types
from tfx.components.example_validator import executor as stock
from tfx.types import artifact_utils
from tfx.utils import io_utils

from privacy_pipeline.errors import BadInputError

ANOMALIES_FILE = "SchemaDiff.pb"
INFERRED = "inferred"  # exec property: whether the schema was inferred from the data


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
        """Validate every split.

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
        schema = io_utils.SchemaReader().read(
            io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"]))
        )
        lines += _of_statistics(statistics, schema, inferred=bool(exec_properties.get(INFERRED)))
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


def _of_statistics(statistics: types.Artifact, schema: schema_pb2.Schema, *, inferred: bool) -> Iterator[str]:
    """Yield what TFDV does not count against a split: that it has no rows, and numbers that are none."""
    for split in artifact_utils.decode_split_names(statistics.split_names):
        folder = artifact_utils.get_split_uri([statistics], split)
        loaded = tfdv.load_stats_binary(os.path.join(folder, "FeatureStats.pb"))
        if not loaded.datasets or not loaded.datasets[0].num_examples:
            yield f"{split} split: no rows"
        for dataset in loaded.datasets:
            yield from (f"{split} split: {line}" for line in no_numbers(dataset, schema, inferred=inferred))


def no_numbers(
    statistics: statistics_pb2.DatasetFeatureStatistics, schema: schema_pb2.Schema, *, inferred: bool
) -> Iterator[str]:
    """Yield the columns that have NaN or infinity where the schema needs a value: NaN is missing, infinity is invalid.

    Args:
        statistics: of one split.
        schema: what the data has to keep.
        inferred: whether the schema was made from the data, and so allows what is there, also NaN.
    """
    fractions = {feature.name: feature.presence for feature in schema.feature}
    for feature in statistics.features:
        name = feature.path.step[0] if feature.path.step else feature.name
        if not feature.HasField("num_stats") or name not in fractions:
            continue
        found, presence = feature.num_stats, fractions[name]
        if math.isinf(found.min) or math.isinf(found.max):
            yield f"{name}: a number is infinite, or too large for 32 bits (invalid value)"
        nan = max((int(histogram.num_nan) for histogram in found.histograms), default=0)
        present = found.common_stats.num_non_missing - nan
        if nan and not inferred and present < max(presence.min_count, presence.min_fraction * statistics.num_examples):
            rows = statistics.num_examples
            yield f"{name}: NaN is a missing value, and stands in {nan} of {rows} rows (column dropped)"
