"""Rows of the eval split as a release counts them: unit, slices, label and prediction. TensorFlow and Beam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import tensorflow as tf

from privacy_pipeline.components.noisy_answers import value_of
from privacy_pipeline.data.schema.features import LABEL_FEATURE
from privacy_pipeline.releases.evaluation import counted_row
from privacy_pipeline.releases.queries import Row, text_of
from privacy_pipeline.releases.single_rows import AT_ONCE, SingleRows

BATCH = AT_ONCE


class PredictedRows(beam.DoFn):
    """Files of raw tf.Examples to pairs of (unit, row).

    Each row is predicted alone (`releases.single_rows`): what is counted of it is a function of its own record.

    Args:
        model_dir: SavedModel with the signatures `serving_default` and `transform_features`.
        columns: columns to slice by.
        unit_key: column that names the privacy unit; None where it is the row.
        decision_threshold: probability above which a row counts as predicted positive.
        batch: rows that are read and handed over together; no prediction depends on it.
    """

    def __init__(
        self,
        *,
        model_dir: str,
        columns: Sequence[str],
        unit_key: str | None,
        decision_threshold: float,
        batch: int = BATCH,
    ) -> None:
        self._model_dir = model_dir
        self._columns = tuple(columns)
        self._unit_key = unit_key
        self._decision_threshold = decision_threshold
        self._batch = batch
        self._model: Any = None
        self._values_of: Any = None

    def check(self) -> None:
        """Load the model and forget it again, so that it is refused before any budget is reserved.

        Raises:
            BadInputError: the model keeps, draws or prints something where it predicts.
        """
        self.setup()
        self.teardown()

    def setup(self) -> None:
        """Load the model.

        Raises:
            BadInputError: the model keeps, draws or prints something where it predicts.
        """
        self._model = tf.saved_model.load(self._model_dir)
        signatures = self._model.signatures

        def values(records: Any) -> dict[str, Any]:
            probability = signatures["serving_default"](records)["probability"]
            return {"probability": probability, "label": signatures["transform_features"](records)[LABEL_FEATURE]}

        records = tf.TensorSpec([None], tf.string)
        self._values_of = SingleRows(values, records, what="the model")

    def teardown(self) -> None:
        """Forget the model."""
        self._model = self._values_of = None

    def process(self, element: str) -> Iterator[tuple[str | None, Row]]:
        """Read and predict one file."""
        for records in tf.data.TFRecordDataset(element, compression_type="GZIP").batch(self._batch):
            found = self._values_of(records)
            for record, label, probability in zip(records.numpy(), found["label"], found["probability"], strict=True):
                yield self._pair(record, int(label), float(probability))

    def _pair(self, record: bytes, label: int, probability: float) -> tuple[str | None, Row]:
        features = tf.train.Example.FromString(record).features.feature
        row = counted_row(
            label=label,
            probability=probability,
            decision_threshold=self._decision_threshold,
            slices={column: value_of(features, column) for column in self._columns},
        )
        return None if self._unit_key is None else text_of(value_of(features, self._unit_key)), row
