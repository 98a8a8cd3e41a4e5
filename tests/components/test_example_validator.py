"""Anomalies stop the run, in lines that a person can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx.types import artifact_utils, standard_artifacts

from privacy_pipeline.components.example_validator.executor import DataAnomaliesError, Executor

SCHEMA = """
feature {
  name: "colour" type: BYTES presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } }
  string_domain { value: "red" value: "green" }
}
feature {
  name: "size" type: INT presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } }
  int_domain { min: 0 max: 10 }
}
"""
GOOD = {"colour": ["red", "green", "red"], "size": [1, 2, 3]}


def statistics_of(rows: dict[str, list[Any]]) -> Any:
    if not rows:
        return statistics_pb2.DatasetFeatureStatisticsList(datasets=[{"num_examples": 0}])
    return tfdv.generate_statistics_from_dataframe(pd.DataFrame(rows), n_jobs=1)


def validate(folder: Path, **splits: dict[str, list[Any]]) -> None:
    schema, statistics, anomalies = (
        standard_artifacts.Schema(),
        standard_artifacts.ExampleStatistics(),
        standard_artifacts.ExampleAnomalies(),
    )
    for artifact in (schema, statistics, anomalies):
        artifact.uri = str(folder / artifact.type_name)
    statistics.split_names = artifact_utils.encode_split_names(sorted(splits))
    Path(schema.uri).mkdir()
    proto = text_format.Parse(SCHEMA, schema_pb2.Schema())
    Path(schema.uri, "schema.pbtxt").write_text(text_format.MessageToString(proto))
    for name, rows in splits.items():
        target = Path(statistics.uri, f"Split-{name}")
        target.mkdir(parents=True)
        (target / "FeatureStats.pb").write_bytes(statistics_of(rows).SerializeToString())
    Executor().Do(
        {"statistics": [statistics], "schema": [schema]},
        {"anomalies": [anomalies]},
        {"exclude_splits": json.dumps([]), "custom_validation_config": None},
    )


def test_data_that_keeps_the_schema_passes(tmp_path: Path) -> None:
    validate(tmp_path, train=GOOD, eval=GOOD)


def test_each_anomaly_is_a_line_that_names_split_column_and_value(tmp_path: Path) -> None:
    bad = {"colour": ["red", "mauve", "red"], "size": [1, 2, 11]}
    with pytest.raises(DataAnomaliesError, match="does not keep the schema") as caught:
        validate(tmp_path, train=GOOD, eval=bad)
    lines = caught.value.message.splitlines()[1:]
    assert len(lines) == 2
    assert lines[0].startswith("  eval split: colour: ") and "mauve" in lines[0]
    assert lines[1].startswith("  eval split: size: ") and "11" in lines[1]
    assert caught.value.exit_code == 2 and caught.value.fix


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataAnomaliesError, match="train split: size: "):
        validate(tmp_path, train={"colour": ["red"]}, eval=GOOD)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataAnomaliesError, match="eval split: no rows"):
        validate(tmp_path, train=GOOD, eval={})
