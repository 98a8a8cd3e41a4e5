"""A small split that went through a real tf.Transform run, once for all tests of this folder."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils

from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.backends.base import TrainingInputs
from privacy_pipeline.components.transform.preprocessing import preprocessing_fn
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema.features import Column, FeaturePlan

ROWS = 600

PLAN = FeaturePlan(
    columns=(
        Column(name="colour", kind="categorical", dtype="bytes", domain=("red", "green", "blue")),
        Column(name="size", kind="numeric", dtype="float", minimum=0.0, maximum=10.0, optional=True),
    ),
    label="bought",
    label_domain=("yes", "no"),
    label_dtype="bytes",
    positive_class="yes",
    unit_key="person",
    unit_key_dtype="bytes",
    silo="colour",
)

RAW_SPEC = {
    "colour": tf.io.FixedLenFeature([], tf.string),
    "size": tf.io.VarLenFeature(tf.float32),
    "unused": tf.io.FixedLenFeature([], tf.int64),
    "bought": tf.io.FixedLenFeature([], tf.string),
    "person": tf.io.FixedLenFeature([], tf.string),
}


@dataclass(frozen=True)
class Split:
    """Transformed examples on disk, the raw rows they were made of, and what tests make of them."""

    files: tuple[str, ...]
    transform_graph: Path
    raw: list[dict[str, Any]]
    features: FeaturePlan = PLAN

    def config(self, **training: Any) -> PipelineConfig:
        """A config for these rows; `model` and `dataset` go to their sections, the rest to training."""
        return make_config(**training)

    def inputs(
        self, config: PipelineConfig, folder: Path, *, plan: MechanismPlan | None, **changed: Any
    ) -> TrainingInputs:
        """What a backend trains on: these rows, watched too; all that it writes goes below a folder."""
        given: dict[str, Any] = {
            "train_files": self.files,
            "eval_files": self.files,
            "transform_graph": self.transform_graph,
            "features": self.features,
            "config": config,
            "plan": plan,
            "work_dir": folder / "work",
            "model_dir": folder / "model",
            "log_dir": folder / "logs",
            "report_progress": lambda done, total, unit: None,
        }
        return TrainingInputs(**(given | changed))

    def serialized(self, *, without: tuple[str, ...] = ()) -> tf.Tensor:
        """The raw rows as serialized tf.Examples, string, [rows]."""
        return tf.constant([serialized(row, without=without) for row in self.raw])

    def write(self, path: Path, transformed: list[dict[str, Any]]) -> None:
        """Writes transformed rows as gzipped TFRecord."""
        write_transformed(path, transformed)


def raw_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows whose label a small model can learn: red or large things are bought."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        colour = random.choice(["red", "green", "blue"])
        size = float(random.uniform(0, 10))
        rows.append(
            {
                "colour": colour.encode(),
                "size": None if number % 10 == 0 else size,
                "unused": number,
                "bought": b"yes" if colour == "red" or size > 7 else b"no",
                "person": f"p{number}".encode(),
            }
        )
    return rows


def silo_sizes() -> dict[str, int]:
    """Rows of each silo of the split."""
    return dict(Counter(row["colour"].decode() for row in raw_rows(ROWS)))


def serialized(row: dict[str, Any], *, without: tuple[str, ...] = ()) -> bytes:
    """A raw row as a serialized tf.Example."""
    example = tf.train.Example()
    for name, value in row.items():
        if value is None or name in without:
            continue
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    return example.SerializeToString()


def write_transformed(path: Path, transformed: list[dict[str, Any]]) -> None:
    """Writes rows of tf.Transform's dict form as gzipped TFRecord."""
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for row in transformed:
            example = tf.train.Example()
            for name, value in row.items():
                array = np.atleast_1d(np.asarray(value))
                feature = example.features.feature[name]
                if array.dtype.kind == "f":
                    feature.float_list.value.extend(array.tolist())
                elif array.dtype.kind == "i":
                    feature.int64_list.value.extend(array.tolist())
                else:
                    feature.bytes_list.value.extend(array.tolist())
            writer.write(example.SerializeToString())


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """600 rows of `PLAN`, transformed."""
    return make_split(tmp_path_factory.mktemp("split"), plan=PLAN, raw=raw_rows(ROWS), spec=RAW_SPEC)


def make_split(folder: Path, *, plan: FeaturePlan, raw: list[dict[str, Any]], spec: dict[str, Any]) -> Split:
    """Rows of a plan, transformed."""
    graph = folder / "transform_graph"
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))

    def transform(inputs: dict[str, Any]) -> dict[str, Any]:
        return preprocessing_fn(inputs, {"feature_plan": plan.model_dump_json()})

    with tft_beam.Context(temp_dir=str(folder / "tmp"), force_tf_compat_v1=False):
        (transformed, _), transform_fn = (raw, metadata) | tft_beam.AnalyzeAndTransformDataset(transform)
        _ = transform_fn | tft_beam.WriteTransformFn(str(graph))
    # TFX's Transform writes the raw schema beside the graph; a bare tf.Transform run does not.
    metadata_io.write_metadata(metadata, str(graph / tft.TFTransformOutput.RAW_METADATA_DIR))
    path = folder / "train-00000-of-00001.gz"
    write_transformed(path, transformed)
    return Split(files=(str(path),), transform_graph=graph, raw=raw, features=plan)


def make_config(**training: Any) -> PipelineConfig:
    """A config for `PLAN`; keywords go to the training section, `model`, `dataset` and `thresholds` to theirs."""
    model = training.pop("model", {"use": "tabular", "hidden_units": [8]})
    dataset = training.pop("dataset", {})
    thresholds = training.pop("thresholds", {"accuracy": {"min": 0.5}})
    return PipelineConfig.model_validate(
        {
            "pipeline": "test",
            "dataset": {
                "name": "things",
                "path": "data/things",
                "schema": "schemas/things.pbtxt",
                "label": "bought",
                "positive_class": "yes",
                **dataset,
            },
            "model": json.loads(json.dumps(model)),
            "training": {"backend": "plain", "epochs": 2, "batch_size": 64, "learning_rate": 0.01, **training},
            "evaluation": {"thresholds": thresholds},
        }
    )
