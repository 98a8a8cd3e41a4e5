"""What a cohort and a released round must look like; each check takes the right thing and refuses its broken twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from federated.privacy.gaussian import GaussianAggregator
from federated.privacy.plan import FederatedPlan
from federated.privacy.sampler import ClientSampler
from privacy_pipeline.dp.graphs.randomness import RunKey

CLIENTS, PER_ROUND, ROUNDS = 200, 20, 1500
NORM, SHAPES = 0.5, [(40, 20), (3,)]
_UNLIKELY = 1e-6


def plan_of(**changed: Any) -> FederatedPlan:
    """A plan over 200 clients, 20 a round."""
    given: dict[str, Any] = {
        "clients": CLIENTS,
        "clients_per_round": PER_ROUND,
        "rounds": ROUNDS,
        "delta": 1e-5,
        "clipping_norm": NORM,
        "noise_multiplier": 1.0,
        **changed,
    }
    return FederatedPlan.calibrated(**given)


def sampler_of(plan: FederatedPlan, *, seed: int = 1, clients: int = CLIENTS) -> ClientSampler:
    """A sampler with a fixed key, so that the tests repeat."""
    return ClientSampler(plan, RunKey.from_seed(seed), clients)


def aggregator_of(plan: FederatedPlan, cls: Any = GaussianAggregator, *, seed: int = 1) -> Any:
    """An aggregator with a fixed key."""
    return cls(plan=plan, key=RunKey.from_seed(seed), shapes=SHAPES)


def check_poisson(cohorts: Sequence[np.ndarray], *, clients: int, probability: float) -> None:
    """Each client is in each cohort with one probability, independently of the others; none is in one twice."""
    member = np.zeros((len(cohorts), clients))
    for round, cohort in enumerate(cohorts):
        assert np.unique(cohort).size == cohort.size, "a client is in a cohort twice"
        member[round, cohort] = 1
    rounds = len(cohorts)
    # Sizes are binomial: a fixed size has no variance at all.
    sizes = member.sum(axis=1)
    spread = clients * probability * (1 - probability)
    chi2 = ((sizes - clients * probability) ** 2).sum() / spread
    assert _UNLIKELY < stats.chi2.cdf(chi2, rounds) < 1 - _UNLIKELY, f"cohort sizes vary by {sizes.var():.2f}"
    # Every client comes equally often.
    shares = member.sum(axis=0)
    chi2 = ((shares - rounds * probability) ** 2).sum() / (rounds * probability * (1 - probability))
    assert _UNLIKELY < stats.chi2.cdf(chi2, clients) < 1 - _UNLIKELY, "some clients come more often"
    # Whether one comes says nothing about the next round.
    repeats = (member[1:] * member[:-1]).sum()
    mean = (rounds - 1) * clients * probability**2
    assert abs(repeats - mean) < 6 * np.sqrt(mean), "rounds depend on each other"


Release = Callable[[Any, np.ndarray, int], np.ndarray]


def release(aggregator: Any, updates: np.ndarray, round: int, present: np.ndarray | None = None) -> np.ndarray:
    """A round of an aggregator over flat updates [clients, numbers]; the released update, flat."""
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    parts = np.split(updates.astype(np.float32), np.cumsum(sizes)[:-1], axis=1)
    held = [part.reshape(len(updates), *shape) for part, shape in zip(parts, SHAPES, strict=True)]
    state = aggregator.initial_state()
    there = np.ones(len(updates), bool) if present is None else present
    summed = aggregator.partial(state, held, np.ones(len(updates), np.float32), there)
    update, _, _ = aggregator.finish(state, summed, round)
    return np.concatenate([np.asarray(part).ravel() for part in update])


def numbers() -> int:
    """Numbers of an update."""
    return sum(int(np.prod(shape)) for shape in SHAPES)


def check_noise(aggregator: Any, *, stddev: float, arrived: int) -> None:
    """Beside the sum, a round holds Gaussian noise of one scale, whoever arrived, and other noise in each round."""
    nothing = np.zeros((arrived, numbers()))
    drawn = np.stack([release(aggregator, nothing, round) for round in range(8)])
    assert stats.kstest(drawn.ravel() / stddev, "norm").pvalue > _UNLIKELY, f"noise of {drawn.std():.4g}"
    chi2 = (drawn**2).sum() / stddev**2
    assert _UNLIKELY < stats.chi2.cdf(chi2, drawn.size) < 1 - _UNLIKELY, f"noise of {drawn.std():.4g}, not {stddev:.4g}"
    assert abs(np.corrcoef(drawn)[np.triu_indices(8, 1)]).max() < 6 / np.sqrt(numbers()), "rounds share noise"


def check_sensitivity(aggregator: Any, *, norm: float, expected: float) -> None:
    """One client moves a round by its clipped update, and by no more than the norm; also a huge or broken one."""
    others = np.random.default_rng(3).normal(size=(5, numbers())) * 0.01
    direction = np.random.default_rng(4).normal(size=numbers())
    direction /= np.linalg.norm(direction)
    without = release(aggregator, np.vstack([others, np.zeros(numbers())]), 0)
    for length in (0.1 * norm, norm, 10 * norm, 1e6 * norm):
        moved = (release(aggregator, np.vstack([others, length * direction]), 0) - without) * expected
        assert np.linalg.norm(moved) <= norm * (1 + 1e-3), f"a client moves the sum by {np.linalg.norm(moved):.4g}"
        wanted = min(length, norm) * direction
        np.testing.assert_allclose(
            moved, wanted, atol=2e-5 * norm * expected, err_msg="a client is not clipped but lost"
        )
    for bad in (np.nan, np.inf):
        broken = np.where(np.arange(numbers()) == 7, bad, direction)
        moved = (release(aggregator, np.vstack([others, broken]), 0) - without) * expected
        np.testing.assert_allclose(moved, 0, atol=1e-5)
