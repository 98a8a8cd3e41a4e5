"""Sensitivity (after dp-recorder's tests): on neighbouring datasets the released sum differs by the bound at most, and
nothing else differs: the same graph is run, in the same number of calls, on the same shapes where shapes are fixed.

Neighbours under zero-out: the same rows, one of them replaced by one that contributes nothing. Values are whatever a
float can hold: huge, tiny, infinite, no number, duplicates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.clipping.parts import MatrixPart, OuterPart
from privacy_pipeline.dp.training.program import Program

L = tf.keras.layers
NORM, ROWS, WIDTH = 0.5, 6, 4
# What rounding may add: each of the sums is rounded, and so is their difference.
ROUNDING = 1e-5
quiet = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def single(value: float) -> float:
    return float(np.float32(value))


usual = st.floats(-3, 3, width=32)
extreme = st.one_of(
    st.sampled_from([0.0, 1.0, 1e-45, 1e-20, 1e10, -1e19, 1e30, 3.4e38, np.inf, -np.inf, np.nan]).map(single),
    st.floats(width=32),
)
mixed = st.one_of(usual, usual, extreme)


def rows_of(width: int) -> st.SearchStrategy[np.ndarray]:
    """Rows [ROWS, width], some of them copies of others."""
    plain = arrays.arrays(np.float32, (ROWS, width), elements=mixed)
    order = st.lists(st.integers(0, ROWS - 1), min_size=ROWS, max_size=ROWS)
    return st.one_of(plain, st.builds(lambda values, pick: values[pick], plain, order))


def networks() -> dict[str, tuple[list[Any], tuple[int, ...]]]:
    return {
        "dense": ([L.Dense(5, "relu"), L.LayerNormalization()], (WIDTH,)),
        "sequence": ([L.Reshape((2, 2)), L.Conv1D(3, 2, padding="same"), L.GRU(2)], (WIDTH,)),
    }


@dataclass(frozen=True)
class Released:
    """The clipped sum of a model as one traced graph.

    Attributes:
        run: (x, y, present) to the sum, a list of arrays.
        traces: grows by one with each tracing.
    """

    run: Callable[..., list[np.ndarray]]
    traces: list[int] = field(default_factory=list)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((net, way), marks=[pytest.mark.slow] if (net, way) == ("sequence", "vectorised") else [])
        for net in ("dense", "sequence")
        for way in ("flat", "per layer", "vectorised")
    ],
    ids=lambda pair: "-".join(pair),
)
def released(request: Any, make_case: Any) -> Released:
    net, way = request.param
    layers, shape = networks()[net]
    case = make_case(layers, shape, norm=NORM, per_layer=way == "per layer")
    clipper = case.vectorised() if way == "vectorised" else case.keeping()
    traces: list[int] = []
    signature = (
        tf.TensorSpec([None, *shape], tf.float32),
        tf.TensorSpec([None, 2], tf.float32),
        tf.TensorSpec([None], tf.bool),
    )

    @tf.function(input_signature=signature, autograph=False)
    def run(x: Any, y: Any, present: Any) -> Any:
        traces.append(1)
        return clipper.clipped_sum(x, y, training=True, present=present)

    return Released(lambda *given_: [value.numpy() for value in run(*given_)], traces)


def distance(left: list[np.ndarray], right: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(a.astype(np.float64) - b).sum() for a, b in zip(left, right, strict=True))))


@pytest.mark.slow_but("dense-per layer")
@settings(max_examples=20, **quiet)
@given(x=rows_of(WIDTH), y=rows_of(2), gone=st.integers(0, ROWS - 1))
def test_one_unit_moves_the_sum_by_the_norm_at_most(released: Released, x: Any, y: Any, gone: int) -> None:
    everyone = np.ones(ROWS, bool)
    others = everyone.copy()
    others[gone] = False
    whole, without = released.run(x, y, everyone), released.run(x, y, others)
    assert all(np.all(np.isfinite(value)) for value in whole)
    assert distance(whole, without) <= NORM * (1 + ROUNDING) + ROUNDING * ROWS * NORM
    # The blanked row may hold anything: it is not looked at.
    blank_x, blank_y = x.copy(), y.copy()
    blank_x[gone], blank_y[gone] = np.nan, np.inf
    assert distance(released.run(blank_x, blank_y, others), without) == 0
    # The same without padding: the row is gone.
    assert distance(released.run(x[others], y[others], everyone[others]), without) <= ROUNDING * ROWS * NORM
    assert len(released.traces) == 1


@settings(max_examples=10, **quiet)
@given(x=rows_of(WIDTH), y=rows_of(2))
def test_a_single_unit_adds_the_norm_at_most(released: Released, x: Any, y: Any) -> None:
    nothing = [np.zeros(1)]
    for row in range(ROWS):
        alone = released.run(x[row : row + 1], y[row : row + 1], np.ones(1, bool))
        nothing = [np.zeros_like(value) for value in alone]
        assert distance(alone, nothing) <= NORM


def test_the_bound_is_reached(released: Released) -> None:
    """The bound is no looser than declared: a large gradient moves the sum by just that."""
    random = np.random.default_rng(0)
    largest = 0.0
    for _ in range(20):
        x = random.normal(size=(1, WIDTH)).astype(np.float32)
        alone = released.run(x, 1e3 * np.ones((1, 2), np.float32), np.ones(1, bool))
        largest = max(largest, distance(alone, [np.zeros_like(value) for value in alone]))
    assert largest > 0.9 * NORM


@pytest.mark.parametrize("positions", [1, 2])
@pytest.mark.parametrize(("inputs", "outputs"), [(1e19, 1e-19), (1e-19, 9e18), (3e18, 5e-20)])
def test_factors_of_a_gradient_that_underflow_do_not_hide_its_norm(
    positions: int, inputs: float, outputs: float
) -> None:
    """A gradient is inputs times outputs: where the squares of one are too small for a float, the other may be huge."""
    width = 4
    a = np.zeros((1, positions, width), np.float32)
    a[:, 0, 0] = inputs
    d = np.full((1, positions, width), outputs, np.float32)
    shape = tf.TensorShape([width, width])
    left, right = tf.constant(a), tf.constant(d)
    part = MatrixPart(left, right, shape) if positions > 1 else OuterPart(left[:, 0], right[:, 0], shape)
    least = (1 - 1e-5) * np.linalg.norm(np.einsum("btp,btq->bpq", a.astype(np.float64), d.astype(np.float64)))
    found = np.sqrt(tf.function(part.squared_norm)().numpy()[0])
    assert not found < least  # an infinite norm, or none at all, counts as nothing


# --- control flow -----------------------------------------------------------------------------------------------


def plan(**change: Any) -> PrivacyPlan:
    given_ = {"units": 40, "expected_batch_size": 6, "steps": 12, "noise_multiplier": 1.0, "delta": 1e-5}
    return PrivacyPlan.calibrated(**{**given_, "clipping_norm": NORM, **change})


@dataclass
class Trace:
    """What a run did, but for its values: calls with their shapes, graphs, weights."""

    shapes: list[Any] = field(default_factory=list)
    ops: list[Any] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)


def traced(x: Any, y: Any, *, made: PrivacyPlan, **options: Any) -> Trace:
    """Trains under a fixed seed, so that sampling and noise are the same on both datasets."""
    tf.keras.utils.set_random_seed(1)
    model = tf.keras.Sequential([L.Input((WIDTH,)), L.Dense(3, "tanh"), L.Dense(1)])
    seen, programs = Trace(), []
    run = Program.run

    def spy(self: Program, *given_: Any) -> None:
        programs.append(self)
        seen.shapes.append([np.shape(value) for value in tf.nest.flatten(given_)])
        run(self, *given_)

    private = make_private(model, made, optimizer=tf.keras.optimizers.SGD(0.1), loss="mse", seed=5, **options)
    with mock.patch.object(Program, "run", spy):
        private.fit(x, y)
    seen.ops = sorted(op.type for op in programs[0].graph.get_operations())
    seen.weights = model.get_weights()
    return seen


def neighbours(bad: float) -> tuple[Any, Any, Any]:
    """Rows, the same with the first one blanked, and labels."""
    random = np.random.default_rng(3)
    x, y = random.normal(size=(40, WIDTH)).astype(np.float32), random.normal(size=40).astype(np.float32)
    x[0] = bad
    blank = x.copy()
    blank[0] = 0.0
    return x, blank, y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "options", "bad"),
    [
        ({}, {}, 1.0),
        ({}, {}, 1e30),
        ({}, {}, np.inf),
        ({}, {"virtual_batch_size": 3}, np.nan),
        ({"per_layer": True}, {}, np.nan),
        ({"sampling": "truncated_poisson", "truncate_at": 15}, {}, np.nan),
        ({"sampling": "shuffled", "expected_batch_size": 8}, {}, np.nan),
    ],
    ids=["usual", "huge", "infinite", "virtual batches", "per layer", "truncated", "partition"],
)
def test_neighbours_take_the_same_path(change: Any, options: Any, bad: float) -> None:
    x, blank, y = neighbours(bad)
    one, two = traced(x, y, made=plan(**change), **options), traced(blank, y, made=plan(**change), **options)
    assert len(one.shapes) == len(two.shapes) == 12
    assert one.shapes == two.shapes
    assert one.ops == two.ops
    assert one.ops
    assert all(np.all(np.isfinite(value)) for value in one.weights)


def test_shapes_are_fixed_where_batches_are_truncated() -> None:
    x, _, y = neighbours(1.0)
    seen = traced(x, y, made=plan(sampling="truncated_poisson", truncate_at=15))
    assert {str(shapes) for shapes in seen.shapes} == {str(seen.shapes[0])}
    assert seen.shapes[0][0] == (15, WIDTH)
