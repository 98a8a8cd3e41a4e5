"""Epsilon of a plan, recomputed from its stored event and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import norm

from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.accountants import AccountingError, epsilon_of
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.errors import BadInputError
from tests.federated.privacy_checks import CLIENTS, PER_ROUND, plan_of


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
