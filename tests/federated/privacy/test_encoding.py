"""Rotation, rounding and wrapping of clients' updates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated.privacy import encoding
from federated.privacy.encoding import clipped, hadamard, padded_size, rotated, rounded, signs, unrotated, wrapped
from privacy_pipeline.errors import PipelineError


@pytest.mark.parametrize("dimension", [1, 2, 8, 64])
def test_the_rotation_is_orthogonal(dimension: int) -> None:
    flips = signs(dimension, seed=5, round_number=2)
    matrix = rotated(np.eye(dimension), flips)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dimension), atol=1e-12)
    # Sylvester's recursion, as a second way to the same matrix.
    wanted = np.ones((1, 1))
    while wanted.shape[0] < dimension:
        wanted = np.block([[wanted, wanted], [wanted, -wanted]])
    np.testing.assert_allclose(hadamard(np.eye(dimension)), wanted / math.sqrt(dimension), atol=1e-12)


def test_rotation_is_undone_and_differs_by_round() -> None:
    row = np.random.default_rng(1).normal(size=(1, 37))
    flips = signs(64, seed=5, round_number=2)
    np.testing.assert_allclose(unrotated(rotated(row, flips)[0], flips, 37), row[0], atol=1e-12)
    assert set(flips) == {-1.0, 1.0}
    assert not np.array_equal(flips, signs(64, seed=5, round_number=3))
    np.testing.assert_array_equal(flips, signs(64, seed=5, round_number=2))
    # One large number is spread over all of them.
    assert np.abs(rotated(np.eye(1, 37), flips)).max() == pytest.approx(1 / 8)


def test_sizes_are_padded_to_powers_of_two() -> None:
    assert [padded_size(n) for n in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]


@settings(max_examples=200, deadline=None)
@given(
    dimension=st.sampled_from([1, 2, 16, 256]),
    norm=st.floats(min_value=1e-3, max_value=1e4),
    fill=st.floats(min_value=0, max_value=1),
    spread=st.integers(min_value=1, max_value=256),
    seed=st.integers(min_value=0, max_value=2**32 - 1),
)
def test_a_rounded_norm_never_exceeds_its_bound(
    dimension: int, norm: float, fill: float, spread: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    row = np.zeros(dimension)
    row[:spread] = random.normal(size=row[:spread].size)
    row *= fill * norm / max(np.linalg.norm(row), 1e-30)
    bound = encoding.squared_norm_bound(norm, dimension)
    found = rounded(row, squared_norm=bound, uniform=random.random)
    assert found.dtype == np.int64 and int((found**2).sum()) <= bound
    assert np.abs(found - row).max() < 1
    assert math.isqrt(min(dimension * bound, bound**2)) >= np.abs(found).sum()  # what the event's L1 norm relies on


def unchecked(row: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.floor(row) + (random.random(row.size) < row - np.floor(row))


def test_without_rounding_again_the_bound_is_exceeded_and_the_bound_is_not_idle() -> None:
    random = np.random.default_rng(1)
    row, bound = np.full(256, 0.5), encoding.squared_norm_bound(8.0, 256)
    plain = np.array([(unchecked(row, random) ** 2).sum() for _ in range(4000)])
    assert plain.mean() > 0.99 * bound * 128 / bound  # half of the numbers are rounded up
    tight = int(plain.mean())
    assert (plain > tight).mean() > 0.3
    kept = [int((rounded(row, squared_norm=tight, uniform=random.random) ** 2).sum()) for _ in range(300)]
    assert max(kept) <= tight


@pytest.mark.parametrize(("norm", "dimension"), [(0.5, 4), (8.0, 256), (100.0, 16)])
def test_the_bound_holds_with_the_chance_that_it_promises(norm: float, dimension: int) -> None:
    random = np.random.default_rng(2)
    direction = random.normal(size=dimension)
    row = norm * direction / np.linalg.norm(direction)
    bound = encoding.squared_norm_bound(norm, dimension)
    within = np.mean([(unchecked(row, random) ** 2).sum() <= bound for _ in range(2000)])
    assert within >= 1 - encoding.BETA
    assert bound >= math.floor(norm**2)


def test_rounding_has_no_bias_where_the_bound_is_far() -> None:
    random = np.random.default_rng(3)
    row = np.array([0.1, -0.7, 2.5, -3.25])
    drawn = np.array([rounded(row, squared_norm=1000, uniform=random.random) for _ in range(20_000)])
    np.testing.assert_allclose(drawn.mean(axis=0), row, atol=0.02)
    whole = np.array([3.0, -2.0, 0.0])
    np.testing.assert_array_equal(rounded(whole, squared_norm=13, uniform=random.random), whole)


def test_what_was_not_clipped_is_an_error() -> None:
    random = np.random.default_rng(4)
    for row in (np.full(4, 10.0), np.full(4, 2.6), np.full(4, np.nan), np.full(4, 1e300)):
        with pytest.raises(PipelineError, match="not what is accounted"):
            rounded(row, squared_norm=5, uniform=random.random)


def test_rows_are_clipped_and_broken_ones_are_zero() -> None:
    rows = np.array([[3.0, 4.0], [0.3, 0.4], [np.nan, 1.0], [np.inf, 0.0], [1e200, 0.0], [1e-320, 0.0], [0.0, 0.0]])
    found = clipped(rows, 1.0)
    assert (np.linalg.norm(found, axis=1) <= 1.0).all()
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.3, 0.4], [0, 0], [0, 0], [1, 0], [0, 0], [0, 0]], atol=1e-9)


@given(st.integers(min_value=-(2**50), max_value=2**50), st.integers(min_value=6, max_value=32))
def test_wrapping_keeps_the_remainder(value: int, bits: int) -> None:
    found = int(wrapped(np.array([value]), bits)[0])
    assert (found - value) % 2**bits == 0 and -(2 ** (bits - 1)) <= found < 2 ** (bits - 1)


def test_sums_of_wrapped_numbers_wrap_to_the_wrapped_sum() -> None:
    values = np.random.default_rng(6).integers(-(2**20), 2**20, size=(50, 30))
    np.testing.assert_array_equal(wrapped(wrapped(values, 8).sum(axis=0), 8), wrapped(values.sum(axis=0), 8))
