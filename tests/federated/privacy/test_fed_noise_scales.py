"""Federated noise has its stated deviation at every scale; the check before a run, and its audit, find what has not."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from federated.privacy.audit import audit_aggregation
from federated.privacy.distributed_noise import DistributedSettings
from federated.privacy.gaussian import GaussianAggregator, clipped_sum, lengths
from federated.privacy.noise_check import distributed_deviations, gaussian_deviations, require_noise
from federated.privacy.plan import FederatedPlan
from federated.silos.plan import SiloPlan
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.mechanism.mechanism import AdaptiveClipping
from privacy_pipeline.dp.noise.integer_families import FAMILIES
from privacy_pipeline.dp.noise.integer_noise import IntegerNoise
from privacy_pipeline.dp.noise.noise import GaussianNoise
from privacy_pipeline.errors import BadInputError, PipelineError

LEVEL = 1e-7
SHARES: dict[str, Any] = {"sampling": "shuffled"}
KINDS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "hardened": {"hardened": True},
    "adaptive": {"adaptive": AdaptiveClipping(count_noise=8.0)},
    "tree": {"sampling": "cyclic", "correlation": "tree"},
    "skellam": {**SHARES, "distributed": DistributedSettings(family="skellam", dimension=1 << 12)},
    "discrete": {**SHARES, "distributed": DistributedSettings(family="discrete_gaussian", dimension=1 << 12)},
}


def plan(kind: str, norm: float = 0.5, **more: Any) -> FederatedPlan:
    given = {"clients": 200, "clients_per_round": 20, "rounds": 10, "noise_multiplier": 1.0, "delta": 1e-5}
    return FederatedPlan.calibrated(**{**given, "clipping_norm": norm, **KINDS[kind], **more})


def scaled(factor: float) -> Any:
    """Noise of both kinds at another scale."""
    flat, draw = GaussianNoise.flat, IntegerNoise.draw
    stack = mock.patch.multiple(
        GaussianNoise, flat=lambda self, step, *, stddev: np.float32(factor) * flat(self, step, stddev=stddev)
    )
    whole = mock.patch.multiple(
        IntegerNoise, draw=lambda self, *given: np.rint(factor * draw(self, *given)).astype(np.int64)
    )
    return stack, whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", [10.0**power for power in range(-10, 3, 3)] + [1e2])
def test_the_measured_deviation_is_the_stated_one_over_12_decades(kind: str, norm: float) -> None:
    made = plan(kind, norm)
    if made.distributed is None:
        found = gaussian_deviations(made, draws=1 << 14)
    else:
        found = distributed_deviations(made, made.distributed)
    for one in found:
        assert one.p_value > LEVEL, one
        assert one.low < 1 < one.high


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.0, 0.9])
def test_noise_at_another_scale_is_refused(kind: str, factor: float) -> None:
    made = plan(kind)
    require_noise(made)
    gaussian, whole = scaled(factor)
    with gaussian, whole, pytest.raises(PipelineError, match="the noise is not the one that is accounted"):
        require_noise(made)


def test_the_noise_of_every_silo_is_measured() -> None:
    made = SiloPlan.calibrated(
        silos={"a": 100, "b": 300},
        sampling_probability=0.1,
        rounds=5,
        noise_multiplier=1.0,
        delta=1e-5,
        clipping_norm=1e-9,
    )
    assert len(require_noise(made)) == 2
    gaussian, _ = scaled(0.9)
    with gaussian, pytest.raises(PipelineError, match="the noise is not the one that is accounted"):
        require_noise(made)


@pytest.mark.parametrize("kind", KINDS)
def test_the_audit_of_an_aggregation_is_sound_and_finds_missing_noise(kind: str) -> None:
    """Guesses that are all right show an epsilon of 3 or so with a thousand canaries; more is not claimed here."""
    made = plan(kind, noise_multiplier=8.0)
    result = audit_aggregation(made, canaries=1000, confidence=1 - 1e-9)  # at 0.95 a sound one fails now and then
    assert 0 <= result.lower_bound < result.upper_bound
    assert result.seconds > 0 and "no private data" in result.statement
    gaussian, whole = scaled(0.0)
    with gaussian, whole:
        assert not audit_aggregation(made, canaries=1000).sound


@pytest.mark.parametrize("parameter", [0.3, 1.0, 20.0])
def test_moments_are_those_of_the_draws(parameter: float) -> None:
    for family in ("skellam", "discrete_gaussian"):
        noise = IntegerNoise(family, parameter)  # type: ignore[arg-type]
        draws = noise.draw(RunKey.from_seed(1), "test", 0, 400_000).astype(float)
        variance, excess = FAMILIES[family].moments(parameter)
        assert np.mean(draws**2) == pytest.approx(variance, rel=0.02)
        assert np.mean(draws**4) / variance**2 - 3 == pytest.approx(excess, rel=0.1, abs=0.1)


@pytest.mark.parametrize("length", [1e3, 1e20, 1e25, 1e37])
def test_a_finite_update_is_clipped_to_the_norm_however_long(length: float) -> None:
    updates = [tf.constant([[length, 0.0], [0.3, 0.0]], tf.float32), tf.constant([[-length], [0.0]], tf.float32)]
    total, within = clipped_sum(updates, tf.constant([True, False]), tf.constant(0.5))
    assert np.sqrt(sum(float(tf.reduce_sum(part**2)) for part in total)) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_array_equal(within, [-0.5, 0.0])


def test_an_update_that_is_not_finite_counts_as_nothing_beside_a_long_one() -> None:
    updates = [tf.constant([[np.inf, 1.0], [1e25, 0.0], [np.nan, 0.0], [1e-30, 0.0]], tf.float32)]
    total, _ = clipped_sum(updates, tf.ones([4]), tf.constant(0.5))
    np.testing.assert_allclose(total[0], [0.5, 0.0], rtol=1e-5)


def test_a_long_update_changes_no_bit_of_another_clients_norm() -> None:
    random = np.random.default_rng(0)
    usual = random.normal(size=(3, 7)).astype(np.float32)
    beside = np.concatenate([usual, np.full((2, 7), 1e25, np.float32)])
    beside[4, 0] = np.nan
    np.testing.assert_array_equal(lengths([tf.constant(beside)])[:3], lengths([tf.constant(usual)]))


def test_an_adaptive_norm_stays_in_range() -> None:
    made = plan("adaptive")
    aggregator = GaussianAggregator(plan=made, key=RunKey.from_seed(1), shapes=[(3,)])
    state = aggregator.initial_state()
    for number, count in enumerate([-1e9, 1e9]):
        _, after, _ = aggregator.finish(state, [np.zeros(3), np.float32(count)], number)
        assert 0.5e-6 * 0.99 <= float(after["clipping_norm"]) <= 0.5e6 * 1.01


def test_a_norm_out_of_range_is_one_clear_error() -> None:
    with pytest.raises(BadInputError, match=r"clipping_norm must lie between 1e-10 and 1e.10, found 1e-25"):
        plan("gaussian", 1e-25)
