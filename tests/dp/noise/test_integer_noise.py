"""Integer noise against its distributions, and against samplers that look like it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import stats

from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.noise import integer_noise
from privacy_pipeline.dp.noise.integer_noise import DISTANCE, IntegerNoise
from privacy_pipeline.errors import BadInputError

KEY = RunKey.from_seed(1)
SIZE = 400_000
_UNLIKELY = 1e-6


def probabilities(family: Any, variance: float, last: int) -> np.ndarray:
    """Of -last to last, from SciPy's Skellam distribution, or by adding up discrete Gaussian weights."""
    numbers = np.arange(-last, last + 1)
    if family == "skellam":
        return stats.skellam.pmf(numbers, variance / 2, variance / 2)
    every = np.arange(-2000, 2001)
    return np.exp(-(numbers**2) / (2 * variance)) / np.exp(-(every**2) / (2 * variance)).sum()


def check_distribution(drawn: np.ndarray, family: Any, variance: float) -> None:
    """Counts of each number are multinomial with the right chances; rare numbers are counted together."""
    last = int(np.ceil(8 * variance**0.5)) + 8
    expected = probabilities(family, variance, last) * drawn.size
    counts = np.bincount(np.clip(drawn, -last, last) + last, minlength=2 * last + 1)
    often = expected >= 20
    rest = drawn.size - expected[often].sum()
    observed, wanted = counts[often], expected[often]
    if rest >= 20:
        observed, wanted = np.append(observed, counts[~often].sum()), np.append(wanted, rest)
    else:
        assert counts[~often].sum() < 100, "rare numbers come too often"
    chi2 = ((observed - wanted) ** 2 / wanted).sum()
    chance = stats.chi2.sf(chi2, observed.size - 1)
    assert chance > _UNLIKELY, f"chance {chance:.2g} of these counts"


@pytest.mark.parametrize("family", ["skellam", "discrete_gaussian"])
@pytest.mark.parametrize("variance", [0.3, 1.0, 7.5, 90.0])
def test_numbers_have_their_distribution(family: Any, variance: float) -> None:
    check_distribution(IntegerNoise(family, variance).draw(KEY, "x", 0, SIZE), family, variance)


def twins(family: str, variance: float) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(1)
    other = "discrete_gaussian" if family == "skellam" else "skellam"
    return {
        "a rounded Gaussian": np.rint(draws.normal(size=SIZE) * variance**0.5).astype(np.int64),
        "the other family": IntegerNoise(other, variance).draw(KEY, "x", 0, SIZE),  # type: ignore[arg-type]
        "a little less noise": IntegerNoise(family, 0.97 * variance).draw(KEY, "x", 0, SIZE),  # type: ignore[arg-type]
        "no zeros": np.where((own := IntegerNoise(family, variance).draw(KEY, "x", 0, SIZE)) == 0, 1, own),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("family", ["skellam", "discrete_gaussian"])
@pytest.mark.parametrize("name", ["a rounded Gaussian", "the other family", "a little less noise", "no zeros"])
def test_twins_are_refused(family: Any, name: str) -> None:
    with pytest.raises(AssertionError):
        check_distribution(twins(family, 1.0)[name], family, 1.0)


def test_sums_of_skellam_numbers_are_skellam_and_steps_are_independent() -> None:
    noise = IntegerNoise("skellam", 0.5)
    drawn = np.stack([noise.draw(KEY, f"share {share}", 3, SIZE) for share in range(6)])
    check_distribution(drawn.sum(axis=0), "skellam", 3.0)
    assert abs(np.corrcoef(drawn)[np.triu_indices(6, 1)]).max() < 6 / SIZE**0.5
    np.testing.assert_array_equal(drawn[2], noise.draw(KEY, "share 2", 3, SIZE))
    assert not np.array_equal(drawn[2], noise.draw(KEY, "share 2", 4, SIZE))
    with pytest.raises(AssertionError):  # one share for all
        check_distribution(6 * drawn[0], "skellam", 3.0)


@pytest.mark.parametrize("family", ["skellam", "discrete_gaussian"])
@pytest.mark.parametrize("variance", [0.25, 3.0, 1e4, 2.0**24])
def test_tables_are_exact_to_double_precision_and_reach_far_enough(family: Any, variance: float) -> None:
    table = integer_noise._table(family, variance)
    held = [Fraction(edge, 1 << 256) for edge in table.edges]
    near = range(-table.least - 40, -table.least + 40) if variance > 100 else range(1, len(held))
    chances = np.array([float(held[j] - held[j - 1]) for j in near])
    numbers = table.least + np.array(near)
    if family == "skellam":
        from scipy.special import ive

        wanted = ive(np.abs(numbers), variance)
    else:
        every = np.arange(-int(12 * variance**0.5) - 20, int(12 * variance**0.5) + 21, dtype=np.float64)
        wanted = np.exp(-(numbers**2) / (2 * variance)) / np.exp(-(every**2) / (2 * variance)).sum()
    np.testing.assert_allclose(chances, wanted, rtol=1e-10, atol=2.0**-230)
    # What the table leaves out, and what its first and last numbers hold, is far below the distance that is paid.
    assert held[0] < Fraction(1, 1 << 238) and 1 - held[-1] < Fraction(1, 1 << 238)
    assert Fraction(DISTANCE) == Fraction(1, 1 << 200)
    assert table.edges == sorted(table.edges)
    middle = len(held) // 2
    assert abs(held[middle - 1] + held[middle] - 1) < Fraction(1, 1 << 254)  # symmetric


def test_ties_of_the_first_bits_are_decided_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in which every draw is a tie: 64 equal bits, so that only the later ones decide."""
    half = 1 << 255
    edges = [half + (1 << 190), half + (1 << 191)]
    first = np.array([edge >> 192 for edge in edges], np.uint64)
    monkeypatch.setattr(integer_noise, "_table", lambda *_: integer_noise._Table(-1, edges, first))

    class Tied:
        def __init__(self) -> None:
            self.random = np.random.default_rng(5)

        def update(self, zeros: bytes) -> bytes:
            if len(zeros) % 8 == 0 and len(zeros) != 24:
                return (1 << 63).to_bytes(8, "little") * (len(zeros) // 8)
            return self.random.bytes(len(zeros))

    monkeypatch.setattr(integer_noise, "keystream", lambda *_: Tied())
    drawn = IntegerNoise("skellam", 1.0).draw(KEY, "x", 0, 4000)
    shares = np.bincount(drawn + 1, minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.25, 0.25, 0.5], atol=0.05)


def test_what_does_not_belong_is_refused() -> None:
    for variance in (0.0, -1.0, float("nan"), float("inf"), 2.0**32):
        with pytest.raises(BadInputError, match="variance"):
            IntegerNoise("skellam", variance)
    with pytest.raises(BadInputError, match="unknown"):
        IntegerNoise("laplace", 1.0)  # type: ignore[arg-type]
    assert "2^-200" in IntegerNoise("skellam", 1.0).generator
