"""Exact chances of the check of noise: that it refuses a sound run, and that wrong noise passes."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import chi2, skellam

from benchmarks.coverage_cases import Floats
from privacy_pipeline.dp.checks.noise_check import LEVEL


def chance_of_refusal(variance: float, numbers: int) -> float:
    """Return the exact probability that the check of noise refuses a sound Skellam sum of this variance and length."""
    reach = int(14 * math.sqrt(variance) + 16)
    k = np.arange(-reach, reach + 1)
    squares = np.zeros(reach**2 + 1)
    np.add.at(squares, k**2, skellam.pmf(k, variance / 2, variance / 2))
    count = numbers / (1 + 1 / variance / 2)  # as `federated.privacy.noise_check` counts them
    unit = variance * numbers / count
    return sum(
        _tail_of_sum(squares, numbers, limit * unit, upper=upper)
        for limit, upper in ((float(chi2.isf(LEVEL / 2, count)), True), (float(chi2.ppf(LEVEL / 2, count)), False))
    )


def _tail_of_sum(weights: Floats, numbers: int, limit: float, *, upper: bool) -> float:
    """Return P(sum of `numbers` whole draws > limit), or <; tilted towards the limit, so that rounding loses little."""
    x = np.arange(weights.size)
    low, high = -5.0, 1.0
    for _ in range(80):
        tilt = (low + high) / 2
        tilted = np.exp(tilt * x - max(0.0, tilt * x[-1]) + np.log(np.maximum(weights, 1e-320)))
        mean = (tilted * x).sum() / tilted.sum()
        low, high = (tilt, high) if mean < limit / numbers else (low, tilt)
    size = 1 << math.ceil(math.log2(2 * limit + 4 * weights.size))
    spectrum = np.fft.rfft(tilted / tilted.sum(), size)
    found = np.maximum(np.fft.irfft(spectrum**numbers, size), 0.0)
    sums = np.arange(size)
    log_scale = numbers * (math.log(tilted.sum()) + max(0.0, tilt * x[-1]))
    kept = (sums > limit if upper else sums < limit) & (found > 1e-13)
    return float(np.exp(np.log(found[kept]) + log_scale - tilt * sums[kept]).sum())


def passes(ratio: float, draws: int) -> float:
    """Return the chance that noise of `ratio` times the stated deviation passes the check."""
    low, high = (float(chi2.isf(side, draws)) for side in (1 - LEVEL / 2, LEVEL / 2))
    return float(chi2.cdf(high / ratio**2, draws) - chi2.cdf(low / ratio**2, draws))


def least_off(draws: int, chance: float) -> float:
    """Return the least relative deviation from the stated noise, up or down, that passes with at most this chance."""
    low, high = 0.0, 2.0
    for _ in range(60):
        off = (low + high) / 2
        passed = max(passes(1 + off, draws), passes(1 / (1 + off), draws))
        low, high = (off, high) if passed > chance else (low, off)
    return high
