"""The noise has its stated deviation at every scale; the check before a run finds noise that has not."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.config.models.ranges import NOISE_STDDEV
from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.checks import noise_check
from privacy_pipeline.dp.checks.noise_check import measured, plan_deviations, require_noise
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.mechanism.mechanism import AdaptiveClipping
from privacy_pipeline.dp.noise import noise
from privacy_pipeline.dp.noise.noise import GaussianNoise
from privacy_pipeline.errors import BadInputError, PipelineError

DECADES = [10.0**power for power in range(-10, 3)]
# Chance of one sound decade to be called unsound; a scale off by 10 % lies 60 deviations of its estimate away.
LEVEL = 1e-7
KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "per layer": {"per_layer": True},
    "hardened": {"hardened": True},
    "hardened, per layer": {"hardened": True, "per_layer": True},
    "adaptive": {"adaptive": AdaptiveClipping(count_noise=5.0)},
    "tree": {"sampling": "cyclic", "correlation": "tree"},
    "banded": {"sampling": "cyclic", "correlation": "banded", "bands": 4},
}


def plan(norm: float, **more: Any) -> PrivacyPlan:
    given = {"units": 100, "expected_batch_size": 10, "steps": 20, "noise_multiplier": 1.0, "delta": 1e-5}
    return PrivacyPlan.calibrated(**{**given, "clipping_norm": norm, **more})


def old_box_muller(raw: bytes, *, stddev: float = 1.0, out: Any = None) -> Any:
    """The formula that cast the scaled squared radius to float32 before its root."""
    half = len(raw) // 12
    uniform = (np.frombuffer(raw, np.uint64, half) >> np.uint64(1)).view(np.int64) + 0.5
    radius = np.sqrt((-2.0 * stddev**2 * np.log(uniform * 2.0**-63)).astype(np.float32))
    angle = np.frombuffer(raw, np.int32, half, offset=8 * half).astype(np.float32) * np.float32(np.pi * 2.0**-31)
    out[:half], out[half:] = np.cos(angle) * radius, np.sin(angle) * radius
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_the_measured_deviation_is_the_stated_one_over_12_decades(kind: str) -> None:
    for norm in DECADES:
        made = plan(norm, **KINDS[kind])
        for found in plan_deviations(made, draws=1 << 14):
            assert found.p_value > LEVEL, (kind, norm, found)
            assert found.low < 1 < found.high


@pytest.mark.parametrize("hardened", [False, True])
@pytest.mark.parametrize("stddev", [NOISE_STDDEV.low, 1e-25, 1e-18, 1e-6, 1.0, 1e6, 1e18, NOISE_STDDEV.high])
def test_draws_are_exact_at_both_ends_of_the_range(hardened: bool, stddev: float) -> None:
    draws = GaussianNoise(RunKey.from_system(), [(20_000,)], hardened=hardened).flat(0, stddev=stddev)
    assert measured("draws", draws, stddev).p_value > LEVEL
    assert np.count_nonzero(draws) == draws.size
    assert np.unique(draws).size > 0.99 * draws.size


def test_the_scale_comes_last() -> None:
    """A power of two changes no digit."""
    source = GaussianNoise(RunKey.from_seed(1), [(1000,)])
    unit = source.flat(3, stddev=1.0)
    for power in (-90, -20, 10, 90):
        np.testing.assert_array_equal(source.flat(3, stddev=2.0**power), unit * np.float32(2.0**power))


@pytest.mark.parametrize("stddev", [0.0, 1e-31, 1e31, float("inf"), float("nan"), -1.0])
def test_noise_that_float32_does_not_hold_is_refused(stddev: float) -> None:
    with pytest.raises(BadInputError, match="standard deviation of the noise must lie between 1e-30 and 1e"):
        GaussianNoise(RunKey.from_system(), [(10,)]).flat(0, stddev=stddev)


@pytest.mark.parametrize("hardened", [False, True])
@pytest.mark.parametrize("factor", [0.0, 0.9, 1.1, float("nan")])
def test_noise_at_another_scale_is_refused(factor: float, hardened: bool) -> None:
    real = GaussianNoise.flat
    with (
        mock.patch.object(
            GaussianNoise, "flat", lambda self, step, *, stddev: np.float32(factor) * real(self, step, stddev=stddev)
        ),
        pytest.raises(PipelineError, match="the noise is not the one that is accounted"),
    ):
        require_noise(plan(0.5, hardened=hardened))


@pytest.mark.parametrize("kind", ["dense", "per layer"])
def test_the_old_formula_is_refused_where_it_vanishes_and_passes_elsewhere(kind: str) -> None:
    small = {"units": 10**9, "expected_batch_size": 10.0**8, "noise_multiplier": 1e-6}
    made = plan(1e-10, **{**KINDS[kind], **small})
    with mock.patch.object(noise, "box_muller_32", old_box_muller):
        require_noise(plan(0.5, **KINDS[kind]))
        with pytest.raises(PipelineError, match="the noise is not the one that is accounted"):
            require_noise(made)
    require_noise(made)


def test_a_sound_source_is_refused_once_in_a_billion() -> None:
    """The chance that is stated is uniform for a sound source: a thousand checks look so."""
    random = np.random.default_rng(0)
    found = np.array([measured("draws", random.normal(size=500), 1.0).p_value for _ in range(1000)])
    assert 0.4 < found.mean() < 0.6 and 0.03 < np.mean(found < 0.05) < 0.08
    assert noise_check.LEVEL == 1e-9


def test_the_check_knows_nothing_of_the_runs_key_or_data() -> None:
    seen: list[bytes] = []
    real = GaussianNoise.flat

    def flat(self: GaussianNoise, step: int, *, stddev: float) -> Any:
        seen.append(self.key.secret)
        return real(self, step, stddev=stddev)

    with mock.patch.object(GaussianNoise, "flat", flat):
        require_noise(plan(0.5))
        require_noise(plan(0.5))
    assert len(set(seen)) == 2


def test_a_library_run_is_refused_before_its_first_step() -> None:
    model = tf.keras.Sequential([tf.keras.layers.Input((3,)), tf.keras.layers.Dense(1)])
    before = model.get_weights()
    private = make_private(model, plan(0.5), optimizer="sgd", loss="mse")
    real = GaussianNoise.flat
    with (
        mock.patch.object(
            GaussianNoise, "flat", lambda self, step, *, stddev: np.float32(0.9) * real(self, step, stddev=stddev)
        ),
        pytest.raises(PipelineError, match="no data was used"),
    ):
        private.fit(np.ones((100, 3), np.float32), np.ones((100, 1), np.float32))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clipping_norm": 1e-25}, "clipping_norm must lie between 1e-10 and 1e.10, found 1e-25"),
        ({"clipping_norm": 1e11}, "clipping_norm must lie between"),
        ({"noise_multiplier": 1e-7}, "noise_multiplier must lie between 1e-06 and 1e.07, found 1e-07"),
        ({"noise_multiplier": 1e8}, "noise_multiplier must lie between"),
    ],
)
def test_numbers_out_of_range_are_one_clear_error(change: dict[str, float], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        plan(change.pop("clipping_norm", 0.5), **change)


def test_extremes_together_are_refused_where_float32_does_not_hold_their_noise() -> None:
    more: dict[str, Any] = {"units": 10**17, "expected_batch_size": 1e15, "noise_multiplier": 1e-6}
    with pytest.raises(BadInputError, match=r"the noise on the mean gradient .* must lie between 1e-30"):
        plan(1e-10, **more)


@pytest.mark.parametrize("rate", [1e25, 1e-11])
def test_a_learning_rate_out_of_range_is_refused(rate: float) -> None:
    model = tf.keras.Sequential([tf.keras.layers.Input((3,)), tf.keras.layers.Dense(1)])
    with pytest.raises(BadInputError, match=r"learning_rate must lie between 1e-10 and 1e.10"):
        make_private(model, plan(0.5), optimizer=tf.keras.optimizers.SGD(rate), loss="mse")
