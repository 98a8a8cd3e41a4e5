"""The counts that a dataset is registered with are those of a real ExampleGen run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tfx.orchestration import metadata
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.pipeline import Pipeline

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import private_copy, source
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.graph.build import example_gen
from privacy_pipeline.pipelines.graph.example_files import as_copied
from privacy_pipeline.pipelines.registration.register import register_dataset
from tests.pipelines.projects import HASHED, KEYED, ROWS, write_project


def run_example_gen(config: PipelineConfig, root: Path, folder: Path) -> dict[str, list[Any]]:
    """The examples of each split, as TFX writes them of a private copy."""
    LocalDagRunner().run(
        Pipeline(
            pipeline_name="count",
            pipeline_root=str(root / "out"),
            components=[example_gen(as_copied(config.dataset, folder=folder), digest="d1")],
            metadata_connection_config=metadata.sqlite_metadata_connection_config(str(root / "m.db")),
        )
    )
    found: dict[str, list[Any]] = {}
    for folder in (root / "out" / "ExampleGen" / "examples").glob("*/Split-*"):
        files = [str(path) for path in folder.iterdir()]
        records = tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator()
        found[folder.name.removeprefix("Split-")] = [tf.train.Example.FromString(record) for record in records]
    return found


@pytest.mark.parametrize("unit", [pytest.param({}, id="row", marks=pytest.mark.slow), pytest.param(KEYED, id="person")])
def test_registered_counts_are_those_of_example_gen(unit: dict[str, Any], tmp_path: Path) -> None:
    config = write_project(tmp_path, dataset={**HASHED, **unit})
    with private_copy.taken(source.resolve(dataset=config.dataset), below=tmp_path / "copies") as copy:
        written = run_example_gen(config, tmp_path, copy.folder)
    assert sum(map(len, written.values())) == ROWS and all(written.values())
    registered = register_dataset(config=config, epsilon=1.0, delta=1e-5).splits
    assert {name: count.rows for name, count in registered.items()} == {n: len(rows) for n, rows in written.items()}
    people = {
        name: {row.features.feature["person"].int64_list.value[0] for row in rows} for name, rows in written.items()
    }
    if unit:
        assert {name: count.units for name, count in registered.items()} == {n: len(p) for n, p in people.items()}
        assert not people["train"] & people["eval"]
    else:
        assert all(count.units == count.rows for count in registered.values())


@pytest.mark.slow  # counting by row imports TFX in a process of its own
def test_a_split_that_would_be_empty_is_refused(tmp_path: Path) -> None:
    config = write_project(tmp_path, dataset={"input": "all/*.csv", "hash_split": {"train": 100_000_000, "eval": 1}})
    with pytest.raises(BadInputError, match="split eval would be empty"):
        register_dataset(config=config, epsilon=1.0, delta=1e-5)
