"""Whole rounds of the fast engine under a plan: what reaches the weights has the plan's noise and bound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from federated.fast.engine import FastEngine
from federated.model import FederatedModel
from federated.privacy.gaussian import GaussianAggregator
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.errors import BadInputError
from tests.federated.fed_examples import MadeClients
from tests.federated.privacy.privacy_checks import NORM, PER_ROUND, plan_of

CLIENTS, ROWS, WIDTH = 200, 2, 300
STDDEV = NORM / PER_ROUND  # noise multiplier 1
GIANT = 7  # client whose rows are a million times as large
_UNLIKELY = 1e-6


class Pushed(FederatedModel):
    """Each client's gradient is the mean of its rows, whatever the weights: one's influence can be read off."""

    def losses(self, labels: Any, predictions: Any) -> Any:
        return predictions[:, 0]


def clients(*, silent: bool) -> MadeClients:
    rows = np.random.default_rng(1).normal(size=(CLIENTS * ROWS, WIDTH)).astype(np.float32) * 1e-4
    rows[GIANT * ROWS : (GIANT + 1) * ROWS] *= 1e6
    offsets = np.arange(CLIENTS + 1, dtype=np.int64) * ROWS
    return MadeClients({"x": 0 * rows if silent else rows}, np.zeros(len(rows), np.float32), offsets)


def engine(engine_type: Any = FastEngine, aggregator_type: Any = GaussianAggregator, *, silent: bool) -> Any:
    inputs = tf.keras.Input((WIDTH,), name="x")
    keras = tf.keras.Model(inputs, tf.keras.layers.Dense(1, use_bias=False)(inputs))
    model = Pushed(keras, loss="mse")
    aggregator = aggregator_type(plan=plan_of(), key=RunKey.from_seed(1), shapes=model.shapes)
    algorithm = FederatedAlgorithm.model_validate({"client_optimizer": {"learning_rate": 1.0}})
    return engine_type(model=model, clients=clients(silent=silent), algorithm=algorithm, aggregator=aggregator)


def released(engine: Any, cohort: Any, round: int = 0) -> np.ndarray:
    """What a round adds to the weights, [numbers]."""
    state = replace(engine.initial_state(), round_number=round)
    after = engine.run_round(state, np.asarray(cohort, np.int64)).state
    return np.concatenate([(new - old).ravel() for new, old in zip(after.weights, state.weights, strict=True)])


def check_noise(made: Any, arrived: int) -> None:
    """Rounds of clients that have nothing to say hold noise of the plan's scale, whoever came."""
    drawn = np.stack([released(made, np.arange(arrived), round) for round in range(6)])
    chi2 = (drawn**2).sum() / STDDEV**2
    assert _UNLIKELY < stats.chi2.cdf(chi2, drawn.size) < 1 - _UNLIKELY, f"noise of {drawn.std():.4g}, not {STDDEV:.4g}"


def check_influence(made: Any) -> None:
    """A giant client moves a round by exactly its clipped update: no more, and it is not left out."""
    others = [1, 2, 3, 150]
    moved = (released(made, [*others, GIANT]) - released(made, others)) * PER_ROUND
    update = -clients(silent=False).features["x"][GIANT * ROWS : (GIANT + 1) * ROWS].mean(axis=0)
    wanted = update / np.linalg.norm(update) * NORM
    assert np.linalg.norm(moved) <= NORM * (1 + 1e-3), f"a client moves the sum by {np.linalg.norm(moved):.4g}"
    np.testing.assert_allclose(moved, wanted, atol=2e-5 * PER_ROUND, err_msg="a client is not clipped but lost")


@pytest.mark.parametrize("arrived", [0, 1, PER_ROUND, 70])
def test_a_round_has_the_plans_noise_whoever_came(arrived: int) -> None:
    check_noise(engine(silent=True), arrived)


def test_a_giant_client_is_clipped_and_not_lost() -> None:
    check_influence(engine(silent=False))


class ByArrivals(FastEngine):
    """Divides by how many came."""

    def run_round(self, state: Any, cohort: Any, **more: Any) -> Any:
        self._aggregator.came = max(1, len(cohort))  # type: ignore[attr-defined]
        return super().run_round(state, cohort, **more)


class DividedByArrivals(GaussianAggregator):
    came = 1

    def finish(self, state: Any, sums: Any, round_number: int) -> Any:
        update, state, metrics = super().finish(state, sums, round_number)
        return [part * self.plan.expected_clients / self.came for part in update], state, metrics


class Twice(GaussianAggregator):
    """Counts each client twice."""

    def partial(self, state: Any, updates: Any, num_examples: Any, present: Any) -> Any:
        return [2.0 * part for part in super().partial(state, updates, num_examples, present)]


class Zeroing(GaussianAggregator):
    """Leaves out clients whose update is far above the norm."""

    def partial(self, state: Any, updates: Any, num_examples: Any, present: Any) -> Any:
        norms = tf.sqrt(
            tf.add_n([tf.reduce_sum(tf.reshape(part, [tf.shape(part)[0], -1]) ** 2, 1) for part in updates])
        )
        return super().partial(state, updates, num_examples, present * tf.cast(norms < 5 * NORM, tf.float32))


def test_noise_that_is_divided_by_the_realised_cohort_is_refused() -> None:
    with pytest.raises(AssertionError, match="noise of"):
        check_noise(engine(ByArrivals, DividedByArrivals, silent=True), PER_ROUND - 5)


@pytest.mark.parametrize(("twin", "message"), [(Twice, "moves the sum by"), (Zeroing, "not clipped but lost")])
def test_rounds_with_another_influence_are_refused(twin: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_influence(engine(aggregator_type=twin, silent=False))


def test_a_cohort_that_names_a_client_twice_is_refused() -> None:
    with pytest.raises(BadInputError, match="a client is in it twice"):
        released(engine(silent=False), [1, GIANT, GIANT])
