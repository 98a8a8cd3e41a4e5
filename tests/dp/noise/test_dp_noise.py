"""The noise is Gaussian with the standard deviation it claims, never the same twice, and secret."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.noise.noise import GaussianNoise, box_muller_32

SIZE = 40_000
# Each check of a sound generator fails by chance once in 100,000 runs; a scale off by 10 % never passes at this size.
LEVEL = 1e-5


def fits(sample: np.ndarray, stddev: float) -> bool:
    """Kolmogorov and Smirnov on a sample that should be N(0, stddev^2)."""
    return bool(stats.kstest(sample, "norm", args=(0, stddev)).pvalue > LEVEL)


@pytest.mark.parametrize("hardened", [False, True])
def test_noise_has_its_distribution_and_no_other_scale(hardened: bool) -> None:
    drawn = GaussianNoise(RunKey.from_system(), [(SIZE,)], hardened=hardened).draw(0, stddev=0.25)[0]
    assert drawn.dtype == np.float32
    assert fits(drawn, 0.25)
    assert not fits(drawn, 0.25 * 0.9)
    assert not fits(drawn, 0.25 * 1.1)


@pytest.mark.parametrize("hardened", [False, True])
def test_tails_and_independence(hardened: bool) -> None:
    noise = GaussianNoise(RunKey.from_seed(0), [(1_000_000,)], hardened=hardened)
    sample = noise.draw(3, stddev=1.0)[0].astype(np.float64)
    for bound in (3.0, 4.0):
        expected = sample.size * 2 * stats.norm.sf(bound)
        assert abs(np.count_nonzero(np.abs(sample) > bound) - expected) < 5 * np.sqrt(expected)
    for lag in (1, sample.size // 2, sample.size // 4):  # halves share radii, quarters are summed
        assert abs(np.corrcoef(sample[:-lag], sample[lag:])[0, 1]) < 5 / np.sqrt(sample.size - lag)
        squares = np.square(sample)
        assert abs(np.corrcoef(squares[:-lag], squares[lag:])[0, 1]) < 5 / np.sqrt(sample.size - lag)


def test_steps_and_keys_differ_and_a_step_repeats() -> None:
    key = RunKey.from_system()
    noise = GaussianNoise(key, [(3, 5), (7,)])
    first = noise.draw(0, stddev=1.0)
    assert [part.shape for part in first] == [(3, 5), (7,)]
    again, other = noise.draw(0, stddev=1.0), noise.draw(1, stddev=1.0)
    foreign = GaussianNoise(RunKey.from_system(), [(3, 5), (7,)]).draw(0, stddev=1.0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not set(np.concatenate([p.ravel() for p in first])) & set(np.concatenate([p.ravel() for p in other]))
    assert not set(np.concatenate([p.ravel() for p in first])) & set(np.concatenate([p.ravel() for p in foreign]))


def test_the_key_is_never_shown() -> None:
    key = RunKey.from_system()
    for text in (repr(key), str(key), repr(GaussianNoise(key, [(1,)]))):
        assert repr(key.secret) not in text
        assert key.secret.hex() not in text
    assert len(key.secret) == 32
    assert not key.seed_fixed
    assert RunKey.from_seed(1).seed_fixed
    assert key.derive("a", 16) != key.derive("b", 16)


def test_the_tail_reaches_beyond_what_32_bits_give() -> None:
    """The smallest uniform gives the largest radius; with 32 bits it would be 6.8."""
    smallest = bytes(12)  # radius from 0, angle 0
    assert abs(float(box_muller_32(smallest)[0])) > 9


def test_no_uniform_gives_a_value_that_is_no_number() -> None:
    assert np.isfinite(box_muller_32(b"\xff" * 12 * 8)).all()
