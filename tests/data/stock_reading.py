"""TFX's own reading of a CSV file, by the functions that ExampleGen, StatisticsGen and ExampleValidator run on Beam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.example_gen.csv_example_gen import executor
from tfx_bsl.coders import csv_decoder

from privacy_pipeline.components.example_validator.executor import no_numbers

_ARROW = {
    "int": pa.large_list(pa.int64()),
    "float": pa.large_list(pa.float32()),
    "bytes": pa.large_list(pa.large_binary()),
}


def examples_of(file: Path) -> dict[str, list[list[Any]]]:
    """Values of each Example by column."""
    names = file.read_text(encoding="utf-8", errors="strict").split("\n", 1)[0].strip().split(",")
    parser = csv_decoder.ParseCSVLine(delimiter=",")
    parser.setup()
    records = list(executor._ReadCsvRecordsFromTextFile().process(str(file)))
    parsed = [cells for record in records for cells, _ in parser.process(record)]
    inferrer = csv_decoder.ColumnTypeInferrer(names, skip_blank_lines=True)
    found = inferrer.create_accumulator()
    for cells in parsed:
        found = inferrer.add_input(found, cells)
    infos = inferrer.extract_output(found)
    maker, table = executor._ParsedCsvToTfExample(), {name: [] for name in names}
    for cells in parsed:
        for example in maker.process(cells, infos):
            for name in names:
                table[name].append(_values(example.features.feature[name]))
    return table


def _values(feature: Any) -> list[Any]:
    if feature.HasField("bytes_list"):
        return [value.decode() for value in feature.bytes_list.value]
    return list(feature.int64_list.value if feature.HasField("int64_list") else feature.float_list.value)


def refused_by_validation(table: dict[str, list[list[Any]]], schema: schema_pb2.Schema) -> str:
    """What ExampleValidator would say first; "" where it takes the rows."""
    arrays, names = [], []
    for name, rows in table.items():
        first = next((row[0] for row in rows if row), None)
        kind = "bytes" if isinstance(first, str) else "int" if isinstance(first, int) else "float"
        encoded = [[v.encode() if isinstance(v, str) else v for v in row] or None for row in rows]
        arrays.append(pa.nulls(len(rows)) if first is None else pa.array(encoded, _ARROW[kind]))
        names.append(name)
    statistics = stats_impl.generate_statistics_in_memory(
        pa.RecordBatch.from_arrays(arrays, names), tfdv.StatsOptions()
    )
    anomalies = tfdv.validate_statistics(statistics, schema)
    for name, info in anomalies.anomaly_info.items():
        return f"{name}: {info.reason[0].description}"
    return next(iter(no_numbers(statistics.datasets[0], schema, inferred=False)), "")
