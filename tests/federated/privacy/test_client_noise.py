"""Clipping and noise of a round against their bounds and statistics, and against broken twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from federated.privacy.gaussian import GaussianAggregator, clipped_sum
from privacy_pipeline.dp.plan import AdaptiveClipping
from privacy_pipeline.errors import BadInputError
from tests.federated.privacy import privacy_checks as checks
from tests.federated.privacy.privacy_checks import NORM, PER_ROUND, aggregator_of, numbers, plan_of, release

STDDEV = 1.0 * NORM / PER_ROUND
ADAPTIVE = AdaptiveClipping(quantile=0.5, learning_rate=0.2, count_noise=2.0)


@pytest.mark.parametrize("arrived", [1, 3, PER_ROUND, 60])
def test_noise_has_one_scale_whoever_arrives(arrived: int) -> None:
    checks.check_noise(aggregator_of(plan_of()), stddev=STDDEV, arrived=arrived)


def test_an_empty_cohort_adds_noise_all_the_same() -> None:
    plan = plan_of()
    aggregator = aggregator_of(plan)
    update, _, _ = aggregator.finish(aggregator.initial_state(), None, 0)
    flat = np.concatenate([np.asarray(part).ravel() for part in update])
    np.testing.assert_array_equal(flat, release(aggregator, np.zeros((4, numbers())), 0))
    assert flat.std() == pytest.approx(STDDEV, rel=0.1)


def test_one_client_moves_a_round_by_its_clipped_update() -> None:
    checks.check_sensitivity(aggregator_of(plan_of()), norm=NORM, expected=PER_ROUND)


class RealisedCohort(GaussianAggregator):
    """Divides by how many came."""

    def partial(self, state: Any, updates: Any, num_examples: Any, present: Any) -> Any:
        self.came = len(present)
        return super().partial(state, updates, num_examples, present)

    def finish(self, state: Any, sums: Any, round_number: int) -> Any:
        update, state, metrics = super().finish(state, sums, round_number)
        return [part * self.plan.expected_clients / self.came for part in update], state, metrics


class CountedTwice(GaussianAggregator):
    def partial(self, state: Any, updates: Any, num_examples: Any, present: Any) -> Any:
        twice = [tf.concat([part, part[-1:]], 0) for part in updates]
        return super().partial(state, twice, num_examples, np.append(present, present[-1]))


class Zeroing(GaussianAggregator):
    """Drops updates far above the norm before they are clipped."""

    def partial(self, state: Any, updates: Any, num_examples: Any, present: Any) -> Any:
        norms = np.sqrt(sum((np.asarray(part) ** 2).reshape(len(present), -1).sum(1) for part in updates))
        return super().partial(state, updates, num_examples, present & (norms < 5 * NORM))


class Unclipped(GaussianAggregator):
    def partial(self, state: Any, updates: Any, num_examples: Any, present: Any) -> Any:
        return [tf.reduce_sum(part, 0) for part in updates]


class SameNoise(GaussianAggregator):
    def finish(self, state: Any, sums: Any, round_number: int) -> Any:
        return super().finish(state, sums, 0)


@pytest.mark.parametrize("twin", [CountedTwice, Zeroing, Unclipped])
def test_twins_with_another_sensitivity_are_refused(twin: Any) -> None:
    with pytest.raises(AssertionError):
        checks.check_sensitivity(aggregator_of(plan_of(), twin), norm=NORM, expected=PER_ROUND)


@pytest.mark.parametrize("twin", [RealisedCohort, SameNoise])
def test_twins_with_other_noise_are_refused(twin: Any) -> None:
    with pytest.raises(AssertionError):
        checks.check_noise(aggregator_of(plan_of(), twin), stddev=STDDEV, arrived=15)


@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_noise_of_another_scale_is_refused(scale: float) -> None:
    with pytest.raises(AssertionError):
        checks.check_noise(aggregator_of(plan_of(noise_multiplier=scale)), stddev=STDDEV, arrived=15)


def test_absent_clients_contribute_nothing_even_if_broken() -> None:
    updates = np.ones((3, numbers()))
    updates[1] = np.nan
    present = np.array([True, False, True])
    aggregator = aggregator_of(plan_of())
    np.testing.assert_array_equal(
        release(aggregator, updates, 0, present), release(aggregator, updates[[0, 2]], 0, np.ones(2, bool))
    )


def test_parts_of_a_cohort_add_up() -> None:
    updates = [np.random.default_rng(1).normal(size=(6, *shape)).astype(np.float32) for shape in checks.SHAPES]
    aggregator = aggregator_of(plan_of(adaptive=ADAPTIVE))
    state, ones = aggregator.initial_state(), np.ones(6, np.float32)
    whole = aggregator.partial(state, updates, ones, ones > 0)
    parts = [aggregator.partial(state, [u[s] for u in updates], ones[s], ones[s] > 0) for s in (slice(2), slice(2, 6))]
    for total, first, second in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(total, first + second, atol=1e-5)


def test_sizes_of_clients_are_no_weights() -> None:
    aggregator = aggregator_of(plan_of())
    state = aggregator.initial_state()
    updates = [np.ones((2, *shape), np.float32) for shape in checks.SHAPES]
    one, other = (aggregator.partial(state, updates, np.array(n, np.float32), np.ones(2)) for n in ([1, 1], [1, 99]))
    np.testing.assert_array_equal(one[0], other[0])


def test_clipping_follows_the_quantile_and_shares_the_noise_between_sum_and_count() -> None:
    plan = plan_of(adaptive=ADAPTIVE, noise_multiplier=1.0)
    assert plan.event == plan_of(noise_multiplier=1.0).event
    # z^-2 = z_sum^-2 + (2 sigma_count)^-2 (Andrew et al. 2021, theorem 1).
    assert plan.base.sum_multiplier == pytest.approx((1 - (2 * 2.0) ** -2) ** -0.5)
    checks.check_noise(aggregator_of(plan), stddev=STDDEV * plan.base.sum_multiplier, arrived=12)
    aggregator = aggregator_of(plan)
    state = aggregator.initial_state()
    small = [np.full((PER_ROUND, *shape), 1e-4, np.float32) for shape in checks.SHAPES]
    for round in range(30):  # all updates are far below the norm, so it falls towards their size
        summed = aggregator.partial(state, small, np.ones(PER_ROUND), np.ones(PER_ROUND))
        _, state, metrics = aggregator.finish(state, summed, round)
    size = 1e-4 * np.sqrt(numbers())
    assert size / 3 < metrics["clipping_norm"] < NORM / 5
    _, within = clipped_sum([np.zeros((3, 2), np.float32)], np.array([1, 1, 0]), 1.0)
    np.testing.assert_array_equal(within, [0.5, 0.5, 0.0])


def test_tree_noise_is_taken_back_over_an_epoch() -> None:
    """The noise of all prefixes stays within the height of the tree, where independent noise adds up."""
    plan = plan_of(sampling="cyclic", correlation="tree", rounds=10)
    aggregator, independent = aggregator_of(plan), aggregator_of(plan_of())
    nothing = np.zeros((1, numbers()))
    prefixes, free = (np.sum([release(a, nothing, r) for r in range(8)], axis=0) for a in (aggregator, independent))
    assert prefixes.std() == pytest.approx(STDDEV, rel=0.1)  # one node covers eight leaves
    assert free.std() == pytest.approx(STDDEV * 8**0.5, rel=0.1)


def test_what_does_not_belong_is_refused() -> None:
    aggregator = aggregator_of(plan_of())
    with pytest.raises(BadInputError, match="shapes"):
        aggregator.finish(aggregator.initial_state(), [np.zeros(3, np.float32)], 0)
    with pytest.raises(BadInputError, match="not accounted"):
        aggregator.finish(aggregator.initial_state(), [np.zeros(s, np.float32) for s in checks.SHAPES], checks.ROUNDS)
    with pytest.raises(BadInputError, match="clipping_norm must lie between"):
        plan_of(clipping_norm=0.0)
    with pytest.raises(BadInputError, match="count_noise"):
        plan_of(adaptive=AdaptiveClipping(count_noise=0.4))
