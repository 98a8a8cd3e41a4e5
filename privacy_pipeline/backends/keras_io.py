"""What the Keras backends share: reading transformed rows, building, checking and saving a model, progress."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from numpy.typing import NDArray

from privacy_pipeline.backends.base import ReportProgress, TrainingInputs
from privacy_pipeline.backends.isolated import apart
from privacy_pipeline.backends.models import tabular, user_code
from privacy_pipeline.backends.models.tabular import InputSpec, ModelContext
from privacy_pipeline.backends.models.usable import require_usable
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.config.models.training import TrainingSection
from privacy_pipeline.data.schema.features import LABEL_FEATURE, RESERVED, SILO_FEATURE, UNIT_KEY_FEATURE
from privacy_pipeline.dp.graphs.tracing import as_it_is
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.tasks import registry as tasks

if TYPE_CHECKING:
    from privacy_pipeline.data.schema.features import FeaturePlan

_MEANINGS = {
    LABEL_FEATURE: "1 for the positive class and 0 for any other; the class's place in the label's domain; or a number "
    "in 0 to 1, by the label's range",
    UNIT_KEY_FEATURE: "the column that dataset.privacy_unit names, as it is",
    SILO_FEATURE: "the column that training.federated.silo_privacy names, as it is",
}
_PARSED_AT_ONCE = 4096  # rows; one parse_example call for each row costs 20 times as much
_SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one split, in memory.

    Attributes:
        inputs: the model's inputs by name, each [rows, ...].
        labels: of each row: 1 for the positive class and 0 for any other, the place of its class, or a number scaled to
            0 to 1; float32, [rows, 1].
    """

    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: NDArray[np.int64]) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        """Return inputs and labels of the rows at `index`, in that order."""
        return {name: values[index] for name, values in self.inputs.items()}, self.labels[index]


class Progress:
    """Passes steps on to `report_progress`, at most twice a second and at the end."""

    def __init__(self, report: ReportProgress, *, total: int) -> None:
        self._report = report
        self._total = total
        self._reported = 0.0

    def step(self, done: int) -> None:
        """Report that `done` steps are done in all."""
        now = time.monotonic()
        if done == self._total or now - self._reported >= _SECONDS_BETWEEN_REPORTS:
            self._reported = now
            self._report(done, self._total, "steps")


def input_specs(transform_graph: Path) -> dict[str, InputSpec]:
    """Return the transformed features that may enter the model, by name.

    Raises:
        BadInputError: one of them is not dense.
    """
    spec = tft.TFTransformOutput(str(transform_graph)).transformed_feature_spec()
    chosen = {name: feature for name, feature in spec.items() if name not in RESERVED}
    for name, feature in chosen.items():
        if not isinstance(feature, tf.io.FixedLenFeature):
            raise BadInputError(
                f"model: preprocessing_fn makes feature '{name}' sparse, and models take dense features",
                fix="give it a fixed shape, for example with tf.sparse.to_dense",
            )
    return {name: InputSpec(shape=tuple(f.shape), dtype=f.dtype.name) for name, f in chosen.items()}


def read_rows(patterns: Sequence[str], *, transform_graph: Path, classes: int) -> Rows:
    """Read a split of transformed examples.

    The privacy unit's key is not even parsed, so that it cannot enter a model.

    Args:
        patterns: gzipped TFRecord files, or globs of such.
        transform_graph: the tf.Transform output that made them.
        classes: labels are whole numbers from 0 to below it; 0 where they are numbers from 0 to 1.

    Raises:
        BadInputError: no row, no label, or a label outside the public domain.
    """
    parts = list(parsed(patterns, transform_graph=transform_graph))
    if not parts:
        raise no_rows()
    labels = np.concatenate([labels_of(part, classes=classes) for part in parts])
    names = [name for name in parts[0] if name != LABEL_FEATURE]
    return Rows(inputs={name: np.concatenate([part[name] for part in parts]) for name in names}, labels=labels)


def no_rows() -> BadInputError:
    """Return the refusal of an empty split."""
    return BadInputError(
        "dataset.input: the split has no rows", fix="check the pattern of the split and the files it matches"
    )


def files_of(patterns: Sequence[str]) -> list[str]:
    """Return the files of a split, in a fixed order."""
    return sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))


def parsed(
    patterns: Sequence[str], *, transform_graph: Path, with_key: bool = False, with_silo: bool = False
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the rows of a split, some thousand at a time, by feature: each [rows, ...], always in the same order.

    Args:
        patterns: gzipped TFRecord files, or globs of such.
        transform_graph: the tf.Transform output that made them.
        with_key: parse the privacy unit's key too.
        with_silo: parse the name of the row's silo too.

    Raises:
        BadInputError: `preprocessing_fn` makes no label, or no key or silo where one is wanted.
    """
    spec = dict(tft.TFTransformOutput(str(transform_graph)).transformed_feature_spec())
    wanted = {LABEL_FEATURE: True, UNIT_KEY_FEATURE: with_key, SILO_FEATURE: with_silo}
    for name, asked in wanted.items():
        if not asked:
            spec.pop(name, None)
        elif name not in spec:
            raise BadInputError(
                f"model: preprocessing_fn makes no feature '{name}'", fix=f"output '{name}': {_MEANINGS[name]}"
            )
    files = files_of(patterns)
    if not files:
        return
    records = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(_PARSED_AT_ONCE)
    batches = records.map(lambda batch: tf.io.parse_example(batch, spec), num_parallel_calls=tf.data.AUTOTUNE)
    yield from batches.prefetch(1).as_numpy_iterator()


def labels_of(part: Mapping[str, NDArray[Any]], *, classes: int) -> NDArray[np.float32]:
    """Return the labels of parsed rows, float32, [rows, 1].

    Raises:
        BadInputError: one is outside the public domain.
    """
    labels = part[LABEL_FEATURE].reshape(-1, 1).astype(np.float32)
    where = "domain" if classes else "range"
    inside = np.isin(labels, np.arange(classes)) if classes else (labels >= 0) & (labels <= 1)
    if not inside.all():
        raise BadInputError(
            f"dataset.label: some rows have no label, or one outside the {where} that the schema gives",
            fix=f"correct those rows, or the label's {where} in the schema",
        )
    return labels


def build_model(inputs: TrainingInputs, *, trained: bool = True) -> Any:
    """Return the uncompiled Keras model of the config, checked against what a backend expects.

    Args:
        inputs: what it will be trained on.
        trained: whether it is trained after; no two trainings begin with the same draw of weights.

    Raises:
        BadInputError: `build_model` does not return a functional Keras model with one logit as output, or it cannot be
            built apart from the data.
    """
    specs = input_specs(inputs.transform_graph)
    return model_of(inputs.config, features=inputs.features, specs=specs, trained=trained)


def model_of(
    config: PipelineConfig, *, features: FeaturePlan, specs: Mapping[str, InputSpec], trained: bool = False
) -> Any:
    """Return the model of `build_model`, where the transformed features are known without a transform graph.

    Args:
        config: the whole config.
        features: the columns and their public domains.
        specs: the transformed features that may enter the model, by name.
        trained: whether it is trained after; no two trainings begin with the same draw of weights.

    Raises:
        BadInputError: as `build_model`.
    """
    section = config.model
    context = ModelContext(
        features=features,
        inputs=specs,
        hidden_units=tuple(section.hidden_units),
        dropout=section.dropout,
        params=section.params,
    )
    if user_code.BUILD not in user_code.defined_by(section.use):
        model = tabular.build_model(context)
    elif section.runs_beside_data:
        model = user_code.resolve(section.use).build_model(context)
    else:
        model = apart.model(config, context, trained=trained)
    require_usable(
        model, use=section.use, inputs=context.inputs, task=tasks.of(config.dataset), classes=features.classes
    )
    return model


def batch_specs(model: Any, specs: Mapping[str, InputSpec]) -> tuple[dict[str, Any], Any]:
    """Return a batch's `tf.TensorSpec`: the model's inputs by name, and the labels as `read_examples` gives them."""
    inputs = {name: tf.TensorSpec([None, *specs[name].shape], specs[name].dtype) for name in model.input_names}
    return inputs, tf.TensorSpec([None, 1], tf.float32)


def make_optimizer(training: TrainingSection) -> Any:
    """Return the optimizer that the config names."""
    make = {"adam": tf.keras.optimizers.Adam, "sgd": tf.keras.optimizers.SGD}[training.optimizer]
    return make(learning_rate=training.learning_rate)


def summary_writer(log_dir: Path | None) -> Any:
    """Return TensorBoard's writer of the training; one that writes nothing where no curve may be kept."""
    return tf.summary.create_noop_writer() if log_dir is None else tf.summary.create_file_writer(str(log_dir / "train"))


class TrainingDiverged(PipelineError):  # noqa: N818
    """A weight is not a number any more."""


def require_finite_weights(model: Any, *, epoch: int) -> None:
    """Stop a training that diverged.

    Raises:
        TrainingDiverged: a weight is not a number.
    """
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise TrainingDiverged(f"training diverged in epoch {epoch}", fix="lower training.learning_rate")


def save_model(model: Any, *, transform_graph: Path, features: FeaturePlan, model_dir: Path) -> None:
    """Write a SavedModel that takes raw serialized tf.Examples.

    Signatures: `serving_default` gives what the task serves; `transform_features` gives every transformed feature, the
    label included (for an example without one -1, or NaN where it is a number). No label and no key of a privacy unit
    is part of what `serving_default` parses.

    Args:
        model: trained Keras model of the task.
        transform_graph: the tf.Transform output that made its inputs.
        features: the columns that a raw example has.
        model_dir: where the SavedModel goes.
    """
    output = tft.TFTransformOutput(str(transform_graph))
    model.transform_layer = output.transform_features_layer()  # tracked: its tables and assets are saved along
    raw = output.raw_feature_spec()
    columns = {column.name: raw[column.name] for column in features.columns}
    labelled = {**columns, features.label: _optional(raw[features.label])}
    if features.unit_key is not None:
        labelled[features.unit_key] = _optional(raw[features.unit_key])

    def serve(examples: Any) -> dict[str, Any]:
        transformed = model.transform_layer(tf.io.parse_example(examples, columns))
        outputs = model({name: transformed[name] for name in model.input_names}, training=False)
        return tasks.of(features).served(outputs, label=features)

    def transform(examples: Any) -> dict[str, Any]:
        return dict(model.transform_layer(tf.io.parse_example(examples, labelled)))

    examples_spec = [tf.TensorSpec([None], tf.string, name="examples")]
    signatures = {
        "serving_default": tf.function(as_it_is(serve), input_signature=examples_spec, autograph=False),
        "transform_features": tf.function(as_it_is(transform), input_signature=examples_spec, autograph=False),
    }
    model.save(str(model_dir), save_format="tf", include_optimizer=False, signatures=signatures)


def _optional(feature: Any) -> Any:
    """Return a feature that an example may lack; the default is what preprocessing takes for missing."""
    if not isinstance(feature, tf.io.FixedLenFeature):
        return feature
    default: Any = b"" if feature.dtype == tf.string else float("nan")
    if feature.dtype.is_integer:
        default = feature.dtype.min
    return tf.io.FixedLenFeature(feature.shape, feature.dtype, default_value=np.full(feature.shape, default).tolist())
