"""The probe alone, without any proof: what mixes rows is found and named, what does not mix passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp.checks.made_up import Kind, MadeUp, varied
from privacy_pipeline.dp.checks.probe import Probe
from privacy_pipeline.dp.training.from_keras.model_losses import per_example_loss
from privacy_pipeline.errors import BadInputError

L = tf.keras.layers
pytestmark = pytest.mark.usefixtures("no_seed")
FLOATS = tf.TensorSpec([None, 1], tf.float32)


def probe(model: Any, loss: Any = "mse", *, x: Any = None, y: Any = FLOATS) -> Probe:
    function = per_example_loss(loss)
    if x is None:
        x = tf.TensorSpec([None, *model.input_shape[1:]], model.inputs[0].dtype)
    return Probe(model=model, losses=lambda a, b, training: function(b, model(a, training=training)), x=x, y=y)


def of(*layers: Any, shape: tuple[int, ...] = (4,), dtype: str = "float32", units: int = 1) -> Any:
    return tf.keras.Sequential([L.Input(shape, dtype=dtype), *layers, L.Flatten(), L.Dense(units)])


class Training(L.Layer):
    """Applies a function in training alone."""

    def __init__(self, function: Any, **more: Any) -> None:
        super().__init__(**more)
        self.function = function

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.function(inputs) if training else inputs


def guilty(function: Any) -> Any:
    return L.Lambda(function, name="guilty")


def in_training(function: Any) -> Any:
    return Training(function, name="guilty")


@tf.custom_gradient
def mixes_backward(values: Any) -> Any:
    return tf.identity(values), lambda upstream: upstream - tf.reduce_mean(upstream, 0, keepdims=True)


@tf.custom_gradient
def scales_backward(values: Any) -> Any:
    """Divides gradients by their norm over the whole batch."""
    return tf.identity(values), lambda upstream: upstream / (1e-3 + tf.norm(upstream))


def mean(values: Any) -> Any:
    return tf.reduce_mean(values, 0, keepdims=True)


def as_float(values: Any) -> Any:
    return tf.cast(values, tf.float32)


# The four of the attack, and their kin.
MIXING = {
    "clip over the batch": lambda: of(guilty(lambda h: tf.clip_by_norm(h, 20.0))),
    "centring behind stop_gradient": lambda: of(in_training(lambda h: h - tf.stop_gradient(mean(h)))),
    "batch norm by hand on whole numbers": lambda: of(
        L.Lambda(as_float), in_training(lambda h: h - mean(h)), shape=(1,), dtype="int32"
    ),
    "relative to the first row": lambda: of(in_training(lambda h: h - h[:1])),
    "clip far above": lambda: of(guilty(lambda h: tf.clip_by_global_norm([h], 3e3)[0])),
    "relative to the last row": lambda: of(in_training(lambda h: h - tf.stop_gradient(h[-1:]))),
    "roll": lambda: of(in_training(lambda h: 0.9 * h + 0.1 * tf.roll(h, 1, 0))),
    "reverse": lambda: of(guilty(lambda h: h[::-1])),
    "sort": lambda: of(in_training(lambda h: tf.sort(h, 0))),
    "cumsum": lambda: of(guilty(lambda h: tf.cumsum(h, 0))),
    "largest of the batch": lambda: of(in_training(lambda h: h / (1e-6 + tf.stop_gradient(tf.reduce_max(tf.abs(h)))))),
    "number of rows": lambda: of(in_training(lambda h: h / as_float(tf.shape(h)[0]))),
    "place": lambda: of(in_training(lambda h: h * as_float(tf.range(tf.shape(h)[0]))[:, None])),
    "attention over the batch": lambda: of(guilty(lambda h: tf.matmul(tf.nn.softmax(tf.matmul(h, h, False, True)), h))),
    "backward": lambda: of(L.Dense(3), guilty(mixes_backward)),
    "backward by size": lambda: of(L.Dense(3), guilty(scales_backward)),
    "after dropout": lambda: of(L.Dropout(0.5), in_training(lambda h: h - tf.stop_gradient(mean(h)))),
    "mixup of tokens": lambda: of(
        in_training(lambda t: tf.where(tf.range(tf.shape(t)[1])[None] < 2, tf.roll(t, 1, 0), t)),
        L.Embedding(9, 3),
        shape=(4,),
        dtype="int32",
    ),
    "flags": lambda: of(
        guilty(lambda h: tf.cast(tf.reduce_any(h, 0, keepdims=True) & tf.ones_like(h), tf.float32)), dtype="bool"
    ),
    "before weights of zero": lambda: tf.keras.Sequential(
        [L.Input((4,)), guilty(lambda h: h - mean(h)), L.Dense(1, kernel_initializer="zeros", use_bias=False)]
    ),
    "tokens shuffled without a key": lambda: of(
        L.Embedding(9, 3),
        in_training(lambda h: h + tf.gather(h, tf.random.shuffle(tf.range(tf.shape(h)[0])))),
        dtype="int32",
    ),
    "whole numbers clipped far above": lambda: of(
        L.Lambda(as_float), guilty(lambda h: tf.clip_by_norm(h, 3e3)), dtype="int32"
    ),
    "shuffled without a key": lambda: of(in_training(lambda h: 0.5 * h + 0.5 * tf.stop_gradient(tf.random.shuffle(h)))),
}


@pytest.mark.slow_but("clip over the batch", "shuffled without a key")
@pytest.mark.parametrize("kind", MIXING)
def test_models_that_mix_are_found_and_the_layer_is_named(kind: str) -> None:
    made = probe(MIXING[kind]())
    reason = made.mixing()
    assert reason is not None
    assert "layer 'guilty'" in reason
    with pytest.raises(BadInputError, match="guilty") as caught:
        made.require_independent()
    assert "GroupNormalization" in caught.value.fix


def test_gradients_show_what_neither_comparisons_nor_nan_show() -> None:
    """Tokens and whole-numbered labels are never NaN, and a shuffle without a key differs from run to run."""
    model = MIXING["tokens shuffled without a key"]()
    made = probe(model, lambda y, p: tf.square(as_float(y) - p)[:, 0], y=tf.TensorSpec([None, 1], tf.int32))
    assert "guilty" in str(made.mixing())


def counted(y: Any, p: Any) -> Any:
    """Binary loss that weighs each class by its share of the batch."""
    positive = tf.reduce_mean(y)
    return tf.reduce_mean(tf.square(y - p), -1) / tf.where(y[:, 0] > 0.5, positive, 1 - positive)


def counted_classes(y: Any, p: Any) -> Any:
    labels = tf.cast(y, tf.int32)
    counts = tf.math.bincount(labels, minlength=5, dtype=tf.float32)
    return tf.keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True) / tf.gather(counts, labels)


def present(missing: Any) -> Any:
    def loss(y: Any, p: Any) -> Any:
        # The mean, not the sum: with the number of rows alone it would change, too.
        there = tf.cast(tf.math.logical_not(missing(y)), tf.float32)
        known = tf.where(missing(y), tf.zeros_like(y), y)
        return tf.reduce_sum(there * tf.square(known - p), -1) / tf.reduce_mean(there)

    return loss


def present_counts(y: Any, p: Any) -> Any:
    return present(lambda labels: labels < 0)(as_float(y), p)


@pytest.mark.parametrize(
    ("loss", "units", "y"),
    [
        (counted, 1, FLOATS),
        (counted_classes, 5, tf.TensorSpec([None], tf.int64)),
        (present(lambda y: tf.equal(y, -1.0)), 1, FLOATS),
        (present(tf.math.is_nan), 1, FLOATS),
        (present_counts, 1, tf.TensorSpec([None, 1], tf.int32)),
        (lambda y, p: tf.reduce_mean(tf.square(y - tf.transpose(p)), -1), 1, FLOATS),
    ],
    ids=["class shares", "class counts", "present", "present, NaN", "present, counts", "pairs"],
)
def test_losses_that_mix_are_found(loss: Any, units: int, y: Any) -> None:
    reason = probe(of(units=units), loss, y=y).mixing()
    assert reason is not None
    assert "loss" in reason


def test_a_loss_of_another_shape_is_refused() -> None:
    with pytest.raises(BadInputError, match="losses of shape"):
        probe(of(), lambda y, p: tf.reshape(tf.square(y - p), [-1])[:1]).mixing()


class Several(tf.keras.Model):
    """Two outputs, of which the second one mixes."""

    def __init__(self, honest: bool) -> None:
        super().__init__()
        self.first, self.second, self.guilty = L.Dense(1), L.Dense(3), in_training(lambda h: h - mean(h))
        self.honest = honest

    def call(self, inputs: Any, training: bool = False) -> Any:
        held = inputs if self.honest else self.guilty(inputs, training=training)
        return {"a": self.first(inputs), "b": self.second(held)}


@pytest.mark.parametrize("honest", [True, False])
def test_several_outputs_of_a_subclassed_model(honest: bool) -> None:
    model = Several(honest)
    model(tf.zeros([1, 4]))
    made = probe(
        model,
        {"a": "mse", "b": tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
        x=tf.TensorSpec([None, 4], tf.float32),
        y={"a": FLOATS, "b": tf.TensorSpec([None], tf.int32)},
    )
    reason = made.mixing()
    assert reason is None if honest else reason is not None and "guilty" in reason


def words(layer: Any) -> Any:
    inputs = L.Input((2,), dtype=tf.string)
    ids = L.StringLookup(vocabulary=["x", "y", "z"])(inputs)
    return tf.keras.Model(inputs, L.Dense(1)(L.Flatten()(layer(L.Embedding(4, 3)(ids)))))


@pytest.mark.parametrize("honest", [True, False])
def test_strings(honest: bool) -> None:
    layer = L.Lambda(lambda h: h) if honest else in_training(lambda h: h - tf.stop_gradient(mean(h)))
    assert (probe(words(layer)).mixing() is None) == honest


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize("dtype", [tf.float32, tf.int32])
def test_ragged_inputs(dtype: Any, honest: bool) -> None:
    inputs = L.Input((None,), dtype=dtype, ragged=True)
    pooled = L.Lambda(lambda r: tf.reduce_sum(tf.cast(r, tf.float32), 1, keepdims=True))(inputs)
    held = pooled if honest else in_training(lambda h: h / (1.0 + tf.stop_gradient(mean(tf.abs(h)))))(pooled)
    model = tf.keras.Model(inputs, L.Dense(1)(held))
    reason = probe(model, x=tf.RaggedTensorSpec([None, None], dtype, 1)).mixing()
    assert reason is None if honest else reason is not None and "guilty" in reason


def test_rows_padded_to_the_longest_one_do_not_mix_unless_they_count_it() -> None:
    def model(reduce: Any) -> Any:
        inputs = L.Input((None,), ragged=True)
        dense = L.Lambda(lambda r: r.to_tensor()[..., None])(inputs)
        return tf.keras.Model(inputs, L.Dense(1)(L.Lambda(reduce)(dense)))

    x = tf.RaggedTensorSpec([None, None], tf.float32, 1)
    assert probe(model(lambda h: tf.reduce_sum(h, 1)), x=x).mixing() is None
    assert probe(model(lambda h: tf.reduce_mean(h, 1)), x=x).mixing() is not None


def attention() -> Any:
    inputs = L.Input((5, 4))
    held = L.LayerNormalization()(L.MultiHeadAttention(2, 3, dropout=0.1)(inputs, inputs) + inputs)
    return tf.keras.Model(inputs, L.Dense(1)(L.GlobalAveragePooling1D()(held)))


def tokens() -> Any:
    layers = [L.Embedding(7, 3, mask_zero=True), L.Bidirectional(L.GRU(3)), L.Dense(4, "softmax")]
    return of(*layers, shape=(6,), dtype="int32")


HONEST = {
    "dense": lambda: of(L.Dense(8, "relu"), L.Dropout(0.5), L.LayerNormalization()),
    "softmax": lambda: of(L.Dense(8, "softmax"), L.Dense(8, "softmax")),
    "exponentials": lambda: of(L.Dense(8, tf.exp), L.Lambda(tf.math.log)),
    "lstm": lambda: of(L.LSTM(4, dropout=0.3), shape=(5, 3)),
    "attention": attention,
    "tokens": tokens,
    "images": lambda: of(
        L.Conv2D(8, 3, activation="relu"),
        L.MaxPooling2D(),
        L.GroupNormalization(4),
        L.SpatialDropout2D(0.2),
        shape=(9, 9, 3),
    ),
    "augmentation": lambda: of(L.RandomFlip(), L.RandomRotation(0.1), L.Conv2D(4, 3), shape=(8, 8, 3)),
    "loops": lambda: of(L.TimeDistributed(L.Dense(3)), L.PReLU(), shape=(6, 3)),
    "noise": lambda: of(L.GaussianNoise(0.3), L.GaussianDropout(0.2), L.AlphaDropout(0.1)),
    "sort of each row": lambda: of(L.Lambda(lambda h: tf.sort(h, 1))),
    "clip of each row": lambda: of(L.Lambda(lambda h: tf.clip_by_norm(h, 20.0, axes=[1]))),
    "centring of each row": lambda: of(Training(lambda h: h - tf.stop_gradient(tf.reduce_mean(h, 1, keepdims=True)))),
    "noise without a key": lambda: of(Training(lambda h: h + tf.random.normal(tf.shape(h)))),
    "numbers of a range": lambda: of(L.CategoryEncoding(3, "multi_hot"), dtype="int64"),
    "as many features as rows": lambda: of(L.Lambda(lambda h: tf.transpose(tf.transpose(h) * 2.0)), shape=(4,)),
    "transposed convolution": lambda: of(L.SeparableConv2D(3, 2), L.Conv2DTranspose(2, 2), shape=(6, 6, 3)),
}


@pytest.mark.slow_but("softmax", "transposed convolution")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "tokens" else []) for kind in HONEST]
)
def test_honest_models_pass(kind: str) -> None:
    model = HONEST[kind]()
    before = model.get_weights()
    probe(model).require_independent()
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_a_model_that_takes_nothing_made_up_is_refused() -> None:
    def refuse(values: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_greater(values, 1e9)]):
            return tf.identity(values)

    with pytest.raises(BadInputError, match="takes no made-up inputs"):
        probe(of(L.Lambda(refuse))).mixing()


def test_ids_are_those_of_the_embedding_and_classes_those_of_the_output() -> None:
    inputs = {"a": L.Input((3,), dtype="int32", name="a"), "b": L.Input((1,), dtype="int32", name="b")}
    joined = L.Concatenate()(
        [L.Flatten()(L.Embedding(5, 2)(L.Reshape((3,))(inputs["a"]))), L.Lambda(as_float)(inputs["b"])]
    )
    model = tf.keras.Model(inputs, L.Dense(6)(joined))
    specs = {name: tf.TensorSpec([None, *given.shape[1:]], given.dtype) for name, given in inputs.items()}
    made = MadeUp(
        model=model,
        x=specs,
        y=tf.TensorSpec([None], tf.int64),
        outputs=[tf.TensorShape([None, 6])],
    )
    x, y = made.batch([made.row(number, Kind(scale=1e4, label=number)) for number in range(40)])
    assert set(np.unique(x["a"])) == set(range(5))
    assert np.max(x["b"]) > 100
    assert set(np.unique(y)) == set(range(6))


def test_constant_weights_vary_while_the_model_is_probed_and_come_back() -> None:
    zeros, random = tf.Variable(tf.zeros([3])), tf.Variable([1.0, 2.0])
    with pytest.raises(KeyError), varied([zeros, random]):
        assert len(np.unique(zeros)) == 3
        np.testing.assert_array_equal(random, [1.0, 2.0])
        raise KeyError
    np.testing.assert_array_equal(zeros, np.zeros(3))
