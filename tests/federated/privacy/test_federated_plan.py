"""Epsilon of a plan, recomputed from its stored event and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import norm

from federated.privacy.cohort_plan import Attendance
from federated.privacy.distributed_noise import DistributedSettings
from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.dp.plan import AdaptiveClipping
from privacy_pipeline.errors import BadInputError
from tests.federated.privacy import distributed_checks as shares
from tests.federated.privacy.distributed_checks import plan_of as shared
from tests.federated.privacy.privacy_checks import CLIENTS, PER_ROUND, plan_of


def epsilon_of_gaussian(mu: float, delta: float) -> float:
    """Epsilon of a Gaussian mechanism of sensitivity/noise `mu` (Balle and Wang 2018, theorem 8)."""

    def left(epsilon: float) -> float:
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta)

    return float(brentq(left, 0, 100))


def rdp_of_sampled_gaussian(q: float, z: float, order: int) -> float:
    """Mironov, Talwar and Zhang 2019 (arXiv 1908.10530), section 3.3, whole orders."""
    k = np.arange(order + 1)
    binomials = np.array([math.lgamma(order + 1) - math.lgamma(i + 1) - math.lgamma(order - i + 1) for i in k])
    terms = binomials + (order - k) * math.log1p(-q) + k * math.log(q) + (k * k - k) / (2 * z * z)
    return float(logsumexp(terms)) / (order - 1)


@pytest.mark.slow_but("zero_out")
@pytest.mark.parametrize("relation", list(Relation))
def test_epsilon_of_poisson_samples_by_hand(relation: Relation) -> None:
    own = {} if relation is Relation.ZERO_OUT else {"clients": None, "sampling_probability": PER_ROUND / CLIENTS}
    plan = plan_of(rounds=100, relation=relation, **own)
    stored = events.from_json(events.to_json(plan.event))
    rdp = {a: 100 * rdp_of_sampled_gaussian(0.1, 1.0, a) for a in range(2, 65)}
    by_hand = min(r + math.log1p(-1 / a) - math.log(1e-5 * a) / (a - 1) for a, r in rdp.items())
    found = plan.guarantee()
    assert found.epsilon_rdp == pytest.approx(by_hand, rel=0.02) and found.epsilon_rdp <= by_hand * (1 + 1e-9)
    assert found.epsilon_pld is not None and found.epsilon_rdp is not None
    assert 0.7 * found.epsilon_rdp < found.epsilon_pld == found.epsilon <= found.epsilon_rdp
    assert epsilon_of(stored, delta=1e-5, relation=relation) == found.epsilon


@pytest.mark.parametrize("epochs", [1, 3])
def test_epsilon_of_shuffled_epochs_by_hand(epochs: int) -> None:
    plan = plan_of(sampling="shuffled", rounds=10 * epochs, noise_multiplier=2.0)
    assert plan.epsilon() == pytest.approx(epsilon_of_gaussian(math.sqrt(epochs) / 2.0, 1e-5), rel=1e-3)


def test_epsilon_of_tree_aggregation_by_hand() -> None:
    """Ten rounds an epoch: a client is below at most four nodes that prefix sums use, in each of two trees."""
    plan = plan_of(sampling="cyclic", correlation="tree", rounds=20, noise_multiplier=8.0)
    assert plan.epsilon() == pytest.approx(epsilon_of_gaussian(math.sqrt(2 * 4) / 8.0, 1e-5), rel=1e-3)
    with pytest.raises(AccountingError, match="unknown"):
        plan_of(correlation="tree", rounds=20).epsilon()
    with pytest.raises(AccountingError, match="unknown"):
        plan_of(correlation="tree", rounds=20, noise_multiplier=None, epsilon=1.0)


@pytest.mark.slow_but("shuffled-none")
@pytest.mark.parametrize(("sampling", "correlation"), [("poisson", "none"), ("shuffled", "none"), ("cyclic", "tree")])
def test_noise_is_the_least_that_meets_the_target(sampling: str, correlation: str) -> None:
    plan = plan_of(
        sampling=sampling, correlation=correlation, rounds=40, noise_multiplier=None, epsilon=3.0, delta=1e-4
    )
    assert plan.epsilon() <= 3.0
    less = plan_of(
        sampling=sampling,
        correlation=correlation,
        rounds=40,
        delta=1e-4,
        noise_multiplier=plan.base.noise.multiplier - 0.01,
    )
    assert less.epsilon() > 3.0


def test_parameters_say_whose_privacy_it_is_and_decide_the_digest() -> None:
    plan = plan_of()
    assert plan.parameters()["unit"] == "client" and plan.digest() == plan_of().digest()
    assert len({p.digest() for p in (plan, plan_of(rounds=7), plan_of(noise_multiplier=2.0))}) == 3
    with pytest.raises(BadInputError, match="whole update"):
        from dataclasses import replace

        from privacy_pipeline.dp.plan import Clipping

        replace(plan, base=replace(plan.base, clipping=Clipping(norm=1.0, per_layer=True)))


@pytest.mark.parametrize("family", ["skellam", "discrete_gaussian"])
def test_distributed_noise_by_hand(family: Any) -> None:
    """Skellam by its theorem; a discrete Gaussian on a fine grid is the Gaussian's concentrated bound."""
    plan = shared(family, rounds=15, noise_multiplier=2.0)
    noise = plan.distributed
    assert noise is not None and noise.min_clients == 15 and noise.clients == shares.COHORT
    # 15 shares make up the noise multiplier, in steps of the grid.
    assert 15 * noise.share_variance == pytest.approx((2.0 * shares.NORM * noise.scale) ** 2)
    variance, squared = 15 * noise.share_variance, noise.squared_norm
    norm1 = min(math.isqrt(256 * squared), squared)
    by_hand = math.inf
    for order in range(2, 1025):
        value = order * squared / (2 * variance)
        if family == "skellam":
            excess = min(((2 * order - 1) * squared + 6 * norm1) / (4 * variance**2), 3 * norm1 / (2 * variance))
            value += excess
        value *= 2  # fifteen rounds are two epochs of ten
        by_hand = min(by_hand, value + math.log1p(-1 / order) - math.log(1e-5 * order) / (order - 1))
    assert plan.epsilon() == pytest.approx(by_hand, rel=1e-3)
    stored = events.from_json(events.to_json(plan.event))
    assert epsilon_of(stored, delta=1e-5, relation=Relation.ZERO_OUT) == plan.epsilon()
    assert plan.guarantee().epsilon == plan.epsilon()
    assert shared(family, rounds=10, noise_multiplier=2.0).epsilon() < plan.epsilon()


@pytest.mark.parametrize("family", ["skellam", "discrete_gaussian"])
def test_distributed_noise_is_the_least_that_meets_the_target(family: Any) -> None:
    plan = shared(family, noise_multiplier=None, epsilon=3.0)
    assert plan.epsilon() <= 3.0
    assert shared(family, noise_multiplier=plan.base.noise.multiplier - 0.01).epsilon() > 3.0
    inside = plan.epsilon_of_insider()
    assert inside is not None and plan.epsilon() < inside < 1.1 * plan.epsilon()
    assert plan.epsilon_of_insider(15) is None and plan_of().epsilon_of_insider() is None


def test_the_grid_is_as_fine_as_the_modulus_holds() -> None:
    for bits in (10, 16, 20):
        noise = shared("skellam", bits=bits).distributed
        assert noise is not None
        spread = (shares.COHORT * shares.NORM * noise.scale) ** 2 / 256 + shares.COHORT * (noise.share_variance + 0.25)
        assert 6 * spread**0.5 == pytest.approx(2 ** (bits - 1), rel=1e-6)
    most = shared("skellam", bits=32).distributed
    assert most is not None and most.share_variance <= 2.0**31 and most.squared_norm < 2**60


def test_an_epoch_that_was_begun_is_paid_for_and_draws_are_closer_than_rounding() -> None:
    plan = shared("skellam", rounds=40)
    counts = [plan.event_of(rounds).count for rounds in (1, 10, 11, 40)]
    assert counts == [1, 1, 2, 4]
    noise = plan.distributed
    assert noise is not None and noise.distance(40) == 40 * shares.COHORT * 256 * 2.0**-200
    epsilon = plan.epsilon()
    assert plan.delta + (1 + math.exp(epsilon)) * noise.distance(40) == plan.delta
    with pytest.raises(AccountingError, match="no longer below delta's rounding"):
        shared("skellam", noise_multiplier=0.2)
    with pytest.raises(AccountingError, match="epsilon is unknown: a share's standard deviation"):
        shared("discrete_gaussian", bits=6, noise_multiplier=0.3)
    for rounds in (-1, 41):
        with pytest.raises(BadInputError):
            plan.event_of(rounds)
    assert plan.event_of(0) == plan_of().event_of(0)


def test_what_distributed_noise_does_not_go_with_is_refused() -> None:
    for changed, message in (
        ({"sampling": "poisson"}, "Poisson samples have no fixed number of shares"),
        ({"sampling": "cyclic", "correlation": "tree"}, "independent in each round"),
        ({"adaptive": AdaptiveClipping(count_noise=2.0)}, "a count that distributed noise does not cover"),
        ({"hardened": True}, "no floating point"),
        ({"least": 21}, "min_clients must lie between 1 and the 20"),
        ({"least": None, "attendance": Attendance(dropout=0.1)}, "no round is released"),
        ({"bits": 6, "clients_per_round": 200}, "6 bits do not hold the sum of 200"),
    ):
        with pytest.raises(BadInputError, match=message):
            shared("skellam", **changed)  # type: ignore[arg-type]
    for wrong in ({"dimension": 100}, {"bits": 40}, {"family": "laplace"}):
        with pytest.raises(BadInputError):
            DistributedSettings(**{"family": "skellam", "dimension": 64, **wrong})  # type: ignore[arg-type]
    assert "distributed" not in plan_of().parameters()
    assert shared("skellam").digest() != shared("skellam", bits=18).digest()
