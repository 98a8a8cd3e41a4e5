"""The checker of clipping rules: every rule is compared with gradients that a tape computes one example at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp.clipping.gradients import BookKeeping, Vectorised
from privacy_pipeline.dp.clipping.groups import make_groups
from privacy_pipeline.dp.training.from_keras.model_losses import per_example_loss

TOLERANCE = 1e-5


def cut(nest: Any, rows: slice) -> Any:
    return tf.nest.map_structure(lambda value: value[rows], nest)


def count(nest: Any) -> int:
    return int(tf.nest.flatten(nest)[0].shape[0])


@dataclass(frozen=True)
class Case:
    """A model, data, and the ways to its clipped sum."""

    model: Any
    x: Any
    y: Any
    loss: Any = "mse"
    norm: float = 0.7
    per_layer: bool = False

    def losses(self, x: Any, y: Any, training: bool) -> Any:
        return per_example_loss(self.loss)(y, self.model(x, training=training))

    @property
    def variables(self) -> list[Any]:
        return list(self.model.trainable_variables)

    @property
    def groups(self) -> Any:
        return make_groups(self.model, self.variables, norm=self.norm, per_layer=self.per_layer)

    def keeping(self) -> BookKeeping:
        return BookKeeping(
            model=self.model,
            losses=self.losses,
            variables=self.variables,
            groups=self.groups,
            memory_cap=4096,
        )

    def vectorised(self) -> Vectorised:
        return Vectorised(losses=self.losses, variables=self.variables, groups=self.groups, memory_cap=4096)

    def single(self, row: int) -> list[np.ndarray]:
        """Gradients of one example, by a tape."""
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(self.losses(cut(self.x, slice(row, row + 1)), cut(self.y, slice(row, row + 1)), False))
        zero = tf.UnconnectedGradients.ZERO
        return [
            tf.convert_to_tensor(gradient).numpy()
            for gradient in tape.gradient(loss, self.variables, unconnected_gradients=zero)
        ]

    def expected(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Norms of each variable's per-example gradients, [variables, B], and the clipped sum."""
        norms, sums = [], [np.zeros(v.shape, np.float64) for v in self.variables]
        groups = self.groups
        for row in range(count(self.x)):
            gradients = self.single(row)
            norms.append([float(np.linalg.norm(g)) for g in gradients])
            squared = np.zeros(len(groups.norms))
            np.add.at(squared, list(groups.members), np.square(norms[-1]))
            factors = np.minimum(1.0, np.array(groups.norms) / np.maximum(np.sqrt(squared), 1e-30))
            for place, gradient in enumerate(gradients):
                sums[place] += factors[groups.members[place]] * gradient
        return np.array(norms).T, sums


def compiled(method: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(lambda x, y: method(x, y, training=False), autograph=False, reduce_retracing=True)


def check(case: Case, *, slow: int = 0) -> None:
    """Norms and clipped sum of a case equal brute force to 1e-5, and `slow` layers fell back."""
    keeping = case.keeping()
    assert len(keeping.targets.slow) == slow
    norms, sums = case.expected()
    found = np.array([np.sqrt(value.numpy()) for value in compiled(keeping.squared_norms)(case.x, case.y)])
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(found, norms, rtol=TOLERANCE, atol=TOLERANCE)
    for value, right in zip(compiled(keeping.clipped_sum)(case.x, case.y), sums, strict=True):
        np.testing.assert_allclose(value.numpy(), right, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture(scope="session")
def check_case() -> Callable[..., None]:
    return check


@pytest.fixture(scope="session")
def case_type() -> type[Case]:
    return Case


def sequential_case(
    layers: list[Any], shape: tuple[int, ...], *, integers: int = 0, seed: int = 0, **more: Any
) -> Case:
    """Layers, then a linear read-out of two numbers, with random weights and data of 4 examples."""
    random = np.random.default_rng(seed)
    keras = tf.keras.layers
    first = keras.Input(shape, dtype="int32" if integers else "float32")
    model = tf.keras.Sequential([first, *layers, keras.Flatten(), keras.Dense(2)])
    for variable in model.trainable_variables:  # biases and scales start at constants, which would hide errors
        variable.assign(random.normal(size=variable.shape, scale=0.5))
    values = random.integers(0, integers, (4, *shape)) if integers else random.normal(size=(4, *shape))
    x = tf.constant(values, tf.int32 if integers else tf.float32)
    return Case(model, x, tf.constant(random.normal(size=(4, 2)), tf.float32), **more)


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    return sequential_case


@pytest.fixture
def no_seed() -> None:
    """Other tests of the process set TensorFlow's seed, which is a fixed seed of each op that has none."""
    tf.random.set_seed(None)
