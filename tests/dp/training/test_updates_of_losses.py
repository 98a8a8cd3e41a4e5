"""One private step without noise and clipping moves the weights as Keras' own gradients do, loss by loss.

The fast cases run the step without compiling it, by the rules alone; the slow ones compile what the engine chooses.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from privacy_pipeline.dp import make_private
from privacy_pipeline.dp.training.from_keras.model_losses import ModelLosses, per_example_loss
from privacy_pipeline.errors import BadInputError
from tests.dp.keras_updates import (
    GUIDE,
    PLAN,
    ROWS,
    Case,
    check,
    filled,
    keras_update,
    named_in_guide,
    require_equal,
    values,
)

L, LOSSES = tf.keras.layers, tf.keras.losses
R = LOSSES.Reduction
CLASSES, STEPS = 3, 5
pytestmark = pytest.mark.filterwarnings("ignore:.*received `from_logits=True`:UserWarning")
LENGTHS = (5, 3, 2)  # steps that are no padding


# --- labels --------------------------------------------------------------------------------------------------------


def classes(*shape: int) -> NDArray[np.int64]:
    """Class numbers: every row, and its first two steps, have one that is not 2."""
    found = np.random.default_rng(4).integers(0, CLASSES, (ROWS, *shape))
    found[..., 0] = 1
    return found


def one_hot(*shape: int) -> Any:
    return np.eye(CLASSES, dtype=np.float32)[np.random.default_rng(5).integers(0, CLASSES, (ROWS, *shape))]


def numbers(*shape: int) -> Any:
    found = values(*shape, CLASSES, seed=6)
    return np.sign(found) * (0.3 + np.abs(found))


def positive(*shape: int) -> Any:
    return np.abs(numbers(*shape))


def bits(*shape: int) -> Any:
    return (values(*shape, CLASSES, seed=7) > 0).astype(np.float32)


def shares(*shape: int) -> Any:
    found = positive(*shape)
    return found / found.sum(-1, keepdims=True)


# --- losses --------------------------------------------------------------------------------------------------------

Labels = Callable[..., Any]


@dataclass(frozen=True)
class Kind:
    """A loss of Keras.

    Attributes:
        name: of its class, or what Keras is given.
        labels: makes its labels.
        ending: activation of the model's last layer.
        options: of the loss.
    """

    name: Any
    labels: Labels
    ending: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def made(self, **more: Any) -> Any:
        return getattr(LOSSES, self.name)(**self.options, **more) if self.is_class else self.name

    @property
    def is_class(self) -> bool:
        return isinstance(self.name, str) and self.name[0].isupper() and not self.name.isupper()

    def __str__(self) -> str:
        told = [self.name if isinstance(self.name, str) else self.name.__name__]
        told += [] if self.ending is None else [self.ending]
        return ", ".join([*told, *(key if value is True else f"{key} {value}" for key, value in self.options.items())])


def named(kinds: list[Kind]) -> dict[str, Kind]:
    found = {str(kind): kind for kind in kinds}
    assert len(found) == len(kinds)
    return found


SMOOTH, LOGITS = {"label_smoothing": 0.2}, {"from_logits": True}
FOCAL = {"alpha": 0.4, "gamma": 1.5}
BALANCED = {"apply_class_balancing": True, "alpha": 0.4}
IGNORED = {"ignore_class": 2}
CLASS_KINDS = named(
    [
        Kind("MeanSquaredError", numbers),
        Kind("MeanAbsoluteError", numbers),
        Kind("MeanAbsolutePercentageError", numbers),
        Kind("MeanSquaredLogarithmicError", positive, "softplus"),
        Kind("LogCosh", numbers),
        Kind("Huber", numbers),
        Kind("Huber", numbers, None, {"delta": 0.3}),
        Kind("Poisson", positive, "softplus"),
        Kind("KLDivergence", shares, "softmax"),
        Kind("CosineSimilarity", numbers),
        Kind("CosineSimilarity", numbers, None, {"axis": 1}),
        Kind("CategoricalHinge", one_hot),
        Kind("BinaryCrossentropy", bits, "sigmoid"),
        Kind("BinaryCrossentropy", bits, "sigmoid", SMOOTH),
        Kind("BinaryCrossentropy", bits, "sigmoid", LOGITS),
        Kind("BinaryCrossentropy", bits, None, LOGITS),
        Kind("BinaryCrossentropy", bits, None, {**LOGITS, **SMOOTH}),
        Kind("BinaryFocalCrossentropy", bits, "sigmoid"),
        Kind("BinaryFocalCrossentropy", bits, "sigmoid", {**BALANCED, **SMOOTH}),
        Kind("BinaryFocalCrossentropy", bits, None, LOGITS),
        Kind("BinaryFocalCrossentropy", bits, None, {**LOGITS, **BALANCED, **SMOOTH}),
        Kind("CategoricalCrossentropy", one_hot, "softmax"),
        Kind("CategoricalCrossentropy", one_hot, "softmax", SMOOTH),
        Kind("CategoricalCrossentropy", one_hot, "softmax", LOGITS),
        Kind("CategoricalCrossentropy", one_hot, "softplus"),
        Kind("CategoricalCrossentropy", one_hot, None, LOGITS),
        Kind("CategoricalCrossentropy", one_hot, None, {**LOGITS, **SMOOTH}),
        Kind("CategoricalFocalCrossentropy", one_hot, "softmax"),
        Kind("CategoricalFocalCrossentropy", one_hot, "softmax", {**FOCAL, **SMOOTH}),
        Kind("CategoricalFocalCrossentropy", one_hot, None, LOGITS),
        Kind("CategoricalFocalCrossentropy", one_hot, None, {**LOGITS, **FOCAL, **SMOOTH}),
        Kind("SparseCategoricalCrossentropy", classes, "softmax"),
        Kind("SparseCategoricalCrossentropy", classes, "softmax", LOGITS),
        Kind("SparseCategoricalCrossentropy", classes, "softmax", IGNORED),
        Kind("SparseCategoricalCrossentropy", classes, "softplus"),
        Kind("SparseCategoricalCrossentropy", classes, None, LOGITS),
        Kind("SparseCategoricalCrossentropy", classes, None, {**LOGITS, **IGNORED}),
    ]
)
# How the labels are coded, Keras reads from all labels of a batch.
REFUSED = {"Hinge", "SquaredHinge", "hinge", "squared_hinge"}
_OF_NAMES: dict[tuple[str, ...], tuple[Labels, str | None]] = {
    ("mse", "MSE", "mean_squared_error", "mae", "MAE", "mean_absolute_error"): (numbers, None),
    ("mape", "MAPE", "mean_absolute_percentage_error"): (numbers, None),
    ("msle", "MSLE", "mean_squared_logarithmic_error", "poisson"): (positive, "softplus"),
    ("kld", "KLD", "kl_divergence", "kullback_leibler_divergence"): (shares, "softmax"),
    ("log_cosh", "logcosh", "huber", "cosine_similarity"): (numbers, None),
    ("categorical_hinge",): (one_hot, None),
    ("binary_crossentropy", "binary_focal_crossentropy"): (bits, "sigmoid"),
    ("categorical_crossentropy", "categorical_focal_crossentropy"): (one_hot, "softmax"),
    ("sparse_categorical_crossentropy",): (classes, "softmax"),
}
NAME_KINDS = named([Kind(name, *of_them) for names, of_them in _OF_NAMES.items() for name in names])


def asymmetric(labels: Any, outputs: Any) -> Any:
    """A function of a user's own."""
    return tf.reduce_mean(tf.nn.relu(labels - outputs) + 0.3 * tf.square(outputs), -1)


class Quartic(LOSSES.Loss):
    """A loss class of a user's own."""

    def call(self, labels: Any, outputs: Any) -> Any:
        return tf.reduce_sum((labels - outputs) ** 4, -1)


# --- models --------------------------------------------------------------------------------------------------------


def of_vectors(kind: Kind, *, loss: Any = None, scale: float = 1.0, apart: bool = False) -> Case:
    """One layer on vectors.

    Args:
        kind: the loss.
        loss: stands in for it.
        scale: of the inputs, and so of the outputs before their activation.
        apart: whether the activation is a layer of its own.
    """
    last = [L.Dense(CLASSES), L.Activation(kind.ending)] if apart else [L.Dense(CLASSES, kind.ending)]
    model = tf.keras.Sequential([L.Input((4,)), *last])
    labels = kind.labels(1)[:, 0] if kind.labels in (classes, one_hot) else kind.labels()
    return Case(model=filled(model), x=scale * values(4), y=labels, loss=kind.made() if loss is None else loss)


def of_steps(kind: Kind, *, reduction: str, masked: bool, weighted: bool) -> Case:
    """One layer on each step of sequences, the last of which may be padding."""
    layers = [L.Masking()] if masked else []
    model = tf.keras.Sequential([L.Input((STEPS, 4)), *layers, L.Dense(CLASSES, kind.ending)])
    x = values(STEPS, 4)
    for row, length in enumerate(LENGTHS):
        x[row, length:] = 0.0
    weights = {"sample_weight": np.abs(values(STEPS, seed=8))} if weighted else {}
    return Case(model=filled(model), x=x, y=kind.labels(STEPS), loss=kind.made(reduction=reduction), weights=weights)


# --- tests ---------------------------------------------------------------------------------------------------------

KINDS = {**CLASS_KINDS, **NAME_KINDS}
# Keras finds the numbers before these activations again, so that its gradient does not vanish where they saturate.
CACHED = [kind for kind, one in CLASS_KINDS.items() if one.ending in ("softmax", "sigmoid")]
MASKED = [kind for kind in CLASS_KINDS if "axis" not in kind]  # along time there is no value for each step
FIRST = list({one.name: kind for kind, one in reversed(CLASS_KINDS.items())}.values())  # of each class
EACH = (
    *("MeanSquaredError", "BinaryCrossentropy, sigmoid", "SparseCategoricalCrossentropy, softmax"),
    "SparseCategoricalCrossentropy, from_logits, ignore_class 2",
)


def in_cases(kinds: Iterable[str], *reductions: str) -> tuple[str, ...]:
    """Ids of cases that have a loss and a reduction."""
    return tuple(f"{kind}-{reduction}" for kind in kinds for reduction in reductions)


@pytest.mark.slow_but(
    "MeanSquaredError",
    "CategoricalCrossentropy, softmax",
    "SparseCategoricalCrossentropy, from_logits, ignore_class 2",
    "BinaryCrossentropy, sigmoid",
    "mae",
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_moves_as_in_keras(kind: str) -> None:
    check(of_vectors(KINDS[kind]))


@pytest.mark.slow_but("huber", "MAPE", "categorical_crossentropy, softmax")
@pytest.mark.parametrize("kind", NAME_KINDS)
def test_a_function_of_keras_moves_as_its_name_does(kind: str) -> None:
    one = NAME_KINDS[kind]
    check(of_vectors(one, loss=getattr(LOSSES, one.name)))


@pytest.mark.slow_but(
    "KLDivergence, softmax-one layer",
    "CategoricalCrossentropy, softmax, label_smoothing 0.2-one layer",
    "SparseCategoricalCrossentropy, softmax, ignore_class 2-one layer",
)
@pytest.mark.parametrize("apart", [True, False], ids=["apart", "one layer"])
@pytest.mark.parametrize("kind", CACHED)
def test_outputs_that_saturate_move_as_in_keras(kind: str, apart: bool) -> None:
    check(of_vectors(CLASS_KINDS[kind], scale=30.0, apart=apart))


@pytest.mark.parametrize("loss", [asymmetric, lambda y, p: tf.abs(y - p), Quartic(), Quartic(reduction=R.SUM)])
def test_a_loss_of_a_users_own_moves_as_in_keras(loss: Any) -> None:
    check(of_vectors(CLASS_KINDS["MeanSquaredError"], loss=loss))


@pytest.mark.slow_but("MeanSquaredError-auto", "SparseCategoricalCrossentropy, from_logits, ignore_class 2-sum")
@pytest.mark.parametrize("reduction", [R.AUTO, R.SUM, R.NONE])
@pytest.mark.parametrize("kind", MASKED)
def test_a_loss_of_masked_and_weighted_steps_moves_as_in_keras(kind: str, reduction: str) -> None:
    check(of_steps(CLASS_KINDS[kind], reduction=reduction, masked=True, weighted=True))


@pytest.mark.slow_but(
    "MeanSquaredError-sum",
    "CosineSimilarity, axis 1-auto",
    "SparseCategoricalCrossentropy, from_logits, ignore_class 2-none",
)
@pytest.mark.parametrize("reduction", [R.AUTO, R.SUM, R.NONE, R.SUM_OVER_BATCH_SIZE])
@pytest.mark.parametrize("kind", CLASS_KINDS)
def test_a_loss_of_steps_moves_as_in_keras(kind: str, reduction: str) -> None:
    check(of_steps(CLASS_KINDS[kind], reduction=reduction, masked=False, weighted=False))


@pytest.mark.slow
@pytest.mark.parametrize("kind", MASKED)
def test_a_loss_moves_as_in_keras_by_the_way_that_fit_chooses(kind: str) -> None:
    check(of_steps(CLASS_KINDS[kind], reduction=R.AUTO, masked=True, weighted=True), chosen=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CACHED)
def test_outputs_that_saturate_move_as_in_keras_by_the_way_that_fit_chooses(kind: str) -> None:
    check(of_vectors(CLASS_KINDS[kind], scale=30.0), chosen=True)


@pytest.mark.slow_but("CategoricalCrossentropy, softmax")
@pytest.mark.parametrize("kind", ["BinaryCrossentropy, sigmoid", "CategoricalCrossentropy, softmax"])
def test_a_loss_that_runs_row_by_row_finds_those_numbers_too(kind: str) -> None:
    """No rule covers its `Where`; it keeps everything."""
    one = CLASS_KINDS[kind]
    keras = LOSSES.get(re.sub(r"(?<!^)(?=[A-Z])", "_", one.name).lower())

    def loss(labels: Any, outputs: Any) -> Any:
        each = keras(labels, outputs)
        return tf.reshape(tf.boolean_mask(each, tf.logical_not(each < -1.0)), tf.shape(each))

    case = of_vectors(one, scale=30.0, loss=loss)
    found = ModelLosses(case.model, per_example_loss(loss)).isolated()
    traced = tf.function(lambda x, y: tf.gradients(found(x, y, True), case.model.trainable_variables), autograph=False)
    shapes = (tf.TensorSpec([None, *part.shape[1:]], part.dtype) for part in (case.x, case.y))
    update = [
        tf.convert_to_tensor(part).numpy().astype(np.float64)
        for part in traced.get_concrete_function(*shapes)(tf.constant(case.x), tf.constant(case.y))
    ]
    require_equal(update, keras_update(case))


def test_every_loss_of_keras_has_a_case_or_is_refused() -> None:
    found = inspect.getmembers(LOSSES, inspect.isclass)
    losses = {name for name, kind in found if issubclass(kind, LOSSES.Loss) and kind is not LOSSES.Loss}
    assert losses - REFUSED == {kind.name for kind in CLASS_KINDS.values()}
    no_losses = {"get", "serialize", "deserialize"}
    functions = {name for name, _ in inspect.getmembers(LOSSES, inspect.isfunction)} - no_losses
    assert functions - REFUSED == {kind.name for kind in NAME_KINDS.values()}


def test_the_guide_names_each_loss_and_its_options() -> None:
    assert named_in_guide("loss") == {kind.name for kind in CLASS_KINDS.values()}
    given = {option for kind in CLASS_KINDS.values() for option in kind.options}
    table = GUIDE.read_text().partition("| loss | options |")[2].partition("\n\n")[0]
    assert all(f"`{option}`" in table for option in given)


@pytest.mark.slow_but("squared_hinge")
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_loss_that_reads_all_labels_is_refused(name: str) -> None:
    model = tf.keras.Sequential([L.Input((4,)), L.Dense(CLASSES)])
    private = make_private(model, PLAN, optimizer="sgd", loss=name)
    with pytest.raises(BadInputError, match="the loss"):
        private.examine(values(4), bits())
