"""Audits: bounds that never exceed the truth more often than they say, and that broken engines exceed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.dp import PrivacyPlan
from privacy_pipeline.dp.attacks.audit import (
    MECHANISM_CANARIES,
    AuditedModel,
    AuditResult,
    audit_mechanism,
    audit_training,
)
from privacy_pipeline.dp.attacks.guessing_bounds import bound_from_scores, epsilon_lower_bound, guess_p_value
from privacy_pipeline.dp.mechanism.mechanism import AdaptiveClipping, UserBound
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.dp import twins

L = tf.keras.layers


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize("guesses", [5, 40, 1000])
def test_without_delta_the_bound_is_that_of_clopper_and_pearson(guesses: int) -> None:
    for correct in {guesses, round(0.9 * guesses), round(0.7 * guesses)}:
        exact = stats.beta.ppf(0.05, correct, guesses - correct + 1)
        found = epsilon_lower_bound(correct=correct, guesses=guesses, canaries=guesses, delta=0.0, confidence=0.95)
        assert found == pytest.approx(max(0.0, logit(exact)), abs=2e-4)


def test_known_values() -> None:
    # All of r guesses right: q^r = 1 - confidence.
    for guesses in (10, 100, 1000):
        found = epsilon_lower_bound(correct=guesses, guesses=guesses, canaries=guesses, delta=0.0, confidence=0.95)
        assert found == pytest.approx(logit(0.05 ** (1 / guesses)), abs=2e-4)
    # Half of them right is what anybody gets.
    assert epsilon_lower_bound(correct=50, guesses=100, canaries=100, delta=0.0, confidence=0.95) == 0.0
    assert epsilon_lower_bound(correct=0, guesses=0, canaries=10, delta=1e-5, confidence=0.95) == 0.0


@pytest.mark.parametrize(("correct", "guesses", "canaries", "epsilon"), [(18, 20, 50, 1.0), (70, 90, 400, 0.3)])
def test_delta_enters_as_in_theorem_5_2(correct: int, guesses: int, canaries: int, epsilon: float) -> None:
    delta, q = 1e-3, math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [math.comb(guesses, w) * q**w * (1 - q) ** (guesses - w) for w in range(guesses + 1)]
    beta = sum(mass[correct:])
    alpha = max(2 / i * sum(mass[max(0, correct - i) : correct]) for i in range(1, canaries + 1))
    found = guess_p_value(correct=correct, guesses=guesses, canaries=canaries, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(min(1.0, beta + canaries * delta * alpha), rel=1e-9)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 0.0), (2.0, 0.0), (1.0, 1e-4), (1.0, 1e-2), (3.0, 1e-3)])
@pytest.mark.parametrize(("canaries", "guesses"), [(1000, 1000), (1000, 100), (60, 20)])
def test_the_bound_keeps_its_confidence(epsilon: float, delta: float, canaries: int, guesses: int) -> None:
    """Randomised response is the worst case: each coin is shown with probability delta, and else with that of epsilon.

    A bound that exceeds the truth in more than 5 % of 20,000 audits by six standard deviations is wrong.
    """
    audits, level = 20_000, 0.05
    right = delta + (1 - delta) / (1 + math.exp(-epsilon))
    drawn = np.random.default_rng(0).binomial(guesses, right, audits)
    found, counts = np.unique(drawn, return_counts=True)
    exceeds = [
        epsilon_lower_bound(correct=int(v), guesses=guesses, canaries=canaries, delta=delta, confidence=1 - level)
        > epsilon
        for v in found
    ]
    share = counts[np.array(exceeds)].sum() / audits
    assert share <= level + 6 * math.sqrt(level * (1 - level) / audits)
    if delta == 0 and guesses > 50:
        assert share > 0.02  # nor is it idle


def test_trying_several_numbers_of_guesses_keeps_the_confidence() -> None:
    """Scores that know nothing: the best of the bounds is above 0 in one of twenty audits at most."""
    random, audits = np.random.default_rng(0), 1500
    above = 0
    for _ in range(audits):
        included = random.integers(0, 2, 200).astype(bool)
        above += bound_from_scores(random.normal(size=200), included, delta=0.0, confidence=0.95).lower_bound > 0
    assert above / audits <= 0.05 + 5 * math.sqrt(0.05 * 0.95 / audits)


def test_numbers_that_contradict_each_other_are_refused() -> None:
    good = {"correct": 5, "guesses": 10, "canaries": 20, "delta": 0.0, "confidence": 0.95}
    for change in ({"correct": 11}, {"guesses": 21}, {"correct": -1}, {"delta": 1.0}, {"confidence": 1.0}):
        with pytest.raises(BadInputError):
            epsilon_lower_bound(**{**good, **change})  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="2 canaries"):
        bound_from_scores(np.zeros(1), np.ones(1, bool), delta=0.0, confidence=0.95)


# --- the mechanism, white-box -------------------------------------------------------------------------------------


def unsampled(**change: Any) -> PrivacyPlan:
    """Epsilon 1 at delta 1e-5 in one step that everybody takes part in."""
    given_ = {"units": 1000, "expected_batch_size": 1000, "steps": 1, "epsilon": 1.0, "delta": 1e-5}
    return PrivacyPlan.calibrated(**{**given_, "clipping_norm": 0.7, **change})


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"hardened": True}], ids=["plain", "hardened"])
def test_the_sound_mechanism_stays_below_its_epsilon(change: Any) -> None:
    """Significance: among 1,000 guesses or more, two thirds are right; for a bound above 1 it would take 87 %, which is
    more than ten standard deviations away."""
    result = audit_mechanism(unsampled(**change))
    assert result.canaries == MECHANISM_CANARIES == 100_000
    assert result.upper_bound == pytest.approx(1.0, abs=2e-3)
    assert 0.1 < result.lower_bound < result.upper_bound
    result.require_sound()


@pytest.mark.slow
@pytest.mark.parametrize(
    "twin",
    [twins.no_noise, lambda: twins.clipping_after_averaging(MECHANISM_CANARIES), twins.one_unclipped],
    ids=["no noise", "clipping after averaging", "one unclipped"],
)
def test_broken_mechanisms_exceed_their_epsilon(twin: Callable[[], Any]) -> None:
    with twin():
        result = audit_mechanism(unsampled())
    assert result.lower_bound > 1.3 * result.upper_bound
    with pytest.raises(PipelineError, match="mechanism audit: epsilon is at least"):
        result.require_sound()


@pytest.mark.slow
def test_the_plan_of_a_run_is_audited_without_its_sampling() -> None:
    made = PrivacyPlan.calibrated(
        relation=Relation.ADD_OR_REMOVE_ONE,
        sampling_probability=0.01,
        expected_batch_size=10,
        steps=50,
        noise_multiplier=1.3,
        delta=1e-6,
        clipping_norm=0.5,
        per_layer=True,
    )
    result = audit_mechanism(made, canaries=2000)
    one_step = dataclasses.replace(unsampled(), noise=made.noise, delta=1e-6)
    assert result.upper_bound == pytest.approx(one_step.guarantee().epsilon, rel=1e-6)
    assert result.sound
    assert result.to_json()["kind"] == "mechanism"
    assert "no private data" in result.statement


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"users": UserBound(max_examples=3)},
        {"users": UserBound(max_examples=3, clip="each")},
        {"adaptive": AdaptiveClipping(count_noise=50.0)},
        {"sampling": "cyclic", "correlation": "tree", "expected_batch_size": 100},
        {"sampling": "cyclic", "correlation": "banded", "bands": 4, "expected_batch_size": 100},
    ],
    ids=["users' sums", "users' examples", "adaptive", "tree", "banded"],
)
def test_every_kind_of_plan_is_audited(change: Any) -> None:
    made = unsampled(**{"epsilon": None, "noise_multiplier": 2.0, "steps": 20, **change})
    result = audit_mechanism(made, canaries=6000)
    assert 0.01 < result.lower_bound < result.upper_bound
    with twins.no_noise():
        assert not audit_mechanism(made, canaries=6000).sound


# --- a training, black-box ----------------------------------------------------------------------------------------

UNITS, WIDTH = 400, 30


def subject() -> AuditedModel:
    """A network that can learn its rows by heart."""
    random = np.random.default_rng(0)

    def loss(labels: Any, outputs: Any) -> Any:
        return tf.keras.losses.binary_crossentropy(labels, outputs, from_logits=True)

    return AuditedModel(
        build=lambda: tf.keras.Sequential([L.Input((WIDTH,)), L.Dense(200, "relu"), L.Dense(1)]),
        optimizer=lambda: tf.keras.optimizers.Adam(0.01),
        loss=loss,
        rows=lambda count: random.normal(size=(count, WIDTH)).astype(np.float32),
    )


def training_plan(**change: Any) -> PrivacyPlan:
    given_ = {"units": UNITS, "expected_batch_size": 100, "steps": 80, "noise_multiplier": 4.0, "delta": 1e-5}
    return PrivacyPlan.calibrated(**{**given_, "clipping_norm": 1.0, **change})


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["poisson", "shuffled"])
def test_a_sound_training_stays_below_its_epsilon(scheme: str) -> None:
    result = audit_training(subject(), plan=training_plan(sampling=scheme), canaries=300, confidence=0.999)
    assert result.lower_bound <= result.upper_bound == pytest.approx(training_plan(sampling=scheme).epsilon(), rel=1e-2)
    assert result.kind == "training"
    assert "gross faults only" in result.statement


def test_a_training_without_noise_is_noticed() -> None:
    with twins.no_noise():
        result = audit_training(subject(), plan=training_plan(noise_multiplier=20.0), canaries=400)
    assert result.lower_bound > result.upper_bound
    assert not result.sound


@pytest.mark.slow
def test_the_control_is_that_noise_hides_the_same_canaries() -> None:
    made = training_plan(noise_multiplier=20.0)
    assert audit_training(subject(), plan=made, canaries=400, confidence=0.999).sound


def test_training_audits_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadInputError, match="do not fit"):
        audit_training(subject(), plan=training_plan(), canaries=UNITS + 1)
    secret = PrivacyPlan.calibrated(
        relation=Relation.ADD_OR_REMOVE_ONE,
        sampling_probability=0.1,
        expected_batch_size=10,
        steps=2,
        noise_multiplier=1.0,
        delta=1e-5,
        clipping_norm=1.0,
    )
    with pytest.raises(BadInputError, match="public number of units"):
        audit_training(subject(), plan=secret)


def test_a_result_is_json() -> None:
    result = AuditResult(
        kind="training",
        lower_bound=0.5,
        confidence=0.95,
        upper_bound=1.0,
        delta=1e-5,
        canaries=10,
        guesses=4,
        correct=3,
        statement="",
    )
    assert {"kind", "lower_bound", "confidence", "upper_bound", "delta", "canaries", "guesses", "statement"} <= set(
        result.to_json()
    )
    result.require_sound()
    with pytest.raises(PipelineError, match=r"at least 1\.500.*at most 1\.000"):
        dataclasses.replace(result, lower_bound=1.5).require_sound()
