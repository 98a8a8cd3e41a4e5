"""In a private run a user's `preprocessing_fn` meets one row at a time, whatever it would do to a batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tensorflow as tf
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_artifacts

from privacy_pipeline.components.transform.executor import Executor

ROWS = 40
SCHEMA = """
feature { name: "size" type: FLOAT presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } } }
"""
MODULE = """
import tensorflow as tf

def preprocessing_fn(inputs, custom_config):
    size = inputs["size"]
    place = tf.cast(tf.range(tf.shape(size)[0])[:, tf.newaxis], tf.float32)  # no rule says that it mixes rows
    return {"size": size, "place": place}
"""


def transformed(folder: Path, module: str, *, private: bool) -> list[dict[str, float]]:
    """What PublicTransform makes of rows 0 to 39, in the order of the file."""
    schema, examples = standard_artifacts.Schema(), standard_artifacts.Examples()
    schema.uri, examples.uri = str(folder / "schema"), str(folder / "examples")
    (folder / "schema").mkdir()
    (folder / "schema" / "schema.pbtxt").write_text(SCHEMA)
    examples.split_names = artifact_utils.encode_split_names(["train", "eval"])
    examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
    for split in ("train", "eval"):
        (folder / "examples" / f"Split-{split}").mkdir(parents=True)
        path = str(folder / "examples" / f"Split-{split}" / "data.gz")
        with tf.io.TFRecordWriter(path, "GZIP") as writer:
            for row in range(ROWS):
                size = tf.train.Feature(float_list=tf.train.FloatList(value=[float(row)]))
                features = tf.train.Features(feature={"size": size})
                writer.write(tf.train.Example(features=features).SerializeToString())
    examples.set_string_custom_property("data_digest", "hmac-sha256:9")
    graph, made = standard_artifacts.TransformGraph(), standard_artifacts.Examples()
    graph.uri, made.uri = str(folder / "graph"), str(folder / "made")
    context = base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=["--runner=DirectRunner"], tmp_dir=str(folder), unique_id="1"
    )
    Executor(context).Do(
        {"examples": [examples], "schema": [schema]},
        {"transform_graph": [graph], "transformed_examples": [made]},
        {
            "preprocessing_fn": f"{module}.preprocessing_fn",
            "custom_config": json.dumps({"forbid_analyzers": "yes" if private else ""}),
            "force_tf_compat_v1": 0,
            "disable_statistics": 1,
        },
    )
    assert made.get_string_custom_property("data_digest") == "hmac-sha256:9"  # features are of the same data
    found = []
    files = sorted((folder / "made" / "Split-train").glob("*.gz"))
    for record in tf.data.TFRecordDataset([str(file) for file in files], "GZIP"):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        found.append({name: feature.float_list.value[0] for name, feature in features.items()})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("private", [True, False])
def test_a_function_of_the_batch_is_one_of_the_row_in_a_private_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    module = f"mixing_{'private' if private else 'plain'}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = transformed(tmp_path, module, private=private)
    alone = [{"size": float(row), "place": 0.0} for row in range(ROWS)]
    assert (sorted(rows, key=lambda row: row["size"]) == alone) is private
    assert len(rows) == ROWS
