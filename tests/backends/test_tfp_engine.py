"""The private step: noise of the right size, clipping of single examples, and models it must refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from privacy_pipeline.backends.tfp.engine import TfpModel
from privacy_pipeline.backends.tfp.models import clips_fast, require_private, without_state
from privacy_pipeline.backends.tfp.step import private_step
from privacy_pipeline.dp import ExampleStore, PrivacyPlan
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks.binary import BINARY

WIDTH = 5
ALMOST_NO_NOISE = 1e-9
EXPECTED = 20.0  # of batches that hold 16
layers = tf.keras.layers


@pytest.fixture(autouse=True)
def _no_seed() -> None:
    """Takes back a seed of TensorFlow's that another test has set."""
    tf.random.set_seed(None)


def perceptron(*, between: Callable[[], Any] | None = None, width: int = WIDTH) -> Any:
    source = tf.keras.Input((width,), name="features")
    hidden = layers.Dense(4, activation="relu")(source)
    if between is not None:
        hidden = between()(hidden)
    return tf.keras.Model(source, layers.Dense(1)(hidden))


def with_shared_layer() -> Any:
    source = tf.keras.Input((WIDTH,), name="features")
    shared = layers.Dense(WIDTH, activation="relu")
    return tf.keras.Model(source, layers.Dense(1)(shared(shared(source))))


def batch(rows: int) -> tuple[dict[str, Any], Any]:
    random = np.random.default_rng(3)
    features = (random.normal(size=(rows, WIDTH)) * np.linspace(0.01, 20, rows)[:, None]).astype(np.float32)
    return {"features": features}, (np.arange(rows) % 2).astype(np.float32)[:, None]


def make_step(model: Any, *, noise_multiplier: float, clipping_norm: float, expected: float, width: int = WIDTH) -> Any:
    return private_step(
        model,
        tf.keras.optimizers.SGD(1.0),
        loss=BINARY.loss(),
        clipping_norm=clipping_norm,
        noise_multiplier=noise_multiplier,
        expected_batch_size=expected,
        spec=({"features": tf.TensorSpec([None, width])}, tf.TensorSpec([None, 1])),
    )


def clipped_mean(model: Any, inputs: dict[str, Any], labels: Any, *, bound: float) -> tuple[list[Any], list[float]]:
    """One gradient for each example, one after the other: what the fast forms must agree with."""
    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    total = [np.zeros(v.shape) for v in model.trainable_variables]
    norms = []
    for row in range(len(labels)):
        with tf.GradientTape() as tape:
            value = loss(labels[row : row + 1], model(inputs["features"][row : row + 1], training=True))
        gradient = [g.numpy() for g in tape.gradient(value, model.trainable_variables)]
        norms.append(float(np.sqrt(sum((g**2).sum() for g in gradient))))
        factor = min(1.0, bound / max(norms[-1], 1e-12))
        total = [t + g * factor for t, g in zip(total, gradient, strict=True)]
    return [t / EXPECTED for t in total], norms


@pytest.mark.parametrize(
    ("make", "fast"),
    [(perceptron, True), (lambda: perceptron(between=layers.LeakyReLU), False), (with_shared_layer, False)],
)
def test_the_update_is_the_clipped_sum_over_the_expected_batch(make: Callable[[], Any], fast: bool) -> None:
    model = make()
    assert clips_fast(model) is fast
    inputs, labels = batch(16)
    bound = 1.0
    expected, norms = clipped_mean(model, inputs, labels, bound=bound)
    assert min(norms) < bound < max(norms)  # else the comparison would say nothing about clipping
    before = [v.numpy() for v in model.trainable_variables]
    make_step(model, clipping_norm=bound, noise_multiplier=ALMOST_NO_NOISE, expected=EXPECTED)(inputs, labels)

    for old, new, gradient in zip(before, model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(old - new.numpy(), gradient, atol=2e-6)


@pytest.mark.parametrize("between", [None, layers.LeakyReLU])
def test_an_outlier_moves_the_weights_by_no_more_than_the_clipping_norm(between: Callable[[], Any] | None) -> None:
    model = perceptron(between=between)
    inputs, labels = {"features": np.full((1, WIDTH), 1e4, np.float32)}, np.ones((1, 1), np.float32)
    model.layers[-1].bias.assign([-1e6])  # as wrong as can be
    before = [v.numpy() for v in model.trainable_variables]
    step = make_step(model, clipping_norm=0.25, noise_multiplier=ALMOST_NO_NOISE, expected=1.0)
    step(inputs, labels)
    moved = np.sqrt(sum(((a - b.numpy()) ** 2).sum() for a, b in zip(before[:-1], model.trainable_variables[:-1])))
    assert moved <= 0.25 * (1 + 1e-5)


@pytest.mark.parametrize("rows", [8, 0])
@pytest.mark.parametrize("between", [None, lambda: layers.Dropout(0.5)])
def test_noise_has_the_planned_size_whatever_the_batch(between: Callable[[], Any] | None, rows: int) -> None:
    width, noise_multiplier, bound, expected = 1500, 1.3, 0.7, 12.0
    source = tf.keras.Input((width,), name="features")
    hidden = source if between is None else between()(source)
    model = tf.keras.Model(source, layers.Dense(1)(hidden))
    assert clips_fast(model) is (between is None)
    # A row of zeros that the model is sure of has a zero gradient, so that the update is the noise alone.
    model.layers[-1].bias.assign([1000.0])
    inputs, labels = {"features": np.zeros((rows, width), np.float32)}, np.ones((rows, 1), np.float32)
    step = make_step(model, clipping_norm=bound, noise_multiplier=noise_multiplier, expected=expected, width=width)
    updates = []
    for _ in range(4):
        before = model.layers[-1].kernel.numpy()
        step(inputs, labels)
        updates.append((model.layers[-1].kernel.numpy() - before).ravel())
    noise = np.concatenate(updates) / (noise_multiplier * bound / expected)

    # 6,000 draws: the right size is refused once in 10^6 runs, the wrong ones are accepted less often than that.
    assert stats.kstest(noise, "norm").pvalue > 1e-6
    assert stats.kstest(noise / 0.8, "norm").pvalue < 1e-6
    assert stats.kstest(noise / 1.25, "norm").pvalue < 1e-6
    assert abs(np.corrcoef(updates[0], updates[1])[0, 1]) < 0.15  # steps do not share their noise


def test_dropout_never_takes_the_two_pass_form() -> None:
    assert not clips_fast(perceptron(between=lambda: layers.Dropout(0.5)))


def regularized() -> Any:
    source = tf.keras.Input((WIDTH,))
    return tf.keras.Model(source, layers.Dense(1, kernel_regularizer="l2")(source))


def activity_regularized() -> Any:
    source = tf.keras.Input((WIDTH,))
    return tf.keras.Model(source, layers.Dense(1, activity_regularizer="l2")(source))


def with_added_loss() -> Any:
    model = perceptron()
    model.add_loss(tf.reduce_sum(model.outputs[0]))
    return model


def with_learnt_bins() -> Any:
    bins = layers.Discretization(num_bins=2)
    bins.adapt(np.arange(8.0))
    source = tf.keras.Input((WIDTH,))
    return tf.keras.Model(source, layers.Dense(1)(layers.Flatten()(layers.Embedding(2, 2)(bins(source)))))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: perceptron(between=layers.BatchNormalization), "BatchNormalization"),
        (with_learnt_bins, "adapted to data"),
        (regularized, "losses"),
        (activity_regularized, "losses"),
        (with_added_loss, "losses"),
    ],
)
def test_models_that_clipping_does_not_bound_are_refused(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        require_private(make())


def test_a_nested_batch_normalization_is_found() -> None:
    source = tf.keras.Input((WIDTH,))
    inner = perceptron(between=layers.BatchNormalization)
    with pytest.raises(BadInputError, match="BatchNormalization"):
        require_private(tf.keras.Model(source, inner(source)))


def test_untrained_variables_are_put_back() -> None:
    model = perceptron(between=layers.BatchNormalization)
    before = [v.numpy() for v in model.non_trainable_variables]
    with without_state(model):
        model(np.full((4, WIDTH), 9.0, np.float32), training=True)
        assert any((a != b.numpy()).any() for a, b in zip(before, model.non_trainable_variables, strict=True))
    for old, new in zip(before, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


class Box(tf.Module):  # type: ignore[misc]
    """A module with a table, which a check of the layer's own attributes does not find."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, 0.0)


class Keeps(layers.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.box = Box()

    def call(self, x: Any) -> Any:
        with tf.control_dependencies([self.box.table.insert(tf.strings.as_string(x[:, 0]), x[:, 0])]):
            return tf.identity(x)


class CallsPython(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        found = tf.numpy_function(lambda values: values, [x], tf.float32)
        found.set_shape(x.shape)
        return found


def centred() -> Any:
    return layers.Lambda(lambda x: x - tf.stop_gradient(tf.reduce_mean(x, 0)))


def under_a_plan(model: Any) -> TfpModel:
    plan = PrivacyPlan.calibrated(
        units=16, expected_batch_size=8, steps=2, noise_multiplier=1.0, delta=1e-5, clipping_norm=1.0
    )
    return TfpModel(model=model, plan=plan, optimizer=tf.keras.optimizers.SGD(0.1), loss=BINARY.loss(), seed=None)


@pytest.mark.parametrize(
    ("between", "says"),
    [(Keeps, "LookupTableInsert"), (CallsPython, "PyFunc"), (centred, "mixes the examples of a batch")],
)
def test_models_are_checked_as_by_the_native_engine(between: Callable[[], Any], says: str) -> None:
    x, y = batch(16)
    model = perceptron(between=between)
    weights = [value.copy() for value in model.get_weights()]
    made = under_a_plan(model)
    with pytest.raises(BadInputError, match=says):
        made.examine({"features": tf.TensorSpec([None, WIDTH])}, tf.TensorSpec([None, 1]))
    with pytest.raises(BadInputError, match=says):
        made.fit(ExampleStore.from_arrays(x, y))
    for value, old in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(value, old)


def test_the_verdict_is_kept_with_what_ran() -> None:
    made = under_a_plan(perceptron())
    assert made.examine({"features": tf.TensorSpec([None, WIDTH])}, tf.TensorSpec([None, 1])).kind == "proven"
    assert made.fit(ExampleStore.from_arrays(*batch(16))).verdict.kind == "proven"


def largest_of_the_batch(x: Any) -> Any:
    """Turns the signs of all rows where one holds a value that no made-up row has."""
    found = tf.cast(tf.abs(x[:, :1] - 1234.5) < 0.1, tf.float32)
    most = tf.math.segment_max(tf.stop_gradient(found), tf.zeros(tf.shape(found)[:1], tf.int32))
    return x * (1.0 - 2.0 * tf.minimum(most, 1.0))


class Counting:
    """Mixes the rows from a number of calls on, so that what is examined is not what is trained."""

    def __init__(self) -> None:
        self.calls, self.last_honest = 0, 10**9

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        return x * 1.0 if self.calls <= self.last_honest else largest_of_the_batch(x)


def moved_by_one_row(model: Any) -> float:
    """How far one replaced row of 32 moves the clipped sum, in clipping norms."""
    step = make_step(model, noise_multiplier=0.0, clipping_norm=0.1, expected=1.0, width=3)
    before, releases = model.get_weights(), []
    rows = np.random.default_rng(0).normal(3.0, 1.0, (32, 3)).astype(np.float32)
    for first in (rows[0], np.full(3, 1234.5, np.float32)):
        model.set_weights(before)
        step({"features": tf.constant(np.concatenate([first[None], rows[1:]]))}, tf.zeros((32, 1)))
        releases.append([a - b for a, b in zip(model.get_weights(), before, strict=True)])
    return float(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(*releases, strict=True)))) / 0.1


@pytest.mark.slow_but("always-activation")
@pytest.mark.parametrize("where", ["activation", "of a layer"])
@pytest.mark.parametrize("counting", [False, True], ids=["always", "later"])
def test_a_users_function_runs_on_single_examples(where: str, counting: bool) -> None:
    function = Counting() if counting else largest_of_the_batch
    source = tf.keras.Input((3,), name="features")
    layer = layers.Activation(function) if where == "activation" else layers.Dense(3, activation=function)
    model = tf.keras.Model(source, layers.Dense(1)(layer(source)))
    if isinstance(function, Counting):
        function.last_honest = function.calls
    assert not clips_fast(model)
    assert moved_by_one_row(model) <= 2.0 + 1e-5


def test_keras_own_activations_and_axes_of_features_are_fast() -> None:
    source = tf.keras.Input((3,), name="features")
    parts = [layers.Dense(2, activation="gelu")(source), layers.Activation("softmax")(layers.Dense(2)(source))]
    assert clips_fast(tf.keras.Model(source, layers.Dense(1)(layers.Concatenate()(parts))))
    assert not clips_fast(tf.keras.Model(source, layers.Dense(1)(layers.Concatenate(axis=0)([source, source]))))


def test_a_call_that_is_not_run_is_refused() -> None:
    class Other(tf.keras.Model):  # type: ignore[misc]
        def call(self, x: Any, training: Any = None) -> Any:
            return self.layers[-1](x)

    source = tf.keras.Input((3,), name="features")
    with pytest.raises(BadInputError, match="Other has a `call` of its own"):
        require_private(Other(source, layers.Dense(1)(layers.Dense(3)(source))))


def test_a_step_that_keeps_rows_is_refused() -> None:
    kept = tf.Variable(tf.zeros([3]), trainable=False)

    def keep(x: Any) -> Any:
        kept.assign(tf.reduce_max(x, 0))
        return x

    source = tf.keras.Input((3,), name="features")
    model = tf.keras.Model(source, layers.Dense(1)(layers.Activation(keep)(source)))
    with pytest.raises(BadInputError, match="assigns variables during a call"):
        make_step(model, noise_multiplier=1.0, clipping_norm=1.0, expected=1.0, width=3)


@pytest.mark.slow
def test_a_seed_that_a_models_code_set_does_not_fix_the_noise() -> None:
    plan = PrivacyPlan.calibrated(
        units=16, expected_batch_size=16, steps=1, noise_multiplier=1.0, delta=1e-5, clipping_norm=1.0
    )
    inputs, labels = batch(16)
    store, found = ExampleStore(inputs, labels), {}
    for seed in (None, 3):
        for run in range(2):
            tf.keras.utils.set_random_seed(7)
            model = perceptron()
            TfpModel(model=model, plan=plan, optimizer=tf.keras.optimizers.SGD(1.0), loss=BINARY.loss(), seed=seed).fit(
                store
            )
            found[seed, run] = model.get_weights()[0]
    assert not np.array_equal(found[None, 0], found[None, 1])
    np.testing.assert_array_equal(found[3, 0], found[3, 1])


def test_a_step_that_draws_from_a_seed_claims_nothing() -> None:
    tf.keras.utils.set_random_seed(7)
    with pytest.raises(BadInputError, match="draws from a fixed seed"):
        make_step(perceptron(), noise_multiplier=1.0, clipping_norm=1.0, expected=1.0)
