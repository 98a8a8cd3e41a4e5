"""What the clipped sum guarantees: no example moves it by more than the norm, whatever the example holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy_pipeline.dp.clipping.groups import Groups, factors_of
from privacy_pipeline.dp.clipping.parts import MatrixPart, OuterPart, VectorPart

L = tf.keras.layers


def total_norm(tensors: Any) -> float:
    return float(tf.linalg.global_norm(tensors))


def layers() -> list[Any]:
    return [L.Conv1D(3, 2, activation="relu"), L.LayerNormalization(), L.Dense(3, activation="tanh")]


@pytest.fixture(scope="module", params=["flat", "per_layer", "vectorised"])
def summed(request: Any, make_case: Any) -> Any:
    """A compiled clipped sum of (x, y, present), and its norm."""
    case = make_case(layers(), (5, 2), norm=0.5, per_layer=request.param == "per_layer")
    clipper = case.vectorised() if request.param == "vectorised" else case.keeping()
    signature = (
        tf.TensorSpec([None, 5, 2], tf.float32),
        tf.TensorSpec([None, 2], tf.float32),
        tf.TensorSpec([None], tf.bool),
    )

    @tf.function(input_signature=signature, autograph=False)
    def run(x: Any, y: Any, present: Any) -> Any:
        return clipper.clipped_sum(x, y, training=True, present=present)

    return run


def batch(seed: int, rows: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 5, 2), scale=scale).astype(np.float32)
    return x, random.normal(size=(rows, 2), scale=scale).astype(np.float32), np.ones(rows, bool)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 6), scale=st.sampled_from([1e-3, 1.0, 1e3, 1e6, 1e25]))
def test_one_example_moves_the_sum_by_the_norm_at_most(summed: Any, seed: int, rows: int, scale: float) -> None:
    x, y, present = batch(seed, rows, scale)
    before = summed(x, y, present)
    without = [summed(x, y, np.arange(rows) < rows - 1)]
    # In a batch of another shape the gradients of the other rows round otherwise, which shows at large scales alone.
    if scale <= 1e3:
        without.append(summed(x[:-1], y[:-1], present[:-1]))
    for after in without:
        assert total_norm([a - b for a, b in zip(before, after, strict=True)]) <= 0.5 * (1 + 1e-5)


def test_large_gradients_use_the_whole_norm(summed: Any) -> None:
    x, y, present = batch(1, 1, 1e3)
    assert total_norm(summed(x, y, present)) > 0.25


@pytest.mark.parametrize(("place", "bad"), [("x", np.nan), ("x", np.inf), ("y", np.nan), ("y", -np.inf), ("y", 3e38)])
def test_examples_with_non_finite_gradients_count_as_nothing(summed: Any, bad: float, place: str) -> None:
    x, y, present = batch(2, 4)
    (x if place == "x" else y)[1] = bad
    found = summed(x, y, present)
    keep = [0, 2, 3]
    expected = summed(x[keep], y[keep], present[keep])
    for value, right in zip(found, expected, strict=True):
        assert np.all(np.isfinite(value.numpy()))
        np.testing.assert_allclose(value.numpy(), right.numpy(), atol=1e-6)


@pytest.mark.parametrize("large", [1e12, 1e20, 1e25, 1e30])
def test_a_finite_gradient_is_clipped_to_the_norm_however_long(summed: Any, large: float) -> None:
    """Its square is no float32 number; it neither counts as nothing nor passes."""
    x, y, present = batch(1, 1)
    usual = total_norm(summed(x, 1e3 * np.ones_like(y), present))
    y[:] = large
    assert total_norm(summed(x, y, present)) == pytest.approx(usual, rel=0.05)
    assert 0.25 < usual <= 0.5


@pytest.mark.parametrize("beside", [1e25, np.nan])
def test_a_long_gradient_changes_no_bit_of_another_units_norm(beside: float) -> None:
    random = np.random.default_rng(0)
    for shape in ((6, 9), (6, 2, 9)):
        inputs = random.normal(size=shape).astype(np.float32)
        outputs = random.normal(size=shape).astype(np.float32)
        kind: Any = OuterPart if len(shape) == 2 else MatrixPart
        usual = kind(tf.constant(inputs), tf.constant(outputs), tf.TensorShape([9, 9])).squared_norm()
        outputs[5] *= beside
        found = kind(tf.constant(inputs), tf.constant(outputs), tf.TensorShape([9, 9])).squared_norm()
        np.testing.assert_array_equal(found[:5], usual[:5])


@pytest.mark.parametrize("small", [1e-12, 1e-20, 1e-30])
def test_a_small_gradient_passes_unchanged(small: float) -> None:
    for part in (
        OuterPart(tf.ones([1, 2]), tf.fill([1, 3], small), tf.TensorShape([2, 3])),
        MatrixPart(tf.ones([1, 2, 2]), tf.fill([1, 2, 3], small), tf.TensorShape([2, 3])),
        VectorPart(tf.fill([1, 6], small)),
    ):
        groups = Groups(members=(0,), norms=(1e-10,))
        factors, count = factors_of([part.squared_norm()], groups, None, None, 1.0, tf.float32)
        expected = np.ravel(part.per_example()[0].numpy())
        np.testing.assert_allclose(np.ravel(part.weighted_sum(factors[0])), expected, rtol=2e-6)
        assert float(count) == 0.5


def test_padding_counts_as_nothing(summed: Any) -> None:
    x, y, present = batch(3, 4)
    present[2:] = False
    for value, right in zip(summed(x, y, present), summed(x[:2], y[:2], present[:2]), strict=True):
        np.testing.assert_allclose(value.numpy(), right.numpy(), atol=1e-6)


def test_inner_products_that_cancel_do_not_hide_a_norm() -> None:
    """Two positions whose gradients nearly cancel: the ghost norm may err upwards only."""
    random = np.random.default_rng(0)
    for size in (1e2, 1e4, 1e6):
        a = random.normal(size=(50, 1, 100)) * size
        d = random.normal(size=(50, 1, 100))
        inputs = np.concatenate([a, -a * (1 + 1e-4 * random.normal(size=a.shape))], 1).astype(np.float32)
        outputs = np.concatenate([d, d], 1).astype(np.float32)
        part = MatrixPart(tf.constant(inputs), tf.constant(outputs), tf.TensorShape([100, 100]))
        wide = np.einsum("btp,btq->bpq", inputs.astype(np.float64), outputs.astype(np.float64))
        right = np.square(wide).sum((1, 2))
        assert np.all(part.squared_norm().numpy() >= right * (1 - 1e-5))
