"""Steps that a loop of one's own makes are those of `fit`, accounted as they are made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.errors import BadInputError

L = tf.keras.layers
UNITS, STEPS = 40, 6
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(UNITS, 3)).astype(np.float32), RNG.normal(size=(UNITS, 1)).astype(np.float32)


def plan(**more: Any) -> PrivacyPlan:
    given = {"units": UNITS, "expected_batch_size": 10, "steps": STEPS, "clipping_norm": 1.0, **more}
    return PrivacyPlan.calibrated(noise_multiplier=1.0, delta=1e-5, **given)


def network() -> Any:
    tf.keras.utils.set_random_seed(4)
    return tf.keras.Sequential([L.Input((3,)), L.Dense(4, "tanh"), L.Dense(1)])


def private(model: Any, **more: Any) -> Any:
    return make_private(model, plan(), optimizer="sgd", loss="mse", **more)


def test_steps_are_those_of_fit() -> None:
    one, other = network(), network()
    fitted = private(one, seed=1).fit(X, Y)
    with private(other, seed=1).begin(X, Y) as training:
        made = 0
        while training.step():
            made += 1
            assert training.execution.steps == made
    assert made == STEPS
    for left, right in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert training.execution.history == fitted.history
    assert training.execution.event == fitted.event


@pytest.mark.slow
def test_steps_that_were_made_are_accounted_and_the_others_remain() -> None:
    model = network()
    made = private(model)
    with made.begin(X, Y) as training:
        training.step()
        training.step()
    execution = training.execution
    assert (execution.steps, execution.stopped_early) == (2, True)
    assert execution.epsilon() == pytest.approx(plan(steps=2).epsilon(), rel=1e-3)
    with pytest.raises(BadInputError, match="was closed"):
        training.step()
    assert made.fit(X, Y).epsilon() == pytest.approx(plan().epsilon(), rel=1e-3)
    assert private(model).fit(X, Y).epsilon() == pytest.approx(plan(steps=2 * STEPS).epsilon(), rel=1e-3)


@pytest.mark.slow
def test_one_training_at_a_time() -> None:
    made = private(network())
    with made.begin(X, Y) as training:
        training.step()
        with pytest.raises(BadInputError, match="under way"):
            made.fit(X, Y)
        with pytest.raises(BadInputError, match="under way"):
            made.begin(X, Y)
    assert made.fit(X, Y).steps == STEPS


@pytest.mark.slow
def test_a_loop_that_fails_has_made_its_steps() -> None:
    model = network()
    made = private(model)
    with pytest.raises(RuntimeError, match="mine"), made.begin(X, Y) as training:
        training.step()
        raise RuntimeError("mine")
    assert training.execution.steps == 1
    assert private(model).fit(X, Y).epsilon() == pytest.approx(plan(steps=1 + STEPS).epsilon(), rel=1e-3)


@pytest.mark.slow
def test_a_loop_resumes(tmp_path: Path) -> None:
    with private(network(), state_dir=tmp_path / "state").begin(X, Y) as training:
        for _ in range(3):
            training.step()
    assert (training.execution.steps, training.execution.resumed_at) == (3, None)
    model = network()
    with private(model, state_dir=tmp_path / "state").begin(X, Y) as training:
        while training.step():
            pass
    assert training.execution.resumed_at is not None
    assert training.execution.steps == STEPS
    assert all(np.isfinite(value).all() for value in model.get_weights())


def test_a_saved_model_has_the_state_of_its_optimizer(tmp_path: Path) -> None:
    model = network()
    model.compile(tf.keras.optimizers.Adam(0.1), "mse")
    make_private(model, plan()).fit(X, Y)
    model.save(tmp_path / "m.keras")
    # In a process of its own: where TensorFlow Federated was imported, Keras loads classes of `tf_keras`.
    script = (
        "import sys\nimport numpy as np\nimport tensorflow as tf\n"
        "optimizer = tf.keras.models.load_model(sys.argv[1]).optimizer\n"
        "np.savez(sys.argv[2], int(optimizer.iterations), *[v.numpy() for v in optimizer.variables])"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "m.keras", tmp_path / "state.npz"], check=True)
    with np.load(tmp_path / "state.npz") as held:
        iterations, *loaded = held.values()
    assert iterations == STEPS
    for left, right in zip(model.optimizer.variables, loaded, strict=True):
        np.testing.assert_array_equal(left.numpy(), right)
