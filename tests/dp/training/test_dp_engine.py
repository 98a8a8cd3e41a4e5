"""Training: what was planned is what ran, virtual batches change nothing, and a small problem is learned."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from dp_accounting import NonPrivateDpEvent

from privacy_pipeline.dp import ExampleStore, PrivacyPlan, make_private
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.dp.recorder import Recorder

L = tf.keras.layers
UNITS = 400


def data(units: int = UNITS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(units, 6)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(np.float32)


def network(seed: int = 1, dropout: float = 0.0) -> Any:
    tf.keras.utils.set_random_seed(seed)
    return tf.keras.Sequential([L.Input((6,)), L.Dense(8, "tanh"), L.Dropout(dropout), L.Dense(1)])


def plan(**change: Any) -> PrivacyPlan:
    numbers = {
        "units": UNITS,
        "expected_batch_size": 40,
        "steps": 6,
        "noise_multiplier": 1.0,
        "delta": 1e-5,
        "clipping_norm": 1.0,
        **change,
    }
    return PrivacyPlan.calibrated(**numbers)


LOSS = tf.keras.losses.BinaryCrossentropy(from_logits=True)


def trained(seed: int | None = 3, **options: Any) -> list[np.ndarray]:
    made, change = network(), options.pop("plan", {})
    private = make_private(
        made, plan(**change), optimizer=options.pop("optimizer", "sgd"), loss=LOSS, seed=seed, **options
    )
    private.fit(*data())
    return [np.array(w) for w in made.get_weights()]


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.allclose(a, b, atol=1e-6) for a, b in zip(left, right, strict=True))


@pytest.mark.slow
def test_virtual_batches_change_nothing() -> None:
    whole = trained()
    assert same(whole, trained(virtual_batch_size=7))
    assert same(whole, trained(virtual_batch_size=1))
    assert not same(whole, trained(seed=4))


@pytest.mark.slow
def test_padding_changes_nothing() -> None:
    """Truncated sampling at a cap that is never reached draws the same batches."""
    assert same(trained(), trained(plan={"sampling": "truncated_poisson", "truncate_at": 150}))


@pytest.mark.slow
def test_fixed_seed_repeats_and_is_marked() -> None:
    assert same(trained(), trained())
    private = make_private(network(), plan(), optimizer="sgd", loss=LOSS, seed=1)
    execution = private.fit(*data())
    assert execution.seed_fixed
    assert not execution.cryptographic
    assert "FIXED SEED" in execution.generator
    assert isinstance(execution.event, NonPrivateDpEvent)


@pytest.mark.slow
def test_unseeded_runs_differ_and_are_private() -> None:
    tf.keras.utils.set_random_seed(0)
    one = trained(seed=None)
    tf.keras.utils.set_random_seed(0)
    assert not same(one, trained(seed=None))
    made = plan()
    execution = make_private(network(), made, optimizer="adam", loss=LOSS).fit(*data())
    assert execution.steps == 6
    assert execution.event == made.event
    assert execution.cryptographic
    assert not execution.stopped_early
    assert len(execution.history["weights_norm"]) == 1


def test_update_is_the_clipped_sum_over_the_expected_batch_plus_noise() -> None:
    """Over many one-step runs the update's mean and spread are those of the mechanism, worked out by hand."""
    x, y = data()
    made = tf.keras.Sequential([L.Input((6,)), L.Dense(1, use_bias=False, kernel_initializer="zeros")])
    steps = 300
    recorder = Recorder(steps=steps, size=6)
    made_plan = plan(steps=steps, clipping_norm=0.3, noise_multiplier=2.0)
    make_private(made, made_plan, optimizer=recorder, loss=LOSS).fit(x, y)
    each = (0.5 - y)[:, None] * x  # gradient of the cross entropy at logit 0
    each *= np.minimum(1, 0.3 / np.linalg.norm(each, axis=1, keepdims=True))
    mean = each.sum(0) * 0.1 / 40
    variance = (np.square(each).sum(0) * 0.1 * 0.9 + 0.6**2) / 40**2
    found = recorder.gradients
    assert found.shape == (steps, 6)
    assert np.all(np.abs(found.mean(0) - mean) < 5 * np.sqrt(variance / steps))
    ratio = found.var(0) / variance
    assert np.all(np.abs(ratio - 1) < 5 * np.sqrt(2 / steps))


def test_empty_batches_take_a_noisy_step() -> None:
    made = network()
    before = made.get_weights()
    private = make_private(
        made, plan(expected_batch_size=1e-6, steps=1, clipping_norm=1e-6), optimizer="sgd", loss=LOSS
    )
    assert private.fit(*data()).steps == 1
    assert all(np.all(a != b) for a, b in zip(before, made.get_weights(), strict=True))


def test_partition_counts_participation() -> None:
    private = make_private(network(), plan(steps=None, epochs=3, sampling="shuffled"), optimizer="sgd", loss=LOSS)
    execution = private.fit(*data())
    assert execution.steps == 30
    assert execution.largest_participation == 3


@pytest.mark.slow
def test_steps_are_used_up_and_early_stops_are_accounted() -> None:
    class Stop(tf.keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.logs: list[Any] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.logs.append(logs)
            self.model.stop_training = len(self.logs) == 2

    made, stop = plan(), Stop()
    private = make_private(network(), made, optimizer="sgd", loss=LOSS)
    first = private.fit(*data(), callbacks=[stop])
    assert first.stopped_early
    assert first.event == made.event_of(2)
    assert not any(stop.logs)  # no exact losses
    assert private.fit(*data()).event == made.event
    with pytest.raises(BadInputError, match="all 6 steps"):
        private.fit(*data())


@pytest.mark.slow
def test_inputs_by_name_several_outputs_and_loss_weights() -> None:
    one, two = L.Input((3,), name="one"), L.Input((2,), dtype="int32", name="two")
    joined = L.Concatenate()([one, L.Flatten()(L.Embedding(4, 2)(two))])
    model = tf.keras.Model({"one": one, "two": two}, {"a": L.Dense(1)(joined), "b": L.Dense(3)(joined)})
    random = np.random.default_rng(0)
    x = {"one": random.normal(size=(UNITS, 3)), "two": random.integers(0, 4, (UNITS, 2))}
    y = {"a": random.normal(size=UNITS), "b": random.integers(0, 3, UNITS)}
    losses = {"a": "mse", "b": tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    private = make_private(model, plan(), optimizer="adam", loss=losses, loss_weights={"a": 0.5, "b": 2.0})
    assert private.fit(x, y).steps == 6


def test_per_layer_hardened_and_dropout_run() -> None:
    made = plan(per_layer=True, hardened=True)
    execution = make_private(network(dropout=0.3), made, optimizer="rmsprop", loss=LOSS).fit(*data())
    assert "four" in execution.generator


def test_compiled_model_needs_no_more_arguments() -> None:
    model = network()
    model.compile("sgd", LOSS)
    assert make_private(model, plan()).fit(*data()).steps == 6
    with pytest.raises(BadInputError, match="optimizer"):
        make_private(network(), plan())
    with pytest.raises(BadInputError, match="loss"):
        make_private(network(), plan(), optimizer="sgd")


S = tf.keras.optimizers.schedules
SCHEDULES = {
    "exponential": lambda: S.ExponentialDecay(0.1, 2, 0.5),
    "pieces": lambda: S.PiecewiseConstantDecay([1, 2], [0.1, 0.2, 0.3]),
    "warm-up and cosine": lambda: S.CosineDecay(0.0, 6, warmup_target=0.2, warmup_steps=2),
    "restarts": lambda: S.CosineDecayRestarts(0.1, 2),
    "polynomial": lambda: S.PolynomialDecay(0.1, 6, end_learning_rate=0.0),
}


@pytest.mark.slow_but("SGD-pieces")
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("optimizer", [tf.keras.optimizers.SGD, tf.keras.optimizers.Adam])
def test_a_schedule_moves_the_rate_and_nothing_else(kind: str, optimizer: Any) -> None:
    made = network()
    before = made.get_weights()
    assert make_private(made, plan(), optimizer=optimizer(SCHEDULES[kind]()), loss=LOSS).fit(*data()).steps == 6
    assert not np.array_equal(made.get_weights()[0], before[0])


@pytest.mark.slow
def test_an_optimizer_may_keep_what_it_does_not_list() -> None:
    assert make_private(network(), plan(steps=2), optimizer=tf.keras.optimizers.Nadam(0.1), loss=LOSS).fit(*data())


@pytest.mark.parametrize(
    ("optimizer", "message", "fix"),
    [
        (tf.keras.optimizers.legacy.Adam(), "legacy ones are not supported", "tf.keras.optimizers.Adam"),
        (
            tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.SGD()),
            "LossScaleOptimizer is not needed",
            "inner_optimizer",
        ),
    ],
)
def test_optimizers_of_another_kind_are_refused_by_name(optimizer: Any, message: str, fix: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        make_private(network(), plan(), optimizer=optimizer, loss=LOSS)
    assert fix in caught.value.fix


def test_a_plan_cannot_be_changed() -> None:
    private = make_private(network(), plan(), optimizer="sgd", loss=LOSS)
    with pytest.raises(AttributeError):
        private.plan = plan(noise_multiplier=3.0)  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_train_end"])
def test_a_fit_within_a_fit_is_refused_and_the_object_goes_on(hook: str) -> None:
    private = make_private(network(), plan(), optimizer="sgd", loss=LOSS)
    nested = tf.keras.callbacks.LambdaCallback(**{hook: lambda *_: private.fit(*data())})
    with pytest.raises(BadInputError, match="callback of its own fit"):
        private.fit(*data(), callbacks=[nested])
    if hook != "on_train_end":
        assert private.fit(*data()).steps == 6


class Spike(tf.keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """3e38 in the middle."""

    def __call__(self, step: Any) -> Any:
        return tf.where(tf.logical_and(step > 1, step < 4), 3e38, 0.1)

    def get_config(self) -> dict[str, Any]:
        return {}


@pytest.mark.slow
def test_diverged_weights_end_the_run() -> None:
    private = make_private(network(), plan(), optimizer=tf.keras.optimizers.SGD(Spike()), loss=LOSS)
    with pytest.raises(PipelineError, match="no longer finite"):
        private.fit(*data())


def test_store_on_disk(tmp_path: Path) -> None:
    x, y = data()
    chunks = [({"a": x[at : at + 150], "b": x[at : at + 150, :1]}, y[at : at + 150]) for at in range(0, UNITS, 150)]
    store = ExampleStore.write(tmp_path / "store", chunks, examples=UNITS)
    assert isinstance(store.x["a"], np.memmap)
    index = np.array([0, 149, 150, 399])
    rows, labels = store.rows(index)
    np.testing.assert_array_equal(rows["a"], x[index])
    np.testing.assert_array_equal(labels, y[index])
    assert rows["b"].shape == (4, 1)
    assert store.rows(np.array([], np.int64))[0]["a"].shape == (0, 6)
    again = ExampleStore.open(tmp_path / "store", like={"x": {"a": 0, "b": 0}, "y": 0})
    assert len(again) == UNITS
    for wrong in (UNITS - 1, UNITS + 1):
        with pytest.raises(BadInputError, match="announced"):
            ExampleStore.write(tmp_path / str(wrong), chunks, examples=wrong)
    with pytest.raises(BadInputError, match="already"):
        ExampleStore.write(tmp_path / "store", chunks, examples=UNITS)
    with pytest.raises(BadInputError, match="same number"):
        ExampleStore.from_arrays(x, y[:-1])
    with pytest.raises(BadInputError, match="not an array of numbers"):
        ExampleStore.from_arrays(np.array(["a"]), np.array([1]))


@pytest.mark.slow
def test_learns_a_small_problem() -> None:
    x, y = data(4000)
    model = network()
    made = PrivacyPlan.calibrated(
        units=4000, expected_batch_size=400, epochs=12, epsilon=4.0, delta=1e-5, clipping_norm=1.0
    )
    make_private(model, made, optimizer=tf.keras.optimizers.Adam(0.03), loss=LOSS).fit(x, y)
    fresh, labels = data(2000, seed=9)
    accuracy = np.mean((model.predict(fresh, verbose=0)[:, 0] > 0) == labels)
    assert accuracy > 0.93


@pytest.mark.slow
def test_many_models_in_one_process_warn_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tensorflow")
    logger.addHandler(caplog.handler)
    try:
        for _ in range(6):
            make_private(network(), plan(steps=2), optimizer="sgd", loss=LOSS, virtual_batch_size=7).fit(*data())
    finally:
        logger.removeHandler(caplog.handler)
    assert "retracing" not in caplog.text
