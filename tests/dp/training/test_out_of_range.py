"""Ids and labels out of range: bounded by structure, and no error shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.training.from_keras.model_losses import per_example_loss
from privacy_pipeline.errors import PipelineError

L = tf.keras.layers
WORDS = 4
SECRET = 4711


def model() -> Any:
    tf.keras.utils.set_random_seed(0)
    return tf.keras.Sequential([L.Input((2,), dtype="int32"), L.Embedding(WORDS, 3), L.Flatten(), L.Dense(1)])


def released(case_type: Any, ids: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    x = tf.constant(ids, tf.int32)
    keeping = case_type(model(), x, tf.ones([len(ids), 1]), norm=0.5).keeping()
    run = tf.function(
        lambda a, b: (keeping.squared_norms(a, b, training=True), keeping.clipped_sum(a, b, training=True))
    )
    norms, sums = run(x, tf.ones([len(ids), 1]))
    return np.array([norm.numpy() for norm in norms]), [value.numpy() for value in sums]


@pytest.mark.slow
@pytest.mark.parametrize("bad", [WORDS, WORDS + 1, 2 * WORDS, -1, -WORDS, 2**31 - 1, -(2**31)])
def test_an_id_out_of_range_counts_as_nothing_and_for_nobody_else(case_type: Any, bad: int) -> None:
    rows = [[0, 1], [1, 2], [3, 0]]
    norms, _ = released(case_type, rows)
    broken, sums = released(case_type, [[0, bad], *rows[1:]])
    np.testing.assert_array_equal(broken[:, 1:], norms[:, 1:])
    _, without = released(case_type, rows[1:])
    distance = np.sqrt(sum(np.square(a - b).sum() for a, b in zip(sums, without, strict=True)))
    assert 0 < distance <= 0.5 * (1 + 1e-5)


def test_the_same_row_twice_out_of_range_has_a_norm_of_the_rest(case_type: Any) -> None:
    table = 0
    both, one = (released(case_type, [[1, 2], ids])[0] for ids in ([WORDS, WORDS], [WORDS, 1]))
    assert both[table, 1] == 0
    assert one[table, 1] > 0


def plan(rows: int) -> PrivacyPlan:
    return PrivacyPlan.calibrated(
        units=rows, expected_batch_size=rows, steps=1, noise_multiplier=1.0, delta=1e-5, clipping_norm=1.0
    )


@pytest.mark.slow
def test_training_goes_on_with_ids_out_of_range() -> None:
    ids = np.array([[0, SECRET], [1, -3], [2, 3]], np.int32)
    made = model()
    assert make_private(made, plan(3), optimizer="sgd", loss="mse").fit(ids, np.ones(3, np.float32)).steps == 1
    assert all(np.all(np.isfinite(weight)) for weight in made.get_weights())


def _chain(error: BaseException | None) -> str:
    found = ""
    while error is not None:
        found += f"{error!r} {error.args} {getattr(error, 'message', '')}"
        error = error.__cause__ or error.__context__
    return found


def own_loss(y: Any, p: Any) -> Any:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int32), p)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32])
@pytest.mark.parametrize("named", [True, False])
def test_a_label_out_of_range_counts_as_nothing(named: bool, dtype: Any) -> None:
    loss = tf.keras.losses.SparseCategoricalCrossentropy()
    function = per_example_loss("sparse_categorical_crossentropy" if named else loss)
    outputs = tf.nn.softmax(tf.constant(np.random.default_rng(0).normal(size=(4, 3)), tf.float32))
    labels = np.array([0, 3, 2, 200], dtype)
    for given in (labels, labels[:, None]):
        found = function(tf.constant(given), outputs).numpy()
        right = -np.log(outputs.numpy()[[0, 2], [0, 2]])
        np.testing.assert_allclose(found, [right[0], 0, right[1], 0], rtol=1e-5)
    with_time = function(tf.constant([[0, -1], [2, 1]]), tf.reshape(tf.tile(outputs[:1], [4, 1]), [2, 2, 3])).numpy()
    assert with_time.shape == (2,)
    assert np.all(with_time > 0)


def test_a_class_that_is_ignored_stays_so() -> None:
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    found = per_example_loss(loss)(tf.constant([0, -1]), tf.zeros([2, 3])).numpy()
    np.testing.assert_allclose(found, [np.log(3), 0], rtol=1e-5)


class Sub(L.Embedding):
    """Has no rule, so that TensorFlow's own lookup runs, which refuses on a CPU."""


@pytest.mark.slow_but("label")
@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="a GPU's kernels raise no error")
@pytest.mark.parametrize("what", ["label", "id"])
def test_an_error_of_a_step_shows_no_value(what: str) -> None:
    tf.keras.utils.set_random_seed(0)
    table = L.Embedding(WORDS, 3) if what == "label" else Sub(WORDS, 3)
    made = tf.keras.Sequential([L.Input((2,), dtype="int32"), table, L.Flatten(), L.Dense(2)])
    x, y = np.zeros([3, 2], np.int32), np.zeros(3, np.int32)
    (y if what == "label" else x)[1] = SECRET
    private = make_private(made, plan(3), optimizer="sgd", loss=own_loss)
    with pytest.raises(PipelineError, match="out of range") as caught:
        private.fit(x, y)
    assert str(SECRET) not in _chain(caught.value)
