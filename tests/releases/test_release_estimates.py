"""Intervals cover what they are about, with the noise in them; without it the same check fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from privacy_pipeline.releases import estimates, histograms
from privacy_pipeline.releases.estimates import Interval
from privacy_pipeline.releases.queries import UNIT_OF_FIXED_POINT, Histogram, Moments
from privacy_pipeline.releases.release import Noisy

TRIALS = 100  # each case of benchmarks/coverage.py has thousands
LEAST = 0.87  # 0.95 less nearly four standard errors of a share of 100


def coverage(truth: float, draw: Callable[[np.random.Generator], Interval]) -> float:
    rng = np.random.default_rng(7)
    intervals = [draw(rng) for _ in range(TRIALS)]
    return sum(interval.low <= truth <= interval.high for interval in intervals) / TRIALS


def noisy_rates(rng: np.random.Generator, *, n: int, scale: float, stated: float) -> dict[str, Interval]:
    tp, fp, tn, fn = rng.multinomial(n, [0.2, 0.05, 0.65, 0.1])
    names = {"tp": tp, "fp": fp, "tn": tn, "fn": fn}
    return estimates.rates({k: float(v + round(rng.normal(0, scale))) for k, v in names.items()}, scale=stated)


TRUTH = {"accuracy": 0.85, "precision": 0.8, "recall": 2 / 3}


@pytest.mark.slow
@pytest.mark.parametrize(("n", "scale"), [(5000, 1.0), (2000, 40.0), (300, 10.0), (60, 20.0)])
def test_rates_are_covered_with_little_and_with_much_noise(n: int, scale: float) -> None:
    for name, truth in TRUTH.items():
        assert coverage(truth, lambda rng, name=name: noisy_rates(rng, n=n, scale=scale, stated=scale)[name]) >= LEAST


@pytest.mark.slow
def test_an_interval_that_ignores_the_noise_does_not_cover() -> None:
    for name, truth in TRUTH.items():
        found = coverage(truth, lambda rng, name=name: noisy_rates(rng, n=2000, scale=40.0, stated=0.0)[name])
        assert found < 0.8


def test_an_interval_is_little_wider_than_wilsons() -> None:
    found = estimates.ratio((800.0,), (200.0,), scale=0.0)
    assert (found.low, found.high) == pytest.approx((0.7741, 0.8236), abs=2e-3)  # Wilson's
    assert found.value == 0.8
    noisy = estimates.ratio((800.0,), (200.0,), scale=40.0)
    reach = 1.96 * np.hypot((0.8 * 0.2 / 1000) ** 0.5, 40 * np.hypot(0.2, 0.8) / 1000)
    assert 2 * reach < noisy.high - noisy.low < 1.15 * 2 * reach


def test_rows_of_a_unit_that_are_alike_widen_the_interval() -> None:
    def draw(rng: np.random.Generator, bound: int) -> Interval:
        hits = 5 * rng.binomial(200, 0.7)
        return estimates.ratio((float(hits),), (float(1000 - hits),), scale=0.0, bound=bound)

    assert coverage(0.7, lambda rng: draw(rng, 5)) >= LEAST
    assert coverage(0.7, lambda rng: draw(rng, 1)) < 0.8


@pytest.mark.parametrize(("hit", "miss"), [(-5.0, -4.0), (0.0, 0.0), (3.0, 1.0), (400.0, -500.0)])
def test_where_noise_drowns_the_counts_nothing_is_said(hit: float, miss: float) -> None:
    found = estimates.ratio((hit,), (miss,), scale=50.0)
    assert (found.low, found.high) == (0.0, 1.0)


def answer(n: int, total: float, *, scale: float, stated: float, rng: np.random.Generator) -> Noisy:
    draws = np.rint(rng.normal(0, scale, 2) * UNIT_OF_FIXED_POINT)
    sums = {"sum": total * UNIT_OF_FIXED_POINT + draws[0], "count": n * UNIT_OF_FIXED_POINT + draws[1]}
    query = Moments(name="m", column="x", minimum=0.0, maximum=10.0)
    return Noisy(
        query=query,
        values={cell: int(value) for cell, value in sums.items()},
        scale=stated * UNIT_OF_FIXED_POINT,
        threshold=None,
    )


@pytest.mark.slow_but("1000-60.0")
@pytest.mark.parametrize(("n", "scale"), [(5000, 1.0), (1000, 60.0), (50, 10.0)])
def test_means_are_covered(n: int, scale: float) -> None:
    def draw(rng: np.random.Generator, stated: float = scale) -> Interval:
        ups = int(rng.binomial(n, 0.7))  # values 10 and 0, as spread out as they can be: mean 7
        return estimates.mean(answer(n, ups - (n - ups), scale=scale, stated=stated, rng=rng))

    assert coverage(7.0, draw) >= LEAST
    if scale > 10:
        assert coverage(7.0, lambda rng: draw(rng, stated=0.0)) < 0.8


def test_sums_and_counts_are_covered() -> None:
    def total(rng: np.random.Generator, stated: float = 20.0) -> Interval:
        return estimates.total(answer(500, 100.0, scale=20.0, stated=stated, rng=rng))

    def count(rng: np.random.Generator, stated: float = 20.0) -> Interval:
        return estimates.count(500 + round(rng.normal(0, 20.0)), scale=stated)

    for truth, draw in ((500 * 5.0 + 100 * 5.0, total), (500.0, count)):
        assert coverage(truth, draw) >= LEAST
        assert coverage(truth, lambda rng, draw=draw: draw(rng, 0.0)) < 0.5


def histogram(values: np.ndarray, edges: tuple[float, ...], *, scale: float) -> Noisy:
    query = Histogram(name="h", column="x", edges=edges)
    counts = query.contribution([{"x": float(value)} for value in values])
    rng = np.random.default_rng(3)
    noisy = {cell: counts.get(cell, 0) + round(rng.normal(0, scale)) for cell in query.cells}
    return Noisy(query=query, values=noisy, scale=scale, threshold=None)


def test_quantiles_and_ranges_of_a_histogram() -> None:
    values = np.random.default_rng(1).uniform(20, 60, 10_000)
    linear = histogram(values, histograms.linear_edges(0.0, 100.0, intervals=50), scale=10.0)
    for share in (0.1, 0.5, 0.9):
        assert histograms.quantile(linear, share) == pytest.approx(20 + 40 * share, abs=2.5)
        found = histograms.quantile_interval(linear, share)
        assert found.low <= 20 + 40 * share <= found.high <= found.low + 8
    assert histograms.value_range(linear) == (20.0, 60.0)
    wide = histogram(values, histograms.logarithmic_edges(), scale=10.0)
    assert histograms.value_range(wide) == (16.0, 64.0)
    assert histograms.value_range(histogram(values[:3], histograms.logarithmic_edges(), scale=10.0)) is None


def test_a_vocabulary_is_ranked_by_count() -> None:
    query = Histogram(name="h", column="x", edges=(0.0,))  # the query does not matter
    noisy = Noisy(query=query, values={"b": 5, "a": 5, "c": 9}, scale=1.0, threshold=2)
    assert estimates.vocabulary(noisy, most=2) == ("c", "a")
