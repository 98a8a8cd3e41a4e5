"""What a compiled model says of its training is followed, or refused by name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.training.from_keras.model_losses import per_example_loss
from privacy_pipeline.errors import BadInputError

L = tf.keras.layers
PLAN = PrivacyPlan.calibrated(
    units=8, expected_batch_size=8, steps=1, noise_multiplier=1e-6, delta=1e-5, clipping_norm=1.0
)


def two() -> Any:
    given = L.Input((3,))
    return tf.keras.Model(given, {"a": L.Dense(1, name="a")(given), "b": L.Dense(1, name="b")(given)})


@pytest.mark.slow
def test_the_compiled_weights_of_losses_count() -> None:
    model = two()
    model.compile(tf.keras.optimizers.SGD(1.0), loss={"a": "mse", "b": "mse"}, loss_weights={"a": 0.0, "b": 1.0})
    before = {name: model.get_layer(name).get_weights()[0] for name in "ab"}
    x, y = np.ones((8, 3), np.float32), np.full((8, 1), 5.0, np.float32)
    make_private(model, PLAN).fit(x, {"a": y, "b": y})
    moved = {name: np.abs(model.get_layer(name).get_weights()[0] - before[name]).max() for name in "ab"}
    assert moved["a"] < 1e-4 < 0.1 < moved["b"]


class OwnCall(tf.keras.losses.Loss):  # type: ignore[misc]
    """Reduces by itself."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return tf.reduce_mean(tf.square(y_true - y_pred))


S = tf.keras.optimizers.schedules
MISTAKES = {
    "loss": ({"loss": "msee", "optimizer": "sgd"}, "no loss 'msee'"),
    "optimizer": ({"loss": "mse", "optimizer": "sdg"}, "no optimizer 'sdg'"),
    "call": ({"loss": OwnCall(), "optimizer": "sgd"}, "loss OwnCall has a __call__ of its own"),
    "optimizer class": ({"loss": "mse", "optimizer": tf.keras.optimizers.SGD}, "class SGD is not an optimizer"),
    "loss number": ({"loss": 3, "optimizer": "sgd"}, "loss 3 is not a Keras loss"),
    "piece": (
        {"loss": "mse", "optimizer": tf.keras.optimizers.SGD(S.PiecewiseConstantDecay([1, 2], [0.1, 1e20, 0.1]))},
        "1e\\+20",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line(kind: str) -> None:
    given, says = MISTAKES[kind]
    with pytest.raises(BadInputError, match=says):
        make_private(tf.keras.Sequential([L.Input((3,)), L.Dense(1)]), PLAN, **given)


def test_inputs_that_are_described_without_their_labels_are_one_line() -> None:
    private = make_private(tf.keras.Sequential([L.Input((3,)), L.Dense(1)]), PLAN, optimizer="sgd", loss="mse")
    with pytest.raises(BadInputError, match="labels are not"):
        private.examine(tf.TensorSpec([None, 3]))


@pytest.mark.parametrize(
    ("loss", "weights", "right"),
    [
        ({"a": "mse", "b": "mse"}, {"a": 3.0}, 3.0 + 4.0),
        ({"a": "mse", "b": "mse"}, None, 1.0 + 4.0),
        (["mse", "mse"], [0.5, 2.0], 0.5 + 8.0),
        ("mse", 3.0, 3.0),
        ("mse", [3.0], 3.0),
    ],
)
def test_weights_mean_what_they_mean_in_keras(loss: Any, weights: Any, right: float) -> None:
    made: Any = {"a": tf.constant([[1.0]]), "b": tf.constant([[2.0]])}
    if not isinstance(loss, dict):
        made = list(made.values()) if isinstance(loss, list) else made["a"]
    labels = tf.nest.map_structure(tf.zeros_like, made)
    assert per_example_loss(loss, loss_weights=weights)(labels, made).numpy() == pytest.approx([right])


@pytest.mark.parametrize(
    ("loss", "weights"),
    [({"a": "mse"}, {"b": 1.0}), ({"a": "mse"}, [1.0]), (["mse", "mse"], [1.0]), ("mse", {"a": 1.0}), (["mse"], 2.0)],
)
def test_weights_that_do_not_fit_are_one_line(loss: Any, weights: Any) -> None:
    with pytest.raises(BadInputError, match="does not fit the losses"):
        per_example_loss(loss, loss_weights=weights)


@pytest.mark.parametrize("name", ["train_step", "compute_loss", "make_train_function"])
def test_a_training_of_its_own_is_refused(name: str) -> None:
    made = type("Own", (tf.keras.Model,), {name: lambda self, *given, **more: None})
    given = L.Input((3,))
    with pytest.raises(BadInputError, match=f"has a {name} of its own"):
        make_private(made(given, L.Dense(1)(given)), PLAN, optimizer="sgd", loss="mse")


def one() -> Any:
    return tf.keras.Sequential([L.Input((3,)), L.Dense(4), L.Dense(1)])


def test_a_model_or_a_plan_of_another_kind_is_one_line() -> None:
    for model, says in ((lambda x: x, "a function is not a Keras model"), (tf.keras.Sequential, "class Sequential")):
        with pytest.raises(BadInputError, match=says):
            make_private(model, PLAN, optimizer="sgd", loss="mse")
    with pytest.raises(BadInputError, match="a dict is not a PrivacyPlan"):
        make_private(one(), {"units": 8}, optimizer="sgd", loss="mse")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"clipping_norm": "1"}, "clipping_norm must be a finite number, found '1'"),
        ({"units": "8"}, "units must be a whole number"),
        ({"steps": 4.0}, r"steps must be a whole number, found 4\.0"),
        ({"noise_multiplier": True}, "noise_multiplier must be a finite number"),
    ],
)
def test_a_plan_of_other_types_is_one_line(given: dict[str, Any], says: str) -> None:
    numbers = {"units": 8, "expected_batch_size": 8, "steps": 1, "noise_multiplier": 1.0, "delta": 1e-5}
    with pytest.raises(BadInputError, match=says):
        PrivacyPlan.calibrated(**{**numbers, "clipping_norm": 1.0, **given})


X, Y = np.ones((8, 3), np.float32), np.ones((8, 1), np.float32)
FAILING: dict[str, tuple[Any, Any, Any, str]] = {
    "width": ("mse", X[:, :2], Y, r"expected shape=\(None, 3\), found shape=\(None, 2\)"),
    "NumPy": (lambda y, p: np.square(y - p)[:, 0], X, Y, "NumPy"),
    "eager": (lambda y, p: np.mean(y.numpy() - p), X, Y, "has no attribute 'numpy'"),
    "labels": ("categorical_crossentropy", X, Y[:, 0].astype(int), "incompatible"),
    "one-hot": ("sparse_categorical_crossentropy", X, np.ones((8, 4), np.float32), "one-hot labels"),
}


@pytest.mark.parametrize("kind", FAILING)
def test_what_fails_on_the_shapes_is_one_line(kind: str) -> None:
    loss, x, y, says = FAILING[kind]
    width = 4 if kind in ("labels", "one-hot") else 1
    model = tf.keras.Sequential([L.Input((3,)), L.Dense(width)])
    with pytest.raises(BadInputError) as found:
        make_private(model, PLAN, optimizer="sgd", loss=loss).fit(x, y)
    assert re.search(says, f"{found.value.message} {found.value.fix}")
    assert "\n" not in found.value.message


@pytest.mark.slow
def test_an_optimizer_of_other_weights_is_one_line() -> None:
    optimizer = tf.keras.optimizers.Adam(0.1)
    make_private(one(), PLAN, optimizer=optimizer, loss="mse").fit(X, Y)
    with pytest.raises(BadInputError, match="was used for other weights"):
        make_private(one(), PLAN, optimizer=optimizer, loss="mse").fit(X, Y)


def test_labels_and_losses_of_several_outputs_fit_or_are_one_line() -> None:
    given = L.Input((3,))
    for loss, labels, says in (
        ("mse", Y, "no labels for output 'a'"),
        ({"a": "mse", "c": "mse"}, {"a": Y, "c": Y}, "loss names 'c', and the outputs of the model are a, b"),
        (["mse"], [Y, Y], "loss has 1 entries, and the model 2 outputs"),
        ({"a": None, "b": None}, [Y, Y], "no output has a loss"),
    ):
        model = tf.keras.Model(given, [L.Dense(1, name="a")(given), L.Dense(1, name="b")(given)])
        with pytest.raises(BadInputError, match=says):
            make_private(model, PLAN, optimizer="sgd", loss=loss).fit(X, labels)
