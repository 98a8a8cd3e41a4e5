"""The plan of silos: one event for a record of any silo, that of the DP-SGD engine."""

from __future__ import annotations

from typing import Any

import pytest

from federated.silos.plan import SiloPlan
from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.dp.mechanism.mechanism import Noise, UserBound
from privacy_pipeline.dp.mechanism.sampling import FixedPartition
from privacy_pipeline.dp.plan import AdaptiveClipping, PrivacyPlan
from privacy_pipeline.errors import BadInputError
from tests.federated.silos.silo_checks import SIZES, Q, plan_of


def central(**changed: Any) -> PrivacyPlan:
    """The DP-SGD engine's plan with the same probability, noise and steps, on data of another size."""
    given: dict[str, Any] = {
        "units": 70_000,
        "expected_batch_size": Q * 70_000,
        "steps": 12,
        "noise_multiplier": 1.0,
        "delta": 1e-5,
        "clipping_norm": 0.5,
        **changed,
    }
    return PrivacyPlan.calibrated(**given)


@pytest.mark.slow
def test_epsilon_is_that_of_dp_sgd_with_the_same_probability_noise_and_steps() -> None:
    plan = plan_of()
    assert (plan.rounds, plan.steps, plan.units) == (4, 12, 240)
    assert plan.event == central().event
    stored = events.from_json(events.to_json(plan.event))
    epsilon = epsilon_of(stored, delta=1e-5, relation=Relation.ZERO_OUT)
    assert epsilon == plan.guarantee().epsilon == central().epsilon()
    assert plan.event_of(2) == central(steps=6).event and plan.event_of(9) == plan.event


def test_every_silo_runs_the_event_that_is_accounted() -> None:
    plan = plan_of(users=UserBound(max_examples=3), hardened=True)
    for place, (_, units) in enumerate(plan.silos):
        own = plan.plan_of(place)
        assert own.event == plan.event and own.units == units
        assert own.expected_batch_size == pytest.approx(Q * units)
        assert own.noise_stddev == pytest.approx(0.5 / (Q * units))  # its own noise, shared with nobody
        assert (own.users, own.noise) == (plan.base.users, plan.base.noise)
    assert sum(plan.weight_of(place) for place in range(3)) == pytest.approx(1.0)


@pytest.mark.slow
def test_noise_is_calibrated_to_the_target() -> None:
    plan = plan_of(noise_multiplier=None, epsilon=2.0, rounds=None, epochs=3.0, local_steps=None)
    assert plan.base.noise.multiplier == central(noise_multiplier=None, epsilon=2.0, steps=30).noise.multiplier
    assert 1.9 < plan.guarantee().epsilon <= 2.0
    assert (plan.local_steps, plan.rounds) == (10, 3)


def test_the_last_round_may_be_shorter() -> None:
    plan = plan_of(rounds=None, epochs=1.0, local_steps=4)
    assert [list(plan.steps_of(r)) for r in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    with pytest.raises(BadInputError, match="round 3 is not accounted for"):
        plan.steps_of(3)


def test_parameters_decide_the_digest() -> None:
    others: list[dict[str, Any]] = [
        {"silos": {**SIZES, "east": 41}},
        {"silos": {"a": 40, "north": 120, "west": 80}},
        {"local_steps": 6, "rounds": 2},
        {"noise_multiplier": 1.1},
    ]
    digests = {plan_of(**changed).digest() for changed in ({}, *others)}
    assert len(digests) == 5 and plan_of().digest() in digests
    assert plan_of().parameters()["silos"] == SIZES and plan_of().parameters()["unit"] == "example"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"silos": {"a": 3, "b": 0}}, "silo 'b' holds no records"),
        ({"silos": {}}, "expected_batch_size|distinct names"),
        ({"sampling_probability": 0.0}, "sampling_probability must lie in"),
        ({"sampling_probability": 1.1}, "sampling_probability must lie in"),
        ({"clipping_norm": 0.0}, r"clipping_norm must lie between 1e-10 and 1e\+10, found 0.0"),
        ({"local_steps": -1}, "steps must be 1 or more"),
        ({"epochs": 1.0}, "give either epochs or steps"),
    ],
)
def test_impossible_plans_are_one_clear_error(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        plan_of(**changed)


def test_what_would_make_the_event_depend_on_the_silo_is_refused() -> None:
    sound = plan_of()

    def twin(**changed: Any) -> SiloPlan:
        given: dict[str, Any] = {"base": sound.base, "silos": sound.silos, "local_steps": 3, **changed}
        return SiloPlan(**given)

    with pytest.raises(BadInputError, match="silos hold 239 units together, and the dataset has 240"):
        twin(silos=(("east", 39), ("north", 120), ("west", 80)))
    with pytest.raises(BadInputError, match="distinct names"):
        twin(silos=(("east", 120), ("east", 120)))
    partition = FixedPartition(batch_size=24, units=240, cyclic=False)
    common: dict[str, Any] = {
        "units": 240,
        "clipping": sound.base.clipping,
        "steps": 12,
        "delta": 1e-5,
        "noise": Noise(multiplier=1.0),
    }
    with pytest.raises(BadInputError, match="Poisson samples"):
        twin(base=PrivacyPlan(sampling=partition, **common))
    secret = central(units=None, sampling_probability=Q, relation=Relation.ADD_OR_REMOVE_ONE)
    with pytest.raises(BadInputError, match="public number of records"):
        twin(base=secret)
    adaptive = central(units=240, expected_batch_size=24, adaptive=AdaptiveClipping(count_noise=5.0))
    with pytest.raises(BadInputError, match="fixed norm"):
        twin(base=adaptive)
