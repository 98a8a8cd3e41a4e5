"""A client's CSV file as the model's inputs, by the published transform. TensorFlow is imported on use."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.data.counting import cells
from privacy_pipeline.data.counting.survey import judged
from privacy_pipeline.data.reading.csv_rows import read_header
from privacy_pipeline.data.reading.csv_rows import rows as csv_rows
from privacy_pipeline.data.reading.csv_table import batches
from privacy_pipeline.data.reading.headers import check_header
from privacy_pipeline.data.schema.encoder import Texts
from privacy_pipeline.data.schema.features import Column
from privacy_pipeline.encrypted.model import published_graph
from privacy_pipeline.encrypted.model.inputs import encode_inputs
from privacy_pipeline.encrypted.model.published import Published
from privacy_pipeline.errors import BadInputError, PipelineError

_AT_ONCE = 4096  # rows
_PARSERS: dict[str, Any] = {"int": int, "float": float, "bytes": str.encode}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A file whose rows the model's columns allow.

    Attributes:
        file: where it is.
        raw: cells by column, each one a row.
        rows: how many.
    """

    file: Path
    raw: dict[str, list[str]]
    rows: int

    @cached_property
    def lines(self) -> Sequence[int]:
        """Line of the file that each row starts on, for messages: reads it once more."""
        return [row.line for row in csv_rows(file=self.file)]


def check(*, file: Path, published: Published) -> Checked:
    """Read and check a file, without TensorFlow.

    Args:
        file: CSV with a header; columns that are not inputs of the model (the label, for example) are not read.
        published: the model's public side.

    Raises:
        BadInputError: a column is missing, a row is broken, or a value is one that the columns do not allow; names
            file, line and column.
    """
    columns = published.features.columns
    header = read_header(file=file)
    check_header(file=file, header=header, wanted=dict.fromkeys((c.name for c in columns), "the model needs it"))
    raw: dict[str, list[str]] = {column.name: [] for column in columns}
    rows = 0
    for read in batches(file=file, columns=list(raw)):
        rows += read.num_rows
        for column in columns:
            texts = read.column(column.name)
            if judged(column, Texts.of(texts))[1].any():
                raise _refused(file, columns)
            raw[column.name] += texts.to_pylist()
    if not rows:
        raise BadInputError(f"{file}: has no rows after the header", fix="add rows")
    return Checked(file=file, raw=raw, rows=rows)


def _refused(file: Path, columns: Sequence[Column]) -> Exception:
    bad = next(cells.bad_inputs(file=file, columns=columns), None)
    if bad is None:
        return PipelineError(f"{file}: two readings of one file differ; nothing was sent")
    where = f"{file}:{bad.line}: " + (f"column '{bad.column}': " if bad.column else "")
    return BadInputError(f"{where}{bad.why}", fix="correct the row, or leave it out")


def transform(checked: Checked, *, published: Published) -> dict[str, NDArray[np.float64]]:
    """Return the model's inputs of these rows, by the published transform. Nothing of them leaves this process.

    Args:
        checked: of `check`.
        published: the model's public side.

    Returns:
        By name, each [rows, *shares.encoded_shape(input)].

    Raises:
        BadInputError: a value is beyond the fixed-point range; names file, line and input. Or the published transform
            does more than to compute.
    """
    rows, columns = checked.rows, published.features.columns
    with published_graph.computing_copy(published.transform) as graph:
        transformed = _transformed(checked.raw, columns, graph, rows=rows)
    return encode_inputs(
        published.model, transformed, rows=rows, where=lambda index: f"{checked.file}:{checked.lines[index]}"
    )


def _transformed(
    raw: dict[str, list[str]], columns: Sequence[Column], transform: Path, *, rows: int
) -> dict[str, NDArray[Any]]:
    tft = _tensorflow_transform()
    output = tft.TFTransformOutput(str(transform))
    layer, spec = output.transform_features_layer(), output.raw_feature_spec()
    parts: dict[str, list[NDArray[Any]]] = {}
    for start in range(0, rows, _AT_ONCE):
        given = {
            column.name: _tensor(raw[column.name][start : start + _AT_ONCE], column, spec[column.name])
            for column in columns
        }
        for name, value in layer(given).items():
            parts.setdefault(name, []).append(value.numpy())
    return {name: np.concatenate(found) for name, found in parts.items()}


def _tensorflow_transform() -> Any:
    """Return the module; its start-up notes, which are not results, are not printed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_transform

    return tensorflow_transform


def _tensor(values: list[str], column: Column, feature: Any) -> Any:
    """Return the tensor that TFX's CsvExampleGen and parse_example make of the cells; an empty cell has no value."""
    import tensorflow as tf

    parse = _PARSERS[column.dtype]
    present = [index for index, value in enumerate(values) if value]
    parsed = [parse(values[index]) for index in present]
    if isinstance(feature, tf.io.FixedLenFeature):
        return tf.reshape(tf.constant(parsed, feature.dtype), [len(values), *feature.shape])
    indices = np.array([(index, 0) for index in present], np.int64).reshape(-1, 2)
    return tf.SparseTensor(indices, tf.constant(parsed, feature.dtype), [len(values), 1])
