"""Plans and rounds of distributed noise; each check takes the right thing and refuses its broken twin."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from federated.privacy.distributed import DistributedAggregator
from federated.privacy.distributed_noise import DistributedSettings
from federated.privacy.plan import FederatedPlan
from privacy_pipeline.dp.graphs.randomness import RunKey

CLIENTS, COHORT, LEAST, ROUNDS = 200, 20, 15, 40
NORM, SHAPES = 0.5, [(20, 10), (3,)]
WEIGHTS, DIMENSION = 203, 256
_UNLIKELY = 1e-6


def plan_of(family: Any = "skellam", *, bits: int = 20, least: int | None = LEAST, **changed: Any) -> FederatedPlan:
    """A plan over 200 clients, 20 a round, each once in ten rounds."""
    given: dict[str, Any] = {
        "clients": CLIENTS,
        "clients_per_round": COHORT,
        "rounds": ROUNDS,
        "delta": 1e-5,
        "clipping_norm": NORM,
        "noise_multiplier": 1.0,
        "sampling": "shuffled",
        "distributed": DistributedSettings(family=family, dimension=DIMENSION, min_clients=least, bits=bits),
        **changed,
    }
    return FederatedPlan.calibrated(**given)


def aggregator_of(plan: FederatedPlan, cls: Any = DistributedAggregator) -> Any:
    """An aggregator with a fixed key."""
    return cls(plan=plan, key=RunKey.from_seed(1), shapes=SHAPES)


def parts_of(updates: np.ndarray) -> list[np.ndarray]:
    """Flat updates [clients, weights] as one array a variable."""
    parts = np.split(updates.astype(np.float32), [200], axis=1)
    return [part.reshape(len(updates), *shape) for part, shape in zip(parts, SHAPES, strict=True)]


def finished(aggregator: Any, updates: np.ndarray, round_number: int, present: np.ndarray | None = None) -> Any:
    """What `finish` gives for a round of these updates."""
    state = {**aggregator.initial_state(), "round": np.int64(round_number)}
    there = np.ones(len(updates), bool) if present is None else present
    sums = aggregator.partial(state, parts_of(updates), np.ones(len(updates), np.float32), there)
    return aggregator.finish(state, sums, round_number)


def release(aggregator: Any, updates: np.ndarray, round_number: int) -> np.ndarray:
    """The released update of a round, flat."""
    update, _, _ = finished(aggregator, updates, round_number)
    return np.concatenate([np.asarray(part).ravel() for part in update])


def check_noise(aggregator: Any, *, arrived: int, rounds: int = 12) -> None:
    """A round's noise, before it is rotated back, is integers: the accounted shares and one more for each more client.

    Variance, mean and independence from round to round; zero updates, so that all there is is noise.
    """
    noise = aggregator.noise
    drawn = np.stack([sum_of_noise(aggregator, arrived, round_number) for round_number in range(rounds)])
    whole = np.rint(drawn)
    np.testing.assert_allclose(drawn, whole, atol=0.02, err_msg="the noise is not of whole numbers")
    variance = arrived * noise.share_variance
    chi2 = (whole**2).sum() / variance
    chance = stats.chi2.cdf(chi2, whole.size)
    assert _UNLIKELY < chance < 1 - _UNLIKELY, f"variance {whole.var():.5g}, not {variance:.5g}"
    assert abs(whole.mean()) < 6 * (variance / whole.size) ** 0.5
    assert abs(np.corrcoef(whole)[np.triu_indices(rounds, 1)]).max() < 6 / DIMENSION**0.5, "rounds share noise"


def sum_of_noise(aggregator: Any, arrived: int, round_number: int) -> np.ndarray:
    """What a round of zero updates releases, on the grid before it is rotated back, for a model that fills the plan."""
    from federated.privacy.encoding import rotated, signs

    flips = signs(DIMENSION, seed=aggregator._seed, round_number=round_number)
    full = type(aggregator)(plan=aggregator.plan, key=RunKey.from_seed(1), shapes=[(DIMENSION,)])
    state = {**full.initial_state(), "round": np.int64(round_number)}
    nothing = [np.zeros((arrived, DIMENSION), np.float32)]
    sums = full.partial(state, nothing, np.ones(arrived, np.float32), np.ones(arrived, bool))
    update, _, _ = full.finish(state, sums, round_number)
    scaled = np.asarray(update[0], np.float64)[np.newaxis] * full.plan.expected_clients * full.noise.scale
    return rotated(scaled, flips)[0]


def check_sensitivity(aggregator: Any) -> None:
    """One client moves the sum of encodings by an integer vector within the accounted norm, whatever it holds."""
    others = np.random.default_rng(3).normal(size=(5, WEIGHTS)) * 0.01
    state, most = aggregator.initial_state(), aggregator.noise.squared_norm

    def sums(last: np.ndarray) -> tuple[np.ndarray, int]:
        rows = np.vstack([others, last])
        found = aggregator.partial(state, parts_of(rows), np.ones(6, np.float32), np.ones(6, bool))
        return np.asarray(found[0]), int(found[1])

    without, reported = sums(np.zeros(WEIGHTS))
    largest = 0
    for seed in range(40):
        direction = np.random.default_rng(seed).normal(size=WEIGHTS)
        for length in (0.3, 1.0, 50.0):
            moved, now = sums(length * NORM * direction / np.linalg.norm(direction))
            assert now == reported
            largest = max(largest, int(((moved - without) ** 2).sum()))
    assert largest <= most, f"a client moves the sum by {largest}, {most} is accounted"
    assert largest > 0.5 * aggregator.noise.scale**2 * NORM**2, "a clipped client is lost"
    for bad in (np.nan, np.inf):
        moved, now = sums(np.full(WEIGHTS, bad))
        np.testing.assert_array_equal(moved, without)
        assert now == reported, "a client whose update is not finite does not add its share"


def coarse(plan: FederatedPlan) -> FederatedPlan:
    """The plan with a norm bound that rounding often exceeds."""
    noise = plan.distributed
    assert noise is not None
    tight = int((noise.scale * plan.base.clipping.norm) ** 2 + noise.dimension / 5)
    return dataclasses.replace(plan, distributed=dataclasses.replace(noise, squared_norm=tight))
