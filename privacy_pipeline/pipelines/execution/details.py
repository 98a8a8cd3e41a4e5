"""A few words on what a finished node did."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tfx.types import artifact_utils

from privacy_pipeline.components.dp_evaluator.charged import read_evaluation
from privacy_pipeline.components.dp_statistics.charged import read_statistics
from privacy_pipeline.components.resolver.strategy import passed_over
from privacy_pipeline.pipelines.nodes import DP_EVALUATOR, DP_STATISTICS
from privacy_pipeline.reports.record.properties import shown

_COUNTABLE_BYTES = 256 * 2**20


def describe(node: str, info: Any, *, counts: bool) -> str:
    """Return one short line on what a node did, for the live view; empty where there is nothing to report.

    Args:
        node: the node's name.
        info: TFX's ExecutionInfo of the finished node.
        counts: whether to show the number of rows, which is secret under add-or-remove-one.
    """
    if node in ("ExampleGen", "Transform"):
        if not counts:
            return ""
        key = "examples" if node == "ExampleGen" else "transformed_examples"
        return _rows(info.output_dict[key])
    if node == "Trainer":
        return _epsilon(artifact_utils.get_single_instance(info.output_dict["privacy_record"]))
    if node == DP_STATISTICS:
        return _released(Path(artifact_utils.get_single_uri(info.output_dict["statistics"])))
    if node == DP_EVALUATOR:
        return _evaluated(Path(artifact_utils.get_single_uri(info.output_dict["evaluation"])))
    if node == "Pusher":
        pushed = artifact_utils.get_single_instance(info.output_dict["pushed_model"])
        return (
            f"to {pushed.get_string_custom_property('pushed_destination')}"
            if pushed.get_int_custom_property("pushed")
            else "not pushed"
        )
    if node == "Resolver":
        return passed_over()
    if node == "PrivacyGate":
        blessing = artifact_utils.get_single_instance(info.output_dict["blessing"])
        return "blessed" if blessing.get_int_custom_property("blessed") else "not blessed"
    return ""


def _released(folder: Path) -> str:
    found = read_statistics(folder)
    columns = ", ".join([*found.ranges, *found.vocabularies])
    return f"epsilon {shown(found.epsilon)} at delta {found.delta:.0e} of the train split, for {columns}"


def _evaluated(folder: Path) -> str:
    evaluation = read_evaluation(folder)
    if evaluation is None:
        raise ValueError(f"{folder}: DpEvaluator wrote no evaluation")
    found = evaluation.overall.metrics["accuracy"]
    return (
        f"epsilon {shown(evaluation.epsilon)} at delta {evaluation.delta:.0e} of the eval split, accuracy "
        f"{found.low:.3f} to {found.high:.3f}"
    )


def _rows(artifacts: list[Any]) -> str:
    artifact = artifact_utils.get_single_instance(artifacts)
    counts = []
    for split in artifact_utils.decode_split_names(artifact.split_names):
        folder = Path(artifact_utils.get_split_uri(artifacts, split))
        files = sorted(str(p) for p in folder.iterdir() if p.is_file())
        counts.append(f"{split} {_count(files)}")
    return ", ".join(counts)


def _count(files: list[str]) -> str:
    size = sum(os.path.getsize(f) for f in files)
    if size > _COUNTABLE_BYTES:
        return f"{size / 2**20:,.0f} MiB"
    import tensorflow as tf

    rows = sum(1 for f in files for _ in tf.compat.v1.io.tf_record_iterator(f, _gzip(tf)))
    return f"{rows:,} rows"


def _gzip(tf: Any) -> Any:
    return tf.io.TFRecordOptions(compression_type="GZIP")


def _epsilon(record: Any) -> str:
    if record.training_guarantee != "dp":
        return "no training guarantee"
    return f"epsilon {shown(record.epsilon)} at delta {record.delta:.0e}, unit {record.unit}, {record.relation}"
