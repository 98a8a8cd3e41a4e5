"""The sampler is a Poisson sampler with the plan's probability: tests that accept it reject its look-alikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.sampling.sampler import Sampler, poisson_sample
from privacy_pipeline.errors import BadInputError

UNITS, STEPS = 500, 2000
LEVEL = 1e-5  # chance that a sound sampler fails one check
Draw = Callable[[int], np.ndarray]


def plan(batch: float = 25, *, units: int = UNITS, steps: int = STEPS, **more: Any) -> PrivacyPlan:
    return PrivacyPlan.calibrated(
        units=units, expected_batch_size=batch, steps=steps, noise_multiplier=1.0, delta=1e-5, clipping_norm=1.0, **more
    )


def looks_poisson(draw: Draw, probability: float) -> list[str]:
    """Names of the checks that a sampler fails as a Poisson sampler of `probability`."""
    drawn = np.zeros((STEPS, UNITS), bool)
    for step in range(STEPS):
        drawn[step, draw(step)] = True
    sizes = drawn.sum(1)
    spread = probability * (1 - probability)
    failed = []
    if stats.binomtest(int(drawn.sum()), STEPS * UNITS, probability).pvalue < LEVEL:
        failed.append("probability")
    # Batch sizes are binomial: their variance is that of independent units.
    chi = np.square(sizes - UNITS * probability).sum() / (UNITS * spread)
    if 2 * min(stats.chi2.cdf(chi, STEPS), stats.chi2.sf(chi, STEPS)) < LEVEL:
        failed.append("sizes")
    # Each unit's count is binomial too: shuffling gives every unit the same.
    chi = np.square(drawn.sum(0) - STEPS * probability).sum() / (STEPS * spread)
    if 2 * min(stats.chi2.cdf(chi, UNITS), stats.chi2.sf(chi, UNITS)) < LEVEL:
        failed.append("counts")
    # A unit in one step says nothing of it in the next, nor of its neighbour.
    for name, both in (("steps", drawn[1:] & drawn[:-1]), ("neighbours", drawn[:, 1:] & drawn[:, :-1])):
        if stats.binomtest(int(both.sum()), both.size, probability**2).pvalue < LEVEL:
            failed.append(name)
    return failed


def test_poisson_sampler_is_one() -> None:
    made = plan()
    assert looks_poisson(Sampler(made, RunKey.from_system(), UNITS).batch, 0.05) == []


@pytest.mark.parametrize("wrong", [0.9, 1.1])
def test_another_probability_is_noticed(wrong: float) -> None:
    made = Sampler(plan(25 * wrong), RunKey.from_system(), UNITS)
    assert "probability" in looks_poisson(made.batch, 0.05)


def test_shuffling_is_noticed() -> None:
    made = Sampler(plan(sampling="shuffled"), RunKey.from_system(), UNITS)
    assert {"sizes", "counts", "steps"} <= set(looks_poisson(made.batch, 0.05))


def test_skipping_empty_batches_is_noticed() -> None:
    sound = Sampler(plan(1.0, steps=STEPS * 4), RunKey.from_system(), UNITS)
    kept = [batch for batch in map(sound.batch, range(STEPS * 4)) if batch.size][:STEPS]
    assert "probability" in looks_poisson(lambda step: kept[step], 1 / UNITS)


def test_a_seed_that_comes_back_is_noticed() -> None:
    made = Sampler(plan(), RunKey.from_system(), UNITS)
    assert "counts" in looks_poisson(lambda step: made.batch(step % 20), 0.05)


def test_empty_batches_are_kept() -> None:
    made = Sampler(plan(0.5), RunKey.from_system(), UNITS)
    empty = sum(made.batch(step).size == 0 for step in range(STEPS))
    assert stats.binomtest(empty, STEPS, (1 - 0.5 / UNITS) ** UNITS).pvalue > LEVEL


@pytest.mark.parametrize("probability", [1.0, 0.5, 1e-3, 1e-12])
def test_samples_are_ascending_and_in_range(probability: float) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        drawn = poisson_sample(generator, units=1000, probability=probability)
        assert np.all(np.diff(drawn) > 0)
        assert drawn.size == 0 or (drawn[0] >= 0 and drawn[-1] < 1000)
        assert probability < 1 or drawn.size == 1000


def test_work_does_not_grow_with_the_data() -> None:
    drawn = poisson_sample(np.random.default_rng(0), units=10**12, probability=1e-10)
    assert 50 < drawn.size < 160


def test_steps_repeat_and_keys_differ() -> None:
    key, made = RunKey.from_system(), plan()
    one, two = Sampler(made, key, UNITS), Sampler(made, key, UNITS)
    assert np.array_equal(one.batch(7), two.batch(7))
    assert not np.array_equal(one.batch(7), one.batch(8))
    assert not np.array_equal(one.batch(7), Sampler(made, RunKey.from_system(), UNITS).batch(7))


def test_partition_uses_each_unit_once_an_epoch() -> None:
    made = plan(25, steps=40, sampling="shuffled")
    sampler = Sampler(made, RunKey.from_system(), UNITS)
    for epoch in range(2):
        dealt = np.concatenate([sampler.batch(epoch * 20 + place) for place in range(20)])
        assert np.array_equal(np.sort(dealt), np.arange(UNITS))


def test_truncation_caps_batches_without_bias() -> None:
    made = Sampler(plan(25, sampling="truncated_poisson", truncate_at=26), RunKey.from_system(), UNITS)
    counts = np.zeros(UNITS)
    for step in range(STEPS):
        batch = made.batch(step)
        assert batch.size <= 26
        counts[batch] += 1
    halves = counts[: UNITS // 2].sum(), counts[UNITS // 2 :].sum()
    assert abs(halves[0] - halves[1]) < 5 * np.sqrt(sum(halves))


def test_steps_past_the_plan_and_other_data_are_refused() -> None:
    with pytest.raises(BadInputError, match="not accounted"):
        Sampler(plan(), RunKey.from_system(), UNITS).batch(STEPS)
    with pytest.raises(BadInputError, match="the data holds 499"):
        Sampler(plan(), RunKey.from_system(), UNITS - 1)


def test_secret_number_of_units_is_not_compared() -> None:
    made = PrivacyPlan.calibrated(
        relation=Relation.ADD_OR_REMOVE_ONE,
        sampling_probability=0.01,
        expected_batch_size=10,
        steps=5,
        noise_multiplier=1.0,
        delta=1e-5,
        clipping_norm=1.0,
    )
    for units in (900, 1100):
        assert Sampler(made, RunKey.from_system(), units).batch(0).size < 60
