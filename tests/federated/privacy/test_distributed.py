"""Rounds under distributed noise: what a client can move, what noise hides it, and what is not released."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
import pytest

from federated.privacy import distributed
from federated.privacy.distributed import DistributedAggregator
from federated.privacy.encoding import wrapped
from federated.privacy.gaussian import GaussianAggregator
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.noise.integer_noise import IntegerNoise
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.federated.privacy import distributed_checks as checks
from tests.federated.privacy.distributed_checks import (
    COHORT,
    DIMENSION,
    LEAST,
    NORM,
    SHAPES,
    WEIGHTS,
    aggregator_of,
    coarse,
    finished,
    plan_of,
    release,
)

FAMILIES = ("skellam", "discrete_gaussian")


def some(clients: int, *, size: float = 0.3, seed: int = 2) -> np.ndarray:
    """Updates of a given L2 norm."""
    drawn = np.random.default_rng(seed).normal(size=(clients, WEIGHTS)) + 0.3
    return drawn * size / np.linalg.norm(drawn, axis=1, keepdims=True)


class Silent(DistributedAggregator):
    def share(self, reporter: int, round_number: int) -> Any:
        return np.zeros(self.noise.dimension, np.int64)


def test_without_noise_the_mean_comes_back() -> None:
    updates = some(COHORT)
    found = release(aggregator_of(plan_of(bits=24), Silent), updates, 3)
    np.testing.assert_allclose(found, updates.mean(axis=0), atol=2e-5)
    # Divided by the plan's number of clients, not by how many came.
    found = release(aggregator_of(plan_of(bits=24), Silent), updates[:LEAST], 3)
    np.testing.assert_allclose(found, updates[:LEAST].sum(axis=0) / COHORT, atol=2e-5)


def test_the_server_reads_what_it_would_read_from_wrapped_messages() -> None:
    aggregator, updates = aggregator_of(plan_of(bits=10)), some(COHORT)
    bits, encoded = aggregator.noise.bits, aggregator.encode(updates.astype(np.float32), 4)
    messages = [wrapped(row + aggregator.share(place, 4), bits) for place, row in enumerate(encoded)]
    seen = wrapped(np.sum(messages, axis=0), bits)
    flat = np.concatenate([np.asarray(part).ravel() for part in aggregator._decoded(seen, 4)])
    np.testing.assert_array_equal(flat, release(aggregator, updates, 4))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("arrived", [LEAST, COHORT])
def test_noise_is_a_share_of_each_reporting_client(family: Any, arrived: int) -> None:
    checks.check_noise(aggregator_of(plan_of(family)), arrived=arrived)


class OneShare(DistributedAggregator):
    """The first client's share alone."""

    def share(self, reporter: int, round_number: int) -> Any:
        own = super().share(reporter, round_number)
        return own if reporter == 0 else np.zeros_like(own)


class SameShare(DistributedAggregator):
    def share(self, reporter: int, round_number: int) -> Any:
        return super().share(0, round_number)


class SameRounds(DistributedAggregator):
    def share(self, reporter: int, round_number: int) -> Any:
        return super().share(reporter, 0)


class RealisedCohort(DistributedAggregator):
    """Divides by how many came."""

    def finish(self, state: Any, sums: Any, round_number: int) -> Any:
        update, state, metrics = super().finish(state, sums, round_number)
        return [part * self.plan.expected_clients / int(sums[1]) for part in update], state, metrics


class Continuous(DistributedAggregator):
    """Gaussians that are not rounded before they are added, in effect: half steps."""

    def _decoded(self, seen: Any, round_number: int) -> Any:
        return super()._decoded(seen + np.random.default_rng(round_number).normal(size=seen.shape) / 3, round_number)


class MadeForTheCohort(DistributedAggregator):
    """Shares that make up the noise among all clients of a round, of which some do not report."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        less = self.noise.share_variance * self.noise.min_clients / self.noise.clients
        self._shares = IntegerNoise(self.noise.family, less)


@pytest.mark.parametrize("twin", [OneShare, SameShare, SameRounds, RealisedCohort, Continuous, MadeForTheCohort])
def test_twins_with_other_noise_are_refused(twin: Any) -> None:
    with pytest.raises(AssertionError):
        checks.check_noise(aggregator_of(plan_of(), twin), arrived=LEAST)


@pytest.mark.parametrize("bits", [9, 20])
def test_one_client_moves_the_sum_within_the_accounted_norm(bits: int) -> None:
    checks.check_sensitivity(aggregator_of(plan_of(bits=bits)))
    checks.check_sensitivity(aggregator_of(coarse(plan_of(bits=9))))


class RoundedOnce(DistributedAggregator):
    """Does not round again what is over the bound."""

    def _rounded(self, row: Any, turned: Any, round_number: int) -> Any:
        coins = np.random.default_rng(zlib.crc32(row.tobytes()))
        return np.floor(turned).astype(np.int64) + (coins.random(turned.size) < turned - np.floor(turned))


class Unclipped(DistributedAggregator):
    def encode(self, updates: Any, round_number: int) -> Any:
        flips = distributed.signs(self.noise.dimension, seed=self._seed, round_number=round_number)
        rows = np.nan_to_num(updates.astype(np.float64), posinf=0.0)
        return np.rint(distributed.rotated(rows, flips) * self.noise.scale).astype(np.int64)


class Absent(DistributedAggregator):
    """Counts a client whose update is not finite as one that did not report."""

    def partial(self, state: Any, updates: Any, num_examples: Any, present: Any) -> Any:
        finite = np.all([np.isfinite(part).reshape(len(present), -1).all(axis=1) for part in updates], axis=0)
        return super().partial(state, updates, num_examples, present & finite)


@pytest.mark.parametrize("twin", [RoundedOnce, Unclipped, Absent])
def test_twins_with_another_sensitivity_are_refused(twin: Any) -> None:
    with pytest.raises(AssertionError):
        checks.check_sensitivity(aggregator_of(coarse(plan_of(bits=9)), twin))


def test_too_few_reporting_clients_release_nothing() -> None:
    aggregator = aggregator_of(plan_of())
    update, state, metrics = finished(aggregator, some(LEAST - 1), 5)
    assert update is None and metrics["rounds_released"] == 0.0
    assert {name: int(value) for name, value in state.items()} == {
        "round": 6,
        "rounds_released": 0,
        "numbers_wrapped": 0,
    }
    update, state, metrics = finished(aggregator, some(LEAST), 5)
    assert update is not None and metrics["rounds_released"] == 1.0 and int(state["rounds_released"]) == 1
    assert aggregator.finish(aggregator.initial_state(), None, 0)[0] is None
    present = np.arange(COHORT) < LEAST - 1
    assert finished(aggregator, some(COHORT), 5, present)[0] is None


def test_a_round_that_is_made_again_is_the_same_and_chunks_come_in_any_order() -> None:
    aggregator, updates = aggregator_of(plan_of()), some(COHORT)
    once = release(aggregator, updates, 2)
    np.testing.assert_array_equal(once, release(aggregator_of(plan_of()), updates[::-1].copy(), 2))
    assert not np.array_equal(once, release(aggregator, updates, 3))
    state, ones = aggregator.initial_state(), np.ones(COHORT, np.float32)
    whole = aggregator.partial(state, checks.parts_of(updates), ones, ones > 0)
    parts = [
        aggregator.partial(state, checks.parts_of(updates[s]), ones[s], ones[s] > 0) for s in (slice(7), slice(7, 20))
    ]
    for total, first, second in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(total, first + second)


def test_numbers_that_wrap_around_are_counted_and_rare() -> None:
    found = finished(aggregator_of(plan_of(bits=16)), np.tile(some(1, size=NORM), (COHORT, 1)), 0)
    assert found[2]["numbers_wrapped"] == 0.0
    plan = plan_of(bits=16)
    assert plan.distributed is not None
    narrow = dataclasses.replace(plan, distributed=dataclasses.replace(plan.distributed, bits=12))
    _, state, metrics = finished(aggregator_of(narrow), some(COHORT), 0)
    assert 0.1 * DIMENSION < metrics["numbers_wrapped"] == int(state["numbers_wrapped"]) <= DIMENSION


@pytest.mark.slow_but("discrete_gaussian")
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_fine_grid_a_round_is_like_the_servers_gaussian(family: Any) -> None:
    plan, updates = plan_of(family, bits=24, least=COHORT), some(COHORT)
    central = plan_of(distributed=None)
    aggregator = aggregator_of(plan)
    gaussian = GaussianAggregator(plan=central, key=RunKey.from_seed(1), shapes=SHAPES)
    state, ones = gaussian.initial_state(), np.ones(COHORT)
    theirs, ours = [], []
    for round_number in range(30):
        sums = gaussian.partial(state, checks.parts_of(updates), ones, ones)
        update, _, _ = gaussian.finish(state, sums, round_number)
        theirs.append(np.concatenate([np.asarray(part).ravel() for part in update]))
        ours.append(release(aggregator, updates, round_number))
    left, right = np.array(theirs) - updates.mean(axis=0), np.array(ours) - updates.mean(axis=0)
    assert right.std() == pytest.approx(left.std(), rel=0.05)
    assert abs(right.mean()) < 6 * right.std() / right.size**0.5
    # On a coarse grid, rounding and the norm it inflates cost accuracy.
    assert plan_of(family, bits=8, least=COHORT).epsilon() > 1.02 * plan.epsilon()


def test_what_does_not_belong_is_refused() -> None:
    plan = plan_of()
    aggregator = aggregator_of(plan)
    state = aggregator.initial_state()
    with pytest.raises(BadInputError, match="not accounted"):
        aggregator.finish(state, None, checks.ROUNDS)
    with pytest.raises(BadInputError, match="state of round 0"):
        aggregator.finish(state, None, 1)
    with pytest.raises(PipelineError, match="21 clients reported"):
        finished(aggregator, some(COHORT + 1), 0)
    with pytest.raises(BadInputError, match="300 trainable weights, more than the 256"):
        DistributedAggregator(plan=plan, key=RunKey.from_seed(1), shapes=[(300,)])
    with pytest.raises(BadInputError, match="no distributed noise"):
        aggregator_of(plan_of(distributed=None))
    with pytest.raises(BadInputError, match="the clients', not the server's"):
        aggregator_of(plan, GaussianAggregator)
    assert aggregator.update_bytes == DIMENSION * 20 // 8
    assert "skellam" in aggregator.generator and "15 clients" in aggregator.generator
