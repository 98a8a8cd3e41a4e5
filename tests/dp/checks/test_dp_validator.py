"""The validator and the check on made-up inputs: what they refuse, whom they name, and what they mend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp.checks.probe import Probe
from privacy_pipeline.dp.checks.validator import require_private, validate
from privacy_pipeline.dp.training.from_keras.model_losses import per_example_loss
from privacy_pipeline.errors import BadInputError

L = tf.keras.layers


def model(*layers: Any, shape: tuple[int, ...] = (4,)) -> Any:
    return tf.keras.Sequential([L.Input(shape), *layers, L.Flatten(), L.Dense(1)])


class Counter(L.Layer):
    """Writes what it saw into a variable."""

    def build(self, shape: Any) -> None:
        self.seen = self.add_weight("seen", shape=[], trainable=False, initializer="zeros")

    def call(self, inputs: Any) -> Any:
        self.seen.assign_add(tf.reduce_sum(inputs))
        return inputs


class Adding(L.Layer):
    """Adds a loss in `call`."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(tf.reduce_mean(inputs))
        return inputs


def adapted(layer: Any, data: Any = (0.0, 1.0, 2.0, 3.0)) -> Any:
    layer.adapt(np.asarray(data))
    return layer


def reset(layer: Any) -> Any:
    layer.set_vocabulary([7, 8])
    return layer


def rebinned(layer: Any) -> Any:
    layer.bin_boundaries = [0.5]
    return layer


class Table(L.Layer):
    """Holds a table that anything can fill, in a list."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__(**options)
        made = tf.lookup.experimental
        mutable = made.MutableHashTable(tf.int64, tf.int64, 0)
        dense = made.DenseHashTable(tf.int64, tf.int64, 0, -1, -2)
        self.tables = [mutable if kind == "mutable" else dense]


class Remembering(L.experimental.preprocessing.PreprocessingLayer):
    """A user's own layer that is adapted."""

    def build(self, shape: Any) -> None:
        self.largest = self.add_weight("largest", shape=[], trainable=False)
        super().build(shape)

    def update_state(self, data: Any) -> None:
        self.largest.assign(tf.reduce_max(tf.cast(data, tf.float32)))

    def reset_state(self) -> None:
        self.largest.assign(0.0)

    def call(self, inputs: Any) -> Any:
        return inputs / self.largest


WORDS = ["red", "blue"]
LEARNT: dict[str, tuple[Any, Any]] = {
    "Normalization": (tf.float32, lambda: adapted(L.Normalization(axis=None, name="guilty"))),
    "Discretization": (tf.float32, lambda: adapted(L.Discretization(num_bins=2, name="guilty"))),
    "other bins": (tf.float32, lambda: rebinned(L.Discretization([1.0], name="guilty"))),
    "IntegerLookup": (tf.int64, lambda: adapted(L.IntegerLookup(name="guilty"), [3, 4])),
    "set_vocabulary": (tf.int64, lambda: reset(L.IntegerLookup(name="guilty"))),
    "another vocabulary": (tf.int64, lambda: reset(L.IntegerLookup(vocabulary=[3, 4], name="guilty"))),
    "StringLookup": (tf.string, lambda: adapted(L.StringLookup(name="guilty"), WORDS)),
    "TextVectorization": (tf.string, lambda: adapted(L.TextVectorization(name="guilty"), WORDS)),
    "a user's own": (tf.float32, lambda: adapted(Remembering(name="guilty"))),
    "mutable table": (tf.float32, lambda: Table("mutable", name="guilty")),
    "dense table": (tf.float32, lambda: Table("dense", name="guilty")),
}


@pytest.mark.parametrize("name", LEARNT)
def test_state_that_data_taught_is_refused(name: str) -> None:
    dtype, layer = LEARNT[name]
    inputs = L.Input([1], dtype=dtype)
    found = layer()(inputs)
    # The rest of the model does not matter here.
    made = tf.keras.Model(inputs, L.Dense(1)(L.Reshape([1])(L.Lambda(lambda x: tf.cast(x, tf.float32)[:, :1])(found))))
    kinds = [(problem.layer, problem.kind) for problem in validate(made)]
    assert ("guilty", "stateful" if "table" in name else "data_statistics") in kinds
    with pytest.raises(BadInputError, match="layer 'guilty'") as error:
        require_private(made)
    assert error.value.fix


def test_constants_of_the_constructor_are_accepted(tmp_path: Any) -> None:
    file = tmp_path / "words.txt"
    file.write_text("red\nblue\n")
    layers: list[tuple[Any, Any]] = [
        (tf.float32, L.Normalization(mean=0.0, variance=1.0)),
        (tf.float32, L.Discretization([0.0, 1.0])),
        (tf.int64, L.IntegerLookup(vocabulary=[3, 4], num_oov_indices=2, mask_token=0)),
        (tf.int64, L.IntegerLookup(vocabulary=np.array([3, 4]), output_mode="one_hot")),
        (tf.string, L.StringLookup(vocabulary=WORDS)),
        (tf.string, L.StringLookup(vocabulary=["[UNK]", *WORDS])),
        (tf.string, L.StringLookup(vocabulary=str(file))),
        (tf.string, L.StringLookup(vocabulary=WORDS, idf_weights=[0.5, 0.25], output_mode="tf_idf")),
        (tf.string, L.TextVectorization(vocabulary=WORDS, output_mode="multi_hot")),
        (tf.int64, L.CategoryEncoding(5)),
        (tf.string, L.Hashing(4)),
    ]
    for dtype, layer in layers:
        inputs = L.Input([1], dtype=dtype)
        assert [p.kind for p in validate(tf.keras.Model(inputs, layer(inputs)))] == ["nothing_to_train"], layer.name


class CentredInTraining(L.Layer):
    """Subtracts the batch's mean, in training alone."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        return inputs - tf.reduce_mean(inputs, 0, keepdims=True) if training else inputs


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (lambda: L.BatchNormalization(name="guilty"), "cross_example"),
        (lambda: L.Dense(2, kernel_regularizer="l2", name="guilty"), "regularizer"),
        (lambda: L.Dense(2, activity_regularizer="l1", name="guilty"), "regularizer"),
        (lambda: L.Normalization(name="guilty"), "data_statistics"),
        (lambda: L.ActivityRegularization(0.1, name="guilty"), "add_loss"),
        (lambda: Adding(name="guilty"), "add_loss"),
        (lambda: L.SpectralNormalization(L.Dense(2), name="guilty"), "stateful"),
        (lambda: L.Dense(2, dtype="float16", name="guilty"), "precision"),
    ],
)
def test_names_the_layer_and_says_what_to_use(layer: Any, kind: str) -> None:
    found = validate(model(layer()))
    assert [(problem.layer, problem.kind) for problem in found] == [("guilty", kind)]
    with pytest.raises(BadInputError, match="layer 'guilty'") as caught:
        require_private(model(layer()))
    assert caught.value.fix == found[0].instead
    assert found[0].instead not in caught.value.message


def test_sound_models_have_no_problem() -> None:
    fine = model(
        L.Normalization(mean=0.0, variance=1.0), L.Dense(4), L.Dropout(0.5), L.LayerNormalization(), L.Dense(2)
    )
    assert validate(fine) == []
    frozen = L.BatchNormalization(trainable=False)
    assert validate(model(L.Dense(4), frozen)) == []


def test_models_without_variables_are_refused() -> None:
    assert [p.kind for p in validate(tf.keras.Sequential([L.Dense(1)]))] == ["not_built"]
    frozen = model()
    frozen.trainable = False
    assert [p.kind for p in validate(frozen)] == ["nothing_to_train"]


def test_fix_swaps_batch_normalization_and_keeps_weights() -> None:
    broken = model(
        L.Conv2D(6, 2), L.BatchNormalization(), L.ReLU(), L.Conv2D(40, 1), L.BatchNormalization(), shape=(5, 5, 1)
    )
    fixed = validate(broken, fix=True)
    kinds = [type(layer).__name__ for layer in fixed.layers]
    assert kinds.count("GroupNormalization") == 2
    assert "BatchNormalization" not in kinds
    assert [layer.groups for layer in fixed.layers if isinstance(layer, L.GroupNormalization)] == [6, 20]
    np.testing.assert_array_equal(fixed.layers[0].get_weights()[0], broken.layers[0].get_weights()[0])
    assert fixed(np.zeros((2, 5, 5, 1))).shape == (2, 1)


def test_fix_does_not_hide_other_problems() -> None:
    with pytest.raises(BadInputError, match="kernel_regularizer"):
        validate(model(L.BatchNormalization(), L.Dense(2, kernel_regularizer="l2")), fix=True)


def probe(made: Any, loss: Any = "mse") -> Probe:
    function = per_example_loss(loss)
    return Probe(
        model=made,
        losses=lambda x, y, training: function(y, made(x, training=training)),
        x=tf.TensorSpec([None, 4], tf.float32),
        y=tf.TensorSpec([None], tf.float32),
    )


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: L.Lambda(lambda x: x - tf.reduce_mean(x, 0, keepdims=True)), "other examples"),
        (lambda: L.Lambda(lambda x: x[::-1]), "other examples"),
        (CentredInTraining, "in training"),
        (Counter, "assigns variables"),
        (Adding, "add_loss"),
    ],
)
def test_what_structure_cannot_show_is_found_on_made_up_inputs(layer: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        probe(model(layer())).require_independent()


def test_a_loss_over_the_batch_is_found() -> None:
    with pytest.raises(BadInputError, match="one number for the whole batch"):
        probe(model(), lambda y, p: tf.reduce_mean(tf.square(y - p))).require_independent()
    with pytest.raises(BadInputError, match="other examples"):
        probe(model(), lambda y, p: tf.square(y - p)[:, 0] / tf.reduce_sum(p)).require_independent()


def test_sound_models_pass_the_probe() -> None:
    probe(model(L.Dense(8, "relu"), L.Dropout(0.5), L.LayerNormalization())).require_independent()


def test_labels_without_the_last_axis_do_not_broadcast() -> None:
    losses = per_example_loss("mse")(tf.constant([1.0, 2.0, 3.0]), tf.constant([[1.0], [2.0], [5.0]]))
    np.testing.assert_allclose(losses, [0.0, 0.0, 4.0])
