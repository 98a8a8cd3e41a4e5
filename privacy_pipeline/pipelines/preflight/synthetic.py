"""What a training audit trains: the config's own model, on rows drawn from the public schema. Reads no data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.backends import keras_io
from privacy_pipeline.backends.models import user_code
from privacy_pipeline.backends.models.tabular import InputSpec
from privacy_pipeline.components.transform.preprocessing import encode
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema.encoded import FEATURES, width_of
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks import registry as tasks

if TYPE_CHECKING:
    from privacy_pipeline.dp.attacks.audit import AuditedModel

_DTYPES = {"int": np.int64, "float": np.float32}


def draw(column: Column, count: int, *, random: np.random.Generator) -> Any:
    """Return values of a column as a raw tensor [count]: uniform over the public domain or range, else normal."""
    if column.kind == "categorical":
        chosen = random.integers(0, len(column.domain), count)
        if column.dtype == "bytes":
            return tf.constant([column.domain[place].encode() for place in chosen])
        return tf.constant(np.array([float(v) for v in column.domain])[chosen].astype(_DTYPES[column.dtype]))
    if column.minimum is None or column.maximum is None:
        values = random.normal(size=count)
    else:
        values = random.uniform(column.minimum, column.maximum, count)
    return tf.constant(values.astype(_DTYPES[column.dtype]))


def audited_model(config: PipelineConfig, features: FeaturePlan) -> AuditedModel:
    """Return the config's model, optimizer and loss, over rows that the framework's preprocessing makes of made-up
    columns.

    Raises:
        BadInputError: the config has its own preprocessing, whose inputs cannot be made up here.
    """
    from privacy_pipeline.dp.attacks.audit import AuditedModel

    if user_code.preprocessing_of(config.model.use) != user_code.FRAMEWORK_PREPROCESSING:
        raise BadInputError(
            "a training audit makes up rows for the framework's preprocessing only, not for yours",
            fix="audit the mechanism alone: --mechanism",
        )
    specs = {FEATURES: InputSpec(shape=(sum(map(width_of, features.columns)),), dtype="float32")}
    random = np.random.default_rng()

    def rows(count: int) -> dict[str, Any]:
        encoded = [encode(column, draw(column, count, random=random)) for column in features.columns]
        return {FEATURES: tf.concat(encoded, axis=1).numpy()}

    return AuditedModel(
        build=lambda: keras_io.model_of(config, features=features, specs=specs, trained=True),
        optimizer=lambda: keras_io.make_optimizer(config.training),
        loss=tasks.of(features).row_losses,
        rows=rows,
    )


def most_canaries(asked: int, units: int | None) -> int:
    """Return the number of canaries of a training audit: at most half of the units, to keep them a part of the data."""
    return asked if units is None else max(2, min(asked, math.floor(units / 2)))
