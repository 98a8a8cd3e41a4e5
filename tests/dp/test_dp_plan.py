"""The plan: golden epsilons, calibration, and combinations that make no sense."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from privacy_pipeline.accounting.events import canonical, gaussian_passes
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.dp import PrivacyHistory, PrivacyPlan, UserBound, make_private
from privacy_pipeline.dp.mechanism.sampling import cap_for_extra_delta
from privacy_pipeline.errors import BadInputError

MNIST: dict[str, Any] = {
    "units": 60_000,
    "expected_batch_size": 256,
    "delta": 1e-5,
    "clipping_norm": 1.0,
}


@pytest.mark.slow_but("zero_out")
@pytest.mark.parametrize("relation", list(Relation))
def test_golden_epsilons(relation: Relation) -> None:
    numbers = dict(MNIST)
    if relation is Relation.ADD_OR_REMOVE_ONE:
        numbers.update(units=None, sampling_probability=256 / 60_000)
    plan = PrivacyPlan.calibrated(**numbers, steps=3515, noise_multiplier=1.3, relation=relation)
    guarantee = plan.guarantee()
    assert guarantee.epsilon_pld == pytest.approx(0.8645, abs=5e-5)
    assert guarantee.epsilon_rdp == pytest.approx(0.9544, abs=5e-5)


def test_epsilon_by_hand_from_the_event() -> None:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    plan = PrivacyPlan.calibrated(**MNIST, steps=3515, noise_multiplier=1.3)
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(256 / 60_000, dp_accounting.GaussianDpEvent(1.3)), 3515
    )
    assert plan.event == event
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL, 1e-4).compose(event)
    by_hand = accountant.get_epsilon(1e-5)
    assert by_hand <= plan.epsilon() <= by_hand * (1 + 1e-6)  # float64's own error is paid for


@pytest.mark.slow
def test_truncation_at_five_deviations_costs_next_to_nothing() -> None:
    plan = PrivacyPlan.calibrated(**MNIST, steps=3515, noise_multiplier=1.3, sampling="truncated_poisson")
    assert plan.sampling.parameters()["cap"] == 336
    assert 0.8640 < plan.epsilon() < 0.8650
    tight = PrivacyPlan.calibrated(
        **MNIST, steps=3515, noise_multiplier=1.3, sampling="truncated_poisson", truncate_at=304
    )
    assert tight.epsilon() == pytest.approx(1.07, abs=0.01)
    assert plan.sampling.extra_delta(epsilon=1.0, steps=3515) < 1e-2  # type: ignore[union-attr]


def test_shuffling_claims_no_amplification() -> None:
    plan = PrivacyPlan.calibrated(**MNIST, epochs=15, noise_multiplier=1.3, sampling="shuffled")
    assert plan.steps == 15 * 234
    assert canonical(plan.event) == canonical(gaussian_passes(noise_multiplier=1.3, epochs=15))
    assert plan.epsilon() > 10
    assert canonical(plan.event_of(235)) == canonical(gaussian_passes(noise_multiplier=1.3, epochs=2))


@pytest.mark.slow
def test_calibration_meets_the_target_and_no_less() -> None:
    plan = PrivacyPlan.calibrated(**MNIST, epochs=15, epsilon=1.0)
    assert 0.99 < plan.epsilon() <= 1.0
    assert plan.steps == 3515
    assert plan.noise_stddev == pytest.approx(plan.noise.multiplier / 256)


def test_fewer_steps_are_accounted_as_fewer() -> None:
    plan = PrivacyPlan.calibrated(**MNIST, steps=100, noise_multiplier=1.3)
    assert plan.event_of(100) == plan.event
    assert plan.event_of(40) != plan.event
    with pytest.raises(BadInputError, match="100 steps"):
        plan.event_of(101)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 10, "epochs": 1}, "either epochs or steps"),
        ({"epsilon": 1.0}, "either epsilon or noise_multiplier"),
        ({"relation": Relation.ADD_OR_REMOVE_ONE}, "secret"),
        ({"relation": "zero_out"}, "relation is 'zero_out', and not one of Relation.ZERO_OUT"),
        ({"units": None}, "public"),
        ({"sampling_probability": 0.1}, "follows from"),
        ({"expected_batch_size": 70_000}, "probability must lie"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"clipping_norm": float("inf")}, "clipping_norm"),
        ({"delta": 1.0}, "delta"),
        ({"sampling": "shuffle"}, "unknown sampling"),
        ({"truncate_at": 3}, "truncated_poisson"),
        ({"sampling": "shuffled", "expected_batch_size": 2.5}, "whole number"),
        ({"sampling": "shuffled", "epochs": 1.5}, "whole epochs"),
    ],
)
def test_nonsense_is_refused(change: dict[str, Any], message: str) -> None:
    numbers = {**MNIST, "epochs": 1, "noise_multiplier": 1.0, **change}
    with pytest.raises(BadInputError, match=message):
        PrivacyPlan.calibrated(**numbers)


def test_digest_follows_the_parameters() -> None:
    plans = [PrivacyPlan.calibrated(**MNIST, steps=100, noise_multiplier=n) for n in (1.0, 1.0, 1.1)]
    assert plans[0].digest() == plans[1].digest() != plans[2].digest()


@pytest.mark.slow
def test_calibration_of_truncated_sampling_counts_the_truncation() -> None:
    numbers = {**MNIST, "steps": 200}
    plan = PrivacyPlan.calibrated(**numbers, epsilon=1.0, sampling="truncated_poisson", truncate_at=330)
    assert 0.97 < plan.epsilon() <= 1.0


def test_what_truncation_adds_for_a_renyi_filter() -> None:
    plan = PrivacyPlan.calibrated(**MNIST, steps=3515, noise_multiplier=1.3, sampling="truncated_poisson")
    plain = PrivacyPlan.calibrated(**MNIST, steps=3515, noise_multiplier=1.3)
    assert plan.untruncated_event == plain.event == plain.untruncated_event
    cut = 1 - stats.binom.cdf(336, 60_000, 256 / 60_000)
    assert plan.truncation_delta(1.0) == pytest.approx((1 + math.e) * 3515 * cut, rel=1e-6)
    assert plain.truncation_delta(1.0) == 0.0
    # The default cap is enough for a headline, and too low for the addition to be small beside delta.
    assert plan.truncation_delta(1.0) > plan.delta
    cap = cap_for_extra_delta(1e-8, probability=256 / 60_000, units=60_000, steps=3515, epsilon=1.0)
    options = {**MNIST, "steps": 3515, "noise_multiplier": 1.3, "sampling": "truncated_poisson"}
    assert PrivacyPlan.calibrated(**options, truncate_at=cap).truncation_delta(1.0) <= 1e-8
    assert PrivacyPlan.calibrated(**options, truncate_at=cap - 1).truncation_delta(1.0) > 1e-8
    assert cap < 256 + 9 * 16


def test_units_are_users_where_users_are_bounded() -> None:
    plan = PrivacyPlan.calibrated(**MNIST, steps=100, noise_multiplier=1.3)
    users = PrivacyPlan.calibrated(**MNIST, steps=100, noise_multiplier=1.3, users=UserBound(max_examples=4))
    assert (plan.unit, users.unit) == ("example", "user")
    assert users.event == plan.event  # sampling and noise are those of units
    assert users.parameters()["unit"] == "user"


@pytest.mark.slow
def test_a_secret_number_of_units_enters_nothing() -> None:
    """Under add-or-remove-one, plan and execution are the same whatever the data holds; only the weights differ."""
    numbers = dict(MNIST, units=None, expected_batch_size=20, sampling_probability=0.1)
    plan = PrivacyPlan.calibrated(**numbers, steps=4, noise_multiplier=1.0, relation=Relation.ADD_OR_REMOVE_ONE)
    told = []
    for units in (200, 201, 90):
        model = tf.keras.Sequential([tf.keras.layers.Input((2,)), tf.keras.layers.Dense(1)])
        execution = make_private(model, plan, optimizer="sgd", loss="mse").fit(np.ones((units, 2)), np.ones(units))
        (phase,) = execution.privacy_history.phases
        past = PrivacyHistory((dataclasses.replace(phase, id="drawn"),))  # of the key
        told.append(dataclasses.replace(execution, history={}, privacy_history=past))
        assert set(execution.history) == {"weights_norm"}
    assert told[0] == told[1] == told[2]
    assert plan.parameters()["units"] is None
    assert plan.noise_stddev == 1.0 / 20
    for wrong in ("truncated_poisson", "shuffled", "cyclic"):
        with pytest.raises(BadInputError, match="accounted"):
            PrivacyPlan.calibrated(
                **numbers, steps=4, noise_multiplier=1.0, relation=Relation.ADD_OR_REMOVE_ONE, sampling=wrong
            )


def test_the_former_name_of_shuffled_works_with_a_line() -> None:
    with pytest.warns(FutureWarning, match="sampling='fixed_partition' is sampling='shuffled' now"):
        former = PrivacyPlan.calibrated(**MNIST, epochs=15, noise_multiplier=1.3, sampling="fixed_partition")
    assert former == PrivacyPlan.calibrated(**MNIST, epochs=15, noise_multiplier=1.3, sampling="shuffled")
    assert former.parameters()["sampling"]["scheme"] == "fixed_partition"  # records and digests of before
