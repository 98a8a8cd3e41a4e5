"""Cross-silo training: what each silo samples, clips and noises is what the plan accounts for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from federated.clients.store import ClientStore
from federated.fast.engine import FastEngine
from federated.model import FederatedModel
from federated.silos import engine as silo_engine
from federated.silos.engine import silo_key
from federated.silos.plan import SiloPlan
from federated.silos.records import SiloRecords
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.mechanism.mechanism import UserBound
from privacy_pipeline.dp.mechanism.sampling import PoissonSampling
from privacy_pipeline.dp.noise.noise import GaussianNoise
from privacy_pipeline.dp.sampling.sampler import Sampler
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.federated.silos import silo_checks as checks
from tests.federated.silos.silo_checks import SIZES, Q, engine_of, everyone, plan_of, records_of

STEPS = 400


def long_plan() -> SiloPlan:
    return plan_of(rounds=STEPS, local_steps=1)


@pytest.mark.slow
def test_each_silo_draws_poisson_samples_of_its_own_records() -> None:
    engine = engine_of(long_plan())
    for place, units in enumerate(SIZES.values()):
        checks.check_samples(checks.samples_of(engine, place, STEPS), units=units, probability=Q)


@pytest.mark.slow
def test_fixed_size_samples_are_no_poisson_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    def batch(self: Any, step: int) -> np.ndarray:
        size = round(self.plan.sampling.expected)
        return np.sort(np.random.default_rng(step).choice(self.units, size, replace=False))

    monkeypatch.setattr(Sampler, "batch", batch)
    engine = engine_of(long_plan())
    with pytest.raises(AssertionError, match="vary by"):
        checks.check_samples(checks.samples_of(engine, 1, STEPS), units=120, probability=Q)


@pytest.mark.slow
def test_batches_of_one_size_for_all_silos_are_refused_by_the_check() -> None:
    """A twin that asks each silo for the same number of records: small silos would be sampled more."""
    engine = engine_of(long_plan())
    sampler = engine._silos[0].steps.reader.sampler
    one_size = replace(sampler.plan, sampling=PoissonSampling(probability=24 / 40, expected=24.0))
    object.__setattr__(sampler, "plan", one_size)
    with pytest.raises(AssertionError, match="mean batch"):
        checks.check_samples(checks.samples_of(engine, 0, STEPS), units=40, probability=Q)


@pytest.mark.slow
def test_silos_draw_independently_of_each_other() -> None:
    sizes = {"a": 60, "b": 60}
    engine = engine_of(plan_of(silos=sizes, rounds=STEPS, local_steps=1), records=records_of(sizes=sizes))
    one, other = (checks.samples_of(engine, place, STEPS) for place in (0, 1))
    together = sum(np.intersect1d(a, b).size for a, b in zip(one, other, strict=True))
    assert together == pytest.approx(STEPS * 60 * Q**2, abs=6 * (STEPS * 60 * Q**2) ** 0.5)
    key = RunKey.from_seed(1)
    assert silo_key(key, "a").secret != silo_key(key, "b").secret


class OtherProbability(SiloPlan):
    """Asks one silo for twice as many of its records as the others."""

    def plan_of(self, place: int) -> Any:
        own = super().plan_of(place)
        if place:
            return own
        return replace(own, sampling=PoissonSampling(probability=2 * Q, expected=2 * Q * (own.units or 0)))


class LessNoise(SiloPlan):
    """Divides the noise by the number of silos, as if they were to share it."""

    def plan_of(self, place: int) -> Any:
        own = super().plan_of(place)
        return replace(own, noise=replace(own.noise, multiplier=own.noise.multiplier / len(self.silos)))


class MoreSteps(SiloPlan):
    def plan_of(self, place: int) -> Any:
        return replace(super().plan_of(place), steps=self.steps + place)


@pytest.mark.parametrize("twin", [OtherProbability, LessNoise, MoreSteps])
def test_a_silo_under_another_mechanism_is_refused(twin: Any) -> None:
    sound = plan_of()
    with pytest.raises(PipelineError, match="another mechanism than the one that is accounted for"):
        engine_of(twin(base=sound.base, silos=sound.silos, local_steps=sound.local_steps))


def moves_of(plan: SiloPlan, place: int, steps: int) -> np.ndarray:
    """What a silo's steps do to its weights where no record has a gradient, [steps, numbers]."""

    class Silent(FederatedModel):
        @property
        def loss(self) -> Any:
            return lambda labels, outputs: 0.0 * outputs[:, 0]

    tf.keras.utils.set_random_seed(3)
    inputs = tf.keras.Input((4,), name="x")
    hidden = tf.keras.layers.Dense(120, activation="tanh")(inputs)
    keras = tf.keras.Model(inputs, tf.keras.layers.Dense(1)(hidden))
    engine = engine_of(plan, model=Silent(keras, loss="mse"), algorithm=checks.algorithm_of(rate=1.0))
    silo, found = engine._silos[place], []
    state = engine.initial_state()
    for step in range(steps):
        after = engine._trained(silo, state, range(step, step + 1))
        found.append(np.concatenate([(new - old).ravel() for new, old in zip(after, state.weights, strict=True)]))
    return np.stack(found)


def stddev_of(place: int) -> float:
    """Of the noise on a silo's mean gradient: noise multiplier 1, norm 0.5, over the expected batch."""
    return 1.0 * 0.5 / (Q * list(SIZES.values())[place])


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1])
def test_each_silos_steps_have_the_noise_that_is_accounted(place: int) -> None:
    checks.check_noise(moves_of(long_plan(), place, 8), stddev=stddev_of(place))


@pytest.mark.slow
def test_noise_that_the_silos_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = GaussianNoise.flat
    monkeypatch.setattr(
        GaussianNoise, "flat", lambda self, step, *, stddev: real(self, step, stddev=stddev / len(SIZES))
    )
    with pytest.raises(AssertionError, match="noise of"):
        checks.check_noise(moves_of(long_plan(), 0, 8), stddev=stddev_of(0))


def test_noise_that_is_used_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = GaussianNoise.flat
    monkeypatch.setattr(GaussianNoise, "flat", lambda self, step, *, stddev: real(self, 0, stddev=stddev))
    with pytest.raises(AssertionError, match="share noise"):
        checks.check_noise(moves_of(long_plan(), 0, 8), stddev=stddev_of(0))


@pytest.mark.slow_but("optimizer0")
@pytest.mark.parametrize("optimizer", [{"momentum": 0.9}, {"name": "adam"}])
def test_without_noise_and_clipping_it_is_federated_averaging(
    optimizer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = GaussianNoise.flat
    monkeypatch.setattr(GaussianNoise, "flat", lambda self, step, *, stddev: 0 * real(self, step, stddev=stddev))
    algorithm = checks.algorithm_of(
        client_optimizer={"learning_rate": 0.3, **optimizer},
        server_optimizer={"learning_rate": 1.0, "momentum": 0.5},
        batch_size=256,
        local_epochs=3,
    )
    plan = plan_of(sampling_probability=1.0, clipping_norm=1e6)
    records = records_of()
    private = engine_of(plan, records=records, algorithm=algorithm)
    labels = records.clients.labels.astype(np.float32)
    clients = ClientStore(
        features=records.clients.features,
        labels=labels,
        offsets=records.clients.offsets,
        keys=records.clients.keys,
    )
    plain = FastEngine(model=checks.model_of(), clients=clients, algorithm=algorithm)
    one, other = private.initial_state(), plain.initial_state()
    for _ in range(plan.rounds):
        one = private.run_round(one, everyone(private)).state
        other = plain.run_round(other, np.arange(3)).state
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


@pytest.mark.slow
def test_rounds_repeat_bit_by_bit_from_a_saved_state() -> None:
    first, again = engine_of(plan_of()), engine_of(plan_of())
    state = first.initial_state()
    states = [state]
    for _ in range(4):
        state = first.run_round(state, everyone(first)).state
        states.append(state)
    resumed = states[2]
    for _ in range(2):
        resumed = again.run_round(resumed, everyone(again)).state
    for mine, theirs in zip(resumed.weights, states[4].weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(BadInputError, match="round 4 is not accounted for"):
        first.run_round(state, everyone(first))


@pytest.mark.slow
def test_it_learns() -> None:
    sizes = {"a": 600, "b": 900}
    plan = plan_of(silos=sizes, rounds=12, local_steps=5, noise_multiplier=0.5)
    records = records_of(sizes=sizes)
    engine = engine_of(plan, records=records, model=(model := checks.model_of()))
    state = engine.initial_state()
    for _ in range(plan.rounds):
        state = engine.run_round(state, everyone(engine)).state
    model.assign(state.weights)
    right = (model.keras(records.clients.features["x"]).numpy()[:, 0] > 0) == (records.clients.labels > 0)
    assert right.mean() > 0.85


def test_every_silo_takes_part_once_in_every_round() -> None:
    engine = engine_of(plan_of())
    state = engine.initial_state()
    for cohort in ([0, 1], [0, 1, 1], [0, 1, 2, 2], []):
        with pytest.raises(BadInputError, match="every silo takes part in every round, once"):
            engine.run_round(state, np.array(cohort, np.int64))
    with pytest.raises(BadInputError, match="every silo"):
        engine.run_round(state, everyone(engine), present=np.array([True, False, True]))


@pytest.mark.slow
def test_only_expected_numbers_are_told() -> None:
    engine = engine_of(plan_of())
    result = engine.run_round(engine.initial_state(), everyone(engine))
    assert (result.clients, result.examples) == (3, round(Q * 240 * 3))
    assert set(result.metrics) == {"update_rejected"}
    assert "training losses and metrics" in silo_engine.WITHHELD


def test_records_of_other_silos_than_planned_are_refused() -> None:
    with pytest.raises(PipelineError, match="silo 'east' holds 40 units, and the plan was made for 41") as caught:
        engine_of(plan_of(silos={**SIZES, "east": 41}))
    assert '{"east": 40, "north": 120, "west": 80}' in caught.value.fix
    with pytest.raises(PipelineError, match="silo 'south' holds 0 units"):
        engine_of(plan_of(silos={**SIZES, "south": 5}))
    with pytest.raises(PipelineError, match="silo 'west' holds 80 units, and the plan was made for 0"):
        engine_of(plan_of(silos={"east": 40, "north": 120}))


def test_a_user_is_bounded_as_a_whole_and_lives_in_one_silo() -> None:
    names = np.repeat(["a", "b"], [30, 50])
    x, y = np.random.default_rng(1).normal(size=(80, 4)).astype(np.float32), np.zeros(80, np.int64)
    owners = np.concatenate([np.arange(30) // 3, 100 + np.arange(50) // 5])
    records = SiloRecords.from_rows(silo_of_rows=names, features={"x": x}, labels=y, owners=owners)
    assert records.counts() == {"a": 10, "b": 10}
    plan = plan_of(silos={"a": 10, "b": 10}, users=UserBound(max_examples=4))
    engine = engine_of(plan, records=records)
    assert engine._silos[0].steps.reader.sampler.units == 10
    engine.run_round(engine.initial_state(), everyone(engine))
    with pytest.raises(BadInputError, match="unit is a user exactly where"):
        engine_of(plan_of(silos={"a": 10, "b": 10}), records=records)
    owners[-1] = owners[0]
    with pytest.raises(BadInputError, match=r"a privacy unit has rows in two silos \(1 such\)"):
        SiloRecords.from_rows(silo_of_rows=names, features={"x": x}, labels=y, owners=owners)


def test_a_model_that_mixes_records_is_refused() -> None:
    inputs = tf.keras.Input((4,), name="x")
    mixed = tf.keras.Model(inputs, tf.keras.layers.Dense(1)(tf.keras.layers.BatchNormalization()(inputs)))
    with pytest.raises(BadInputError, match="BatchNormalization"):
        engine_of(plan_of(), model=FederatedModel(mixed, loss="mse"))
