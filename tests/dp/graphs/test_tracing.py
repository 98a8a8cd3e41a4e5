"""What AutoGraph converts of a private step: users' branches on tensors, and nothing of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.autograph.impl import api

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.graphs.tracing import Traced
from privacy_pipeline.errors import BadInputError

L = tf.keras.layers


class Steep(L.Layer):
    """A user's layer with Python's branch on a tensor of the row's own."""

    def call(self, x: Any) -> Any:
        return tf.map_fn(self.one, x)

    def one(self, row: Any) -> Any:
        if tf.reduce_sum(row) > 0.0:
            return 2.0 * row
        return row


def own_loss(labels: Any, outputs: Any) -> Any:
    def one(pair: Any) -> Any:
        label, output = pair
        if label[0] > 0.5:
            return 3.0 * tf.square(label[0] - output[0])
        return tf.square(label[0] - output[0])

    return tf.map_fn(one, (labels, outputs), fn_output_signature=tf.float32)


class OwnLoss(tf.keras.losses.Loss):
    """The same as an object."""

    def call(self, labels: Any, outputs: Any) -> Any:
        return own_loss(labels, outputs)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [own_loss, OwnLoss()], ids=["function", "object"])
def test_a_users_code_is_converted_and_the_engines_is_not(monkeypatch: pytest.MonkeyPatch, loss: Any) -> None:
    seen: set[str] = set()
    convert = api._convert_actual

    def noted(entity: Any, context: Any) -> Any:
        seen.add(f"{entity.__module__}.{entity.__qualname__}")
        return convert(entity, context)

    monkeypatch.setattr(api, "_convert_actual", noted)
    given = tf.keras.Input((3,))
    model = tf.keras.Model(given, L.Dense(1)(Steep()(given)))
    plan = PrivacyPlan.calibrated(
        units=8, expected_batch_size=4, steps=2, noise_multiplier=1.0, delta=1e-3, clipping_norm=1.0
    )
    made = make_private(model, plan, optimizer="sgd", loss=loss)
    assert made.fit(np.ones([8, 3], np.float32), np.ones(8, np.float32)).steps == 2
    assert f"{__name__}.Steep.one" in seen
    assert not [name for name in seen if name.startswith(("privacy_pipeline.", "federated."))]


class Refusing(L.Layer):
    """Raises an error of this project inside of a call that Keras and AutoGraph both wrap."""

    def call(self, x: Any) -> Any:
        if x.shape.rank:
            raise BadInputError("one line", fix="one fix")
        return x


def test_an_error_inside_of_layers_keeps_its_line() -> None:
    model = tf.keras.Sequential([Refusing(), L.Dense(1)])
    traced = Traced(model, tf.TensorSpec([None, 3]))
    with pytest.raises(BadInputError) as raised:
        traced.concrete
    assert (str(raised.value), raised.value.fix) == ("one line", "one fix")


def test_an_error_of_tensorflow_is_passed_on() -> None:
    model = tf.keras.Sequential([L.Dense(1)])
    model.build([None, 4])
    with pytest.raises(ValueError, match="incompatible"):
        Traced(model, tf.TensorSpec([None, 3])).concrete


class TestNoGradient:
    """TensorFlow has no gradient of the op that changes contrasts."""

    def model(self, *layers: Any) -> Any:
        return tf.keras.Sequential([L.Input((4, 4, 1)), *layers, L.Flatten(), L.Dense(1)])

    def private(self, model: Any, loss: Any = "mse") -> Any:
        plan = PrivacyPlan.calibrated(
            units=8, expected_batch_size=4, steps=1, epsilon=8.0, delta=1e-5, clipping_norm=1.0
        )
        return make_private(model, plan, optimizer="sgd", loss=loss)

    @pytest.mark.slow
    def test_before_the_weights_it_trains(self) -> None:
        x, y = np.random.default_rng(0).uniform(0, 1, (8, 4, 4, 1)).astype(np.float32), np.ones((8, 1), np.float32)
        private = self.private(self.model(L.RandomContrast(0.2)))
        assert private.examine(x, y).kind == "proven"
        assert private.fit(x, y).steps == 1

    @pytest.mark.slow
    def test_after_weights_one_line_says_so(self) -> None:
        private = self.private(self.model(L.Conv2D(1, 1), L.RandomContrast(0.2)))
        with pytest.raises(BadInputError, match="before an op without a gradient: AdjustContrast"):
            private.examine(tf.TensorSpec([None, 4, 4, 1]), tf.TensorSpec([None, 1]))


class Compiled(L.Layer):
    """Its `call` is a function of TensorFlow's, which keeps what it traced."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = L.Dropout(0.5)

    @tf.function
    def call(self, x: Any, training: bool = False) -> Any:
        return self.dropout(x, training=training)


class Inner(L.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = L.Dropout(0.5)

    @tf.function
    def drop(self, x: Any, training: Any) -> Any:
        return self.dropout(x, training=training)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.drop(x, training)


@pytest.mark.slow
def test_a_compiled_call_trains_and_stays_compiled() -> None:
    layer = Compiled()
    model = tf.keras.Sequential([L.Input((3,)), layer, L.Dense(1)])
    plan = PrivacyPlan.calibrated(units=8, expected_batch_size=4, steps=2, epsilon=8.0, delta=1e-5, clipping_norm=1.0)
    private = make_private(model, plan, optimizer="sgd", loss="mse")
    assert private.fit(np.ones((8, 3), np.float32), np.ones((8, 1), np.float32)).verdict.kind == "proven"
    assert "call" not in vars(layer)


@pytest.mark.slow
def test_a_function_that_keeps_another_seed_is_one_line() -> None:
    model = tf.keras.Sequential([L.Input((3,)), Inner(), L.Dense(1)])
    plan = PrivacyPlan.calibrated(units=8, expected_batch_size=4, steps=2, epsilon=8.0, delta=1e-5, clipping_norm=1.0)
    with pytest.raises(BadInputError, match="traced before with another seed"):
        make_private(model, plan, optimizer="sgd", loss="mse").examine(np.ones((8, 3)), np.ones((8, 1)))


def with_numpy(labels: Any, outputs: Any) -> Any:
    return tf.constant(np.mean(np.asarray(labels) - np.asarray(outputs)))


def of_no_attribute(labels: Any, outputs: Any) -> Any:
    return tf.map_fn(lambda pair: pair[0].nothing, (labels, outputs), fn_output_signature=tf.float32)


def of_other_shape(labels: Any, outputs: Any) -> Any:
    return tf.reduce_mean(outputs - labels[:, :2], axis=-1)


class WithNumpy(L.Layer):
    """A layer that leaves TensorFlow while it is trained."""

    def call(self, x: Any, training: Any = None) -> Any:
        return tf.constant(np.mean(np.asarray(x))) if training else x


class TestUsersCode:
    """What a model or a loss raises is one line; its own error is the cause, with the lines of code."""

    @pytest.mark.slow_but("NumPy")
    @pytest.mark.parametrize(
        ("loss", "cause", "words"),
        [
            (with_numpy, NotImplementedError, "NumPy"),
            (of_no_attribute, AttributeError, "nothing"),
            (of_other_shape, ValueError, "equal"),
        ],
        ids=["NumPy", "in a loop", "shapes"],
    )
    def test_one_line_and_its_cause(self, loss: Any, cause: type[Exception], words: str) -> None:
        model = tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(3)])
        private = self.private(model, loss)
        with pytest.raises(BadInputError, match="the model or its loss fails on tensors of these shapes") as raised:
            private.examine(tf.TensorSpec([None, 4]), tf.TensorSpec([None, 3]))
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)
        assert isinstance(raised.value.__cause__, cause)

    @pytest.mark.slow
    def test_a_layer_is_named_with_what_it_raised(self) -> None:
        model = tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(3)])
        model.add(WithNumpy(name="own"))
        with pytest.raises(BadInputError, match=r"layer .own. .type WithNumpy.: .*NumPy") as raised:
            self.private(model).examine(tf.TensorSpec([None, 4]), tf.TensorSpec([None, 3]))
        assert "\n" not in str(raised.value)

    @pytest.mark.slow
    def test_a_type_that_the_model_does_not_take_is_one_line(self) -> None:
        model = tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(3)])
        with pytest.raises(BadInputError):
            self.private(model).examine(tf.TensorSpec([None, 4], tf.string), tf.TensorSpec([None, 3]))

    def private(self, model: Any, loss: Any = "mse") -> Any:
        plan = PrivacyPlan.calibrated(
            units=8, expected_batch_size=4, steps=1, epsilon=8.0, delta=1e-5, clipping_norm=1.0
        )
        return make_private(model, plan, optimizer="sgd", loss=loss)
