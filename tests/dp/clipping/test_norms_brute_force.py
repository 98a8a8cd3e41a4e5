"""Norms and clipped sums in training mode against a loop over single rows: masks, shared layers, outputs, weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp.checks.validator import validate
from privacy_pipeline.dp.clipping.gradients import BookKeeping, Vectorised
from privacy_pipeline.dp.clipping.groups import make_groups
from privacy_pipeline.dp.clipping.intercept import NeedsWholeModelError
from privacy_pipeline.dp.noise.masks import keyed_masks, masks_of_row
from privacy_pipeline.dp.training.from_keras.model_losses import per_example_loss

L = tf.keras.layers
ROWS, NORM = 4, 0.6
HALVES = ["mixed_bfloat16", "mixed_float16"]
SEED = tf.constant([5, 6], tf.int64)


def values(*shape: int, seed: int = 0) -> Any:
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def filled(model: Any) -> Any:
    """Random weights: those that start at constants would hide errors."""
    random = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape, scale=0.4))
    return model


def of(*layers: Any, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    last = L.Dense(2, dtype="float32")
    return filled(tf.keras.Sequential([L.Input(shape, dtype=dtype), *layers, L.Flatten(), last]))


def losses_of(model: Any, loss: Any) -> Any:
    function = per_example_loss(loss)
    return lambda x, y, training: function(y, model(x, training=training))


def single(losses: Any, variables: Any, x: Any, y: Any, row: int) -> list[np.ndarray]:
    """Gradients of one row by a tape, in training mode."""
    own_x, own_y = (tf.nest.map_structure(lambda v: v[row : row + 1], nest) for nest in (x, y))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        loss = tf.reduce_sum(losses(own_x, own_y, True))
    found = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(gradient).numpy().astype(np.float64) for gradient in found]


def compare(
    model: Any, x: Any, y: Any, loss: Any = "mse", *, tolerance: float = 1e-5, slow: int = 0, per_layer: bool = False
) -> None:
    losses, variables = losses_of(model, loss), list(model.trainable_variables)
    groups = make_groups(model, variables, norm=NORM, per_layer=per_layer)
    keeping = BookKeeping(model=model, losses=losses, variables=variables, groups=groups, memory_cap=4096)
    assert len(keeping.targets.slow) == slow
    rows = [single(losses, variables, x, y, row) for row in range(ROWS)]
    norms = np.array([[np.linalg.norm(gradient) for gradient in row] for row in rows]).T
    sums = [np.zeros(variable.shape) for variable in variables]
    for row, own in zip(rows, norms.T, strict=True):
        squared = np.zeros(len(groups.norms))
        np.add.at(squared, list(groups.members), np.square(own))
        factors = np.minimum(1, np.array(groups.norms) / np.sqrt(squared))
        for held, gradient, member in zip(sums, row, groups.members, strict=True):
            held += factors[member] * gradient

    @tf.function(autograph=False)
    def run(a: Any, b: Any) -> Any:
        return keeping.squared_norms(a, b, training=True), keeping.clipped_sum(a, b, training=True)

    squared_norms, found_sums = run(x, y)
    whole = np.sqrt(np.square(norms).sum(0))
    found = np.sqrt(np.array([value.numpy() for value in squared_norms]))
    assert np.all(np.abs(found - norms) <= tolerance * whole)
    length = np.sqrt(sum(np.square(value).sum() for value in sums))
    for value, right in zip(found_sums, sums, strict=True):
        assert value.dtype == tf.float32
        assert np.linalg.norm(value.numpy() - right) <= tolerance * length


NETWORKS = {
    "dense": (lambda: [L.Dense(5, "gelu"), L.Dense(3, use_bias=False)], (4,), 0),
    "sequence": (lambda: [L.Dense(5, "tanh"), L.Conv1D(3, 2, padding="causal"), L.LayerNormalization()], (6, 3), 0),
    "image": (lambda: [L.Conv2D(4, 2, groups=2), L.GroupNormalization(2), L.DepthwiseConv2D(2)], (5, 5, 2), 0),
    "ghost": (lambda: [L.Conv2D(20, 3, strides=2)], (5, 5, 20), 0),
    "recurrent": (lambda: [L.LSTM(3, return_sequences=True), L.GRU(3)], (4, 2), 0),
    "einsum": (lambda: [L.EinsumDense("abc,cd->abd", (3, 4), bias_axes="d")], (3, 2), 0),
    "no rule": (lambda: [L.PReLU(), L.TimeDistributed(L.Dense(3))], (4, 2), 2),
}


@pytest.mark.slow_but("einsum-False")
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_training_mode(kind: str, per_layer: bool) -> None:
    layers, shape, slow = NETWORKS[kind]
    compare(of(*layers(), shape=shape), values(ROWS, *shape), values(ROWS, 2), slow=slow, per_layer=per_layer)


@pytest.mark.slow_but("einsum-mixed_bfloat16")
@pytest.mark.parametrize("policy", HALVES)
@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "no rule"])
def test_mixed_precision(kind: str, policy: str) -> None:
    """The tape's gradients are rounded to half precision, so the tolerance is its rounding; see the next test."""
    layers, shape, _ = NETWORKS[kind]
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        model = of(*layers(), shape=shape)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert validate(model) == []
    compare(model, values(ROWS, *shape), values(ROWS, 2), tolerance=3e-2)


@pytest.mark.slow_but("dense-mixed_bfloat16", "einsum-mixed_float16")
@pytest.mark.parametrize("policy", HALVES)
@pytest.mark.parametrize("kind", ["dense", "sequence", "image", "ghost", "einsum"])
def test_the_bound_of_mixed_precision_is_exact(kind: str, policy: str) -> None:
    """One row moves the sum by the norm and no rounding of half precision more."""
    layers, shape, _ = NETWORKS[kind]
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        model = of(*layers(), shape=shape)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    variables = list(model.trainable_variables)
    keeping = BookKeeping(
        model=model,
        losses=losses_of(model, "mse"),
        variables=variables,
        groups=make_groups(model, variables, norm=NORM, per_layer=False),
        memory_cap=4096,
    )
    run = tf.function(lambda a, b: keeping.clipped_sum(a, b, training=True), autograph=False, reduce_retracing=True)
    x, y = values(ROWS, *shape), 20 * values(ROWS, 2)
    for row in range(ROWS):
        alone = run(x[row : row + 1], y[row : row + 1])
        length = np.sqrt(sum(np.square(value.numpy().astype(np.float64)).sum() for value in alone))
        assert length <= NORM
        assert length >= 0.999 * NORM


def test_a_layer_without_rule_in_half_precision_takes_the_whole_model() -> None:
    model = of(L.PReLU(dtype="mixed_bfloat16"), shape=(3,))
    with pytest.raises(NeedsWholeModelError, match="bfloat16"):
        BookKeeping(
            model=model,
            losses=losses_of(model, "mse"),
            variables=model.trainable_variables,
            groups=make_groups(model, model.trainable_variables, norm=NORM, per_layer=False),
            memory_cap=4096,
        )


@pytest.mark.slow
def test_masks_shared_layers_and_several_outputs() -> None:
    words, numbers = L.Input((5,), dtype="int32", name="words"), L.Input((3,), name="numbers")
    held = L.Bidirectional(L.LSTM(3))(L.Embedding(6, 4, mask_zero=True)(words))
    shared = L.Dense(4, "tanh")
    joined = L.Add()([shared(numbers), shared(L.Dense(3)(held))])
    model = filled(tf.keras.Model([words, numbers], {"a": L.Dense(1)(joined), "b": L.Dense(3)(joined)}))
    ids = np.random.default_rng(2).integers(0, 6, (ROWS, 5))
    ids[:, 0] = 1
    y = {"a": values(ROWS, 1), "b": tf.constant([0, 1, 2, 1])}
    loss = {"a": "mse", "b": tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    compare(model, [tf.constant(ids, tf.int32), values(ROWS, 3)], y, loss)


def test_dropout_of_rate_zero_in_training_mode() -> None:
    compare(of(L.Dense(5), L.Dropout(0.0), L.Dense(4), shape=(3,)), values(ROWS, 3), values(ROWS, 2))


def test_each_row_has_the_masks_that_it_has_alone() -> None:
    """Rows run one by one draw masks by their number; a tape under the same number finds the same gradients."""
    model = of(L.Dense(6), L.Dropout(0.5), shape=(3,))
    losses, variables, x, y = losses_of(model, "mse"), list(model.trainable_variables), values(ROWS, 3), values(ROWS, 2)
    groups = make_groups(model, variables, norm=NORM, per_layer=False)
    clipper = Vectorised(losses=losses, variables=variables, groups=groups, memory_cap=4096, one_by_one=True)

    @tf.function(autograph=False)
    def run(a: Any, b: Any) -> Any:
        with keyed_masks(model, SEED):
            return clipper.squared_norms(a, b, training=True)

    found = np.sqrt(np.array([value.numpy() for value in run(x, y)]))
    for row in range(ROWS):
        with keyed_masks(model, SEED), masks_of_row(tf.constant(row)):
            right = [np.linalg.norm(gradient) for gradient in single(losses, variables, x, y, row)]
        np.testing.assert_allclose(found[:, row], right, rtol=1e-5, atol=1e-6)


def weighted(y: Any, p: Any) -> Any:
    """Labels with a column of sample weights."""
    return y[:, 1] * tf.reduce_mean(tf.square(y[:, :1] - p), -1)


def by_class(y: Any, p: Any) -> Any:
    """Class weights, constants of the loss."""
    weights = tf.gather(tf.constant([1.0, 10.0]), tf.cast(y[:, 0], tf.int32))
    return weights * tf.keras.losses.binary_crossentropy(y, p[:, :1], from_logits=True)


FOCAL = tf.keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, from_logits=True)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (weighted, [[0, 0.5], [1, 1.0], [1, 7.0], [0, 0.1]]),
        (by_class, [[0], [1], [1], [0]]),
        (FOCAL, [[0, 0], [1, 0], [1, 1], [0, 1]]),
    ],
    ids=["weights column", "class weights", "focal"],
)
def test_sample_and_class_weights_inside_the_loss(loss: Any, y: Any) -> None:
    model = of(L.Dense(4, "tanh"), shape=(3,))
    compare(model, values(ROWS, 3), tf.constant(y, tf.float32), loss)


def test_a_row_of_weight_zero_adds_nothing() -> None:
    model = of(L.Dense(4, "tanh"), shape=(3,))
    variables = list(model.trainable_variables)
    groups = make_groups(model, variables, norm=NORM, per_layer=False)
    keeping = BookKeeping(
        model=model, losses=losses_of(model, weighted), variables=variables, groups=groups, memory_cap=4096
    )
    sums = keeping.clipped_sum(values(1, 3), tf.constant([[3.0, 0.0]]), training=True)
    assert all(np.all(value.numpy() == 0) for value in sums)
