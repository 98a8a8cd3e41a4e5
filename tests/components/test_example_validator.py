"""Anomalies stop the run, in lines that a person can read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx.types import artifact_utils, standard_artifacts

from privacy_pipeline.components.example_validator.executor import DataAnomaliesError, Executor

SCHEMA = """
feature {
  name: "colour" type: BYTES presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } }
  string_domain { value: "red" value: "green" }
}
feature {
  name: "weight" type: FLOAT presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } }
  float_domain { min: 0 max: 10 }
}
feature { name: "height" type: FLOAT }
feature {
  name: "size" type: INT presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } }
  int_domain { min: 0 max: 10 }
}
"""
GOOD = {"colour": ["red", "green", "red"], "size": [1, 2, 3], "weight": [0.5, 1.5, 2.5], "height": [0.5, 1.5, 2.5]}
NAN, INFINITE = math.nan, math.inf


def example_statistics(rows: dict[str, list[Any]]) -> Any:
    """As StatisticsGen has them: a NaN in an Example is a value."""
    arrays = [pa.array([[value] for value in values]) for values in rows.values()]
    return stats_impl.generate_statistics_in_memory(pa.RecordBatch.from_arrays(arrays, list(rows)), tfdv.StatsOptions())


def statistics_of(rows: dict[str, list[Any]]) -> Any:
    if not rows:
        return statistics_pb2.DatasetFeatureStatisticsList(datasets=[{"num_examples": 0}])
    return example_statistics(rows)


def validate(folder: Path, *, inferred: int = 0, **splits: dict[str, list[Any]]) -> dict[str, list[str]]:
    """Return the columns of the anomalies that were written, by split."""
    schema, statistics, anomalies = (
        standard_artifacts.Schema(),
        standard_artifacts.ExampleStatistics(),
        standard_artifacts.ExampleAnomalies(),
    )
    folder.mkdir(exist_ok=True)
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
        {"exclude_splits": json.dumps([]), "custom_validation_config": None, "inferred": inferred},
    )
    written = {}
    for name in splits:
        found = anomalies_pb2.Anomalies.FromString(Path(anomalies.uri, f"Split-{name}", "SchemaDiff.pb").read_bytes())
        written[name] = sorted(found.anomaly_info)
    return written


def test_data_that_keeps_the_schema_passes(tmp_path: Path) -> None:
    assert validate(tmp_path, train=GOOD, eval=GOOD) == {"train": [], "eval": []}


def test_each_anomaly_is_a_line_that_names_split_column_and_value(tmp_path: Path) -> None:
    bad = {**GOOD, "colour": ["red", "mauve", "red"], "size": [1, 2, 11]}
    with pytest.raises(DataAnomaliesError, match="does not keep the schema") as caught:
        validate(tmp_path, train=GOOD, eval=bad)
    lines = caught.value.message.splitlines()[1:]
    assert len(lines) == 2
    assert lines[0].startswith("  eval split: colour: ") and "mauve" in lines[0]
    assert lines[1].startswith("  eval split: size: ") and "11" in lines[1]
    assert caught.value.exit_code == 2 and caught.value.fix


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataAnomaliesError, match="train split: size: "):
        validate(tmp_path, train={name: values for name, values in GOOD.items() if name != "size"}, eval=GOOD)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataAnomaliesError, match="eval split: no rows"):
        validate(tmp_path, train=GOOD, eval={})


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("weight", [0.5, NAN, 2.5], "weight: NaN is a missing value, and stands in 1 of 3 rows"),
        ("weight", [NAN, NAN, NAN], "weight: NaN is a missing value, and stands in 3 of 3 rows"),
        ("height", [0.5, INFINITE, 2.5], "height: a number is infinite"),
        ("height", [0.5, -INFINITE, 2.5], "height: a number is infinite"),
    ],
)
def test_nan_is_missing_and_infinity_is_invalid(tmp_path: Path, column: str, values: list[float], says: str) -> None:
    with pytest.raises(DataAnomaliesError) as caught:
        validate(tmp_path, train=GOOD, eval={**GOOD, column: values})
    assert [line for line in caught.value.message.splitlines() if line.startswith(f"  eval split: {says}")]


def test_nan_passes_where_a_value_may_be_missing(tmp_path: Path) -> None:
    assert validate(tmp_path / "a", train={**GOOD, "height": [0.5, NAN, 2.5]}) == {"train": []}
    assert validate(tmp_path / "b", inferred=1, train={**GOOD, "weight": [0.5, NAN, 2.5]}) == {"train": []}
