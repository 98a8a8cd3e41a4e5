"""Rows of the train split as a release counts them: unit, and values of the columns. TensorFlow and Beam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apache_beam as beam
import tensorflow as tf

from privacy_pipeline.components.noisy_answers import value_of
from privacy_pipeline.releases.queries import Row, text_of


class RawRows(beam.DoFn):
    """Files of raw tf.Examples to pairs of (unit, row).

    Args:
        columns: columns that are asked for; no other is read.
        unit_key: column that names the privacy unit; None where it is the row.
    """

    def __init__(self, *, columns: Sequence[str], unit_key: str | None) -> None:
        self._columns = tuple(columns)
        self._unit_key = unit_key

    def process(self, element: str) -> Iterator[tuple[str | None, Row]]:
        """Read one file."""
        for record in tf.data.TFRecordDataset(element, compression_type="GZIP").as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            row: Row = {column: value_of(features, column) for column in self._columns}
            yield None if self._unit_key is None else text_of(value_of(features, self._unit_key)), row
