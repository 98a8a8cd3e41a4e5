"""Weights carry their privacy history: across fits, saves, loads and processes; what is not known is asked for."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
import tensorflow as tf
from dp_accounting import pld

from privacy_pipeline.dp import PrivacyHistory, PrivacyPlan, UserBound, make_private
from privacy_pipeline.dp.history import history_store
from privacy_pipeline.dp.history.untrained import not_new
from privacy_pipeline.errors import BadInputError

L = tf.keras.layers
UNITS, BATCH, STEPS, DELTA = 60, 20, 6, 1e-5


def network() -> Any:
    return tf.keras.Sequential([L.Input((3,)), L.Dense(4, "tanh"), L.Dense(1)])


def plan(noise: float = 1.0, **more: Any) -> PrivacyPlan:
    given = {"units": UNITS, "expected_batch_size": BATCH, "steps": STEPS, "clipping_norm": 1.0, **more}
    return PrivacyPlan.calibrated(noise_multiplier=noise, delta=DELTA, **given)


def data() -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(UNITS, 3)).astype(np.float32), generator.normal(size=(UNITS, 1)).astype(np.float32)


def trained(model: Any, noise: float = 1.0, **more: Any) -> Any:
    return make_private(model, plan(noise), optimizer="sgd", loss="mse", **more).fit(*data())


def truth(*phases: tuple[float, int]) -> float:
    """Epsilon of (noise multiplier, steps) together, by dp_accounting alone."""
    accountant = pld.PLDAccountant()
    for noise, steps in phases:
        one = dp_accounting.PoissonSampledDpEvent(BATCH / UNITS, dp_accounting.GaussianDpEvent(noise))
        accountant.compose(dp_accounting.SelfComposedDpEvent(one, steps))
    return float(accountant.get_epsilon(DELTA))


def about(value: float) -> Any:
    return pytest.approx(value, rel=2e-3)


def saved_keras(model: Any, folder: Path) -> Any:
    model.save(folder / "m.keras")
    return tf.keras.models.load_model(folder / "m.keras")


def saved_h5(model: Any, folder: Path) -> Any:
    model.save(folder / "m.h5")
    return tf.keras.models.load_model(folder / "m.h5")


def saved_model(model: Any, folder: Path) -> Any:
    model.save(folder / "m", save_format="tf")
    return tf.keras.models.load_model(folder / "m")


def saved_weights(name: str) -> Callable[[Any, Path], Any]:
    def save(model: Any, folder: Path) -> Any:
        model.save_weights(folder / name)
        other = network()
        other.load_weights(folder / name)
        return other

    return save


def handed_over(model: Any, folder: Path) -> Any:
    other = network()
    other.set_weights(model.get_weights())
    return other


WAYS: dict[str, Callable[[Any, Path], Any]] = {
    ".keras": saved_keras,
    ".h5": saved_h5,
    "SavedModel": saved_model,
    "weights.h5": saved_weights("w.weights.h5"),
    "checkpoint": saved_weights("w"),
    "set_weights": handed_over,
    "the same model": lambda model, folder: model,
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_second_training_composes_with_the_first(tmp_path: Path, way: str) -> None:
    model = network()
    model.compile("sgd", "mse")
    first = trained(model)
    assert first.epsilon() == about(truth((1.0, STEPS)))
    second = trained(WAYS[way](model, tmp_path), noise=2.0)
    assert second.epsilon() == about(truth((1.0, STEPS), (2.0, STEPS)))
    assert [phase.steps for phase in second.privacy_history.phases] == [STEPS, STEPS]
    assert second.epsilon() > first.epsilon()


@pytest.mark.slow
def test_another_process_finds_the_history_and_one_with_another_folder_asks(tmp_path: Path) -> None:
    model = network()
    trained(model)
    model.save_weights(tmp_path / "w.weights.h5")
    code = f"""
        import sys
        from tests.dp.history.test_history import network, trained
        model = network(); model.load_weights({str(tmp_path / "w.weights.h5")!r})
        print("EPSILON", trained(model).epsilon())
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    here = history_store.folder()
    found = {}
    for folder in (here, tmp_path / "elsewhere"):
        environment = {**_environment(), history_store.FOLDER: str(folder)}
        done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, env=environment)
        found[folder] = done
    told = next(line for line in found[here].stdout.splitlines() if line.startswith("EPSILON"))
    assert float(told.split()[1]) == about(truth((1.0, STEPS), (1.0, STEPS)))
    assert "nothing is known of what made them" in found[tmp_path / "elsewhere"].stderr


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


class StopAfter(tf.keras.callbacks.Callback):  # type: ignore[misc]
    """Stops, or breaks off, after some steps."""

    def __init__(self, steps: int, *, broken: bool = False) -> None:
        super().__init__()
        self.left, self.broken = steps, broken

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            if self.broken:
                raise KeyboardInterrupt
            self.model.stop_training = True


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True], ids=["stopped", "broken off"])
def test_two_fits_of_a_plan_are_one_phase_that_grows(broken: bool) -> None:
    private = make_private(network(), plan(), optimizer="sgd", loss="mse")
    if broken:
        with pytest.raises(KeyboardInterrupt):
            private.fit(*data(), callbacks=[StopAfter(2, broken=True)])
    else:
        assert private.fit(*data(), callbacks=[StopAfter(2)]).epsilon() == about(truth((1.0, 2)))
    execution = private.fit(*data())
    assert execution.epsilon() == about(truth((1.0, STEPS)))
    assert [phase.steps for phase in execution.privacy_history.phases] == [STEPS]


@pytest.mark.slow
def test_weights_of_a_broken_off_training_have_a_history() -> None:
    model = network()
    with pytest.raises(KeyboardInterrupt):
        private = make_private(model, plan(), optimizer="sgd", loss="mse")
        private.fit(*data(), callbacks=[StopAfter(2, broken=True)])
    assert trained(model).epsilon() == about(truth((1.0, 2), (1.0, STEPS)))


@pytest.mark.slow
def test_a_checkpoint_of_an_epoch_has_the_history_so_far(tmp_path: Path) -> None:
    model = network()
    kept = tf.keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.weights.h5"), save_weights_only=True)
    make_private(model, plan(), optimizer="sgd", loss="mse").fit(*data(), callbacks=[kept])
    model.load_weights(tmp_path / "1.weights.h5")
    per_epoch = plan().steps_per_epoch
    assert per_epoch < STEPS
    assert trained(model).epsilon() == about(truth((1.0, per_epoch), (1.0, STEPS)))


def by_fit(model: Any) -> None:
    model.compile("sgd", "mse")
    model.fit(*data(), verbose=0)


def by_hand(model: Any) -> None:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(data()[0]) - data()[1]))
    for variable, gradient in zip(model.trainable_weights, tape.gradient(loss, model.trainable_weights), strict=True):
        variable.assign_sub(0.1 * gradient)


def by_load(model: Any) -> None:
    model.set_weights([value + 0.1 for value in model.get_weights()])


@pytest.mark.slow
@pytest.mark.parametrize("how", [by_fit, by_hand, by_load])
def test_weights_of_which_nothing_is_known_are_asked_for(how: Callable[[Any], None]) -> None:
    model = network()
    how(model)
    before = [value.copy() for value in model.get_weights()]
    with pytest.raises(BadInputError, match="nothing is known of what made them"):
        trained(model)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert trained(model, history="public").epsilon() == about(truth((1.0, STEPS)))


@pytest.mark.slow
def test_no_guarantee_covers_weights_that_nothing_protects() -> None:
    model = network()
    by_fit(model)
    execution = trained(model, history="none")
    assert execution.epsilon() == math.inf
    assert str(execution).startswith("no guarantee")
    assert trained(model).epsilon() == math.inf  # nor what is made of them


@pytest.mark.slow
def test_weights_that_were_changed_between_fits_are_asked_for() -> None:
    model = network()
    private = make_private(model, plan(), optimizer="sgd", loss="mse")
    execution = private.fit(*data(), callbacks=[StopAfter(2)])
    model.set_weights([value / 2 for value in model.get_weights()])
    with pytest.raises(BadInputError, match="changed since the last fit"):
        private.fit(*data())
    assert trained(model, history=execution.privacy_history).epsilon() == about(truth((1.0, 2), (1.0, STEPS)))


@pytest.mark.slow
def test_a_history_has_the_name_of_the_data_and_nothing_of_its_rows() -> None:
    told = []
    for factor in (1, 2):
        private = make_private(network(), plan(), optimizer="sgd", loss="mse", data_name="digits")
        (phase,) = private.fit(*(factor * part for part in data())).privacy_history.phases
        told.append(dataclasses.replace(phase, id="drawn"))
    assert told[0] == told[1]
    assert told[0].data == "digits"


@pytest.mark.slow
def test_a_fixed_seed_is_the_first_thing_that_is_said() -> None:
    model = network()
    execution = trained(model, seed=1)
    assert execution.epsilon() == math.inf
    assert str(execution).startswith("no guarantee: the seed was fixed")
    assert trained(model).epsilon() == math.inf


@pytest.mark.slow
def test_what_was_made_cannot_be_set() -> None:
    private = make_private(network(), plan(), optimizer="sgd", loss="mse")
    execution = private.fit(*data())
    (phase,) = execution.privacy_history.phases
    frozen = ((private.plan, "steps", 1), (execution, "steps", 1), (phase, "steps", 1), (private, "plan", plan(9.0)))
    for holder, name, value in (*frozen, (execution.privacy_history, "origin", "public")):
        with pytest.raises(AttributeError):  # FrozenInstanceError is one
            setattr(holder, name, value)
    assert execution.epsilon() == about(truth((1.0, STEPS)))


@pytest.mark.slow
def test_thawing_between_two_fits_needs_another_training() -> None:
    model = network()
    model.layers[0].trainable = False
    private = make_private(model, plan(), optimizer="sgd", loss="mse")
    private.fit(*data(), callbacks=[StopAfter(2)])
    model.layers[0].trainable = True
    with pytest.raises(BadInputError, match="or before layers were thawed"):
        private.fit(*data())
    assert trained(model).epsilon() == about(truth((1.0, 2), (1.0, STEPS)))


@pytest.mark.slow
def test_two_models_on_the_same_rows_compose_and_a_common_base_counts_once() -> None:
    one = network()
    base = trained(one)
    other = network()
    other.set_weights(one.get_weights())
    first, second = trained(one, noise=2.0), trained(other, noise=3.0)
    both = first.privacy_history.together(second.privacy_history)
    assert both.epsilon(DELTA) == about(truth((1.0, STEPS), (2.0, STEPS), (3.0, STEPS)))
    assert base.privacy_history.together(base.privacy_history).epsilon(DELTA) == about(truth((1.0, STEPS)))


def test_one_epsilon_does_not_cover_two_units() -> None:
    model = network()
    trained(model)
    of_users = plan(users=UserBound(max_examples=1))
    private = make_private(model, of_users, optimizer="sgd", loss="mse")
    execution = private.fit(*data(), users=np.arange(UNITS))
    with pytest.raises(BadInputError, match=r"example under .* and user under"):
        execution.epsilon()


@pytest.mark.slow
def test_a_history_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    history = trained(network()).privacy_history
    history.save(tmp_path / "h.json")
    again = PrivacyHistory.load(tmp_path / "h.json")
    assert again == history
    assert again.epsilon(DELTA) == history.epsilon(DELTA)
    for text in ("{}", "[1]", '{"version": 1, "origin": "best", "phases": []}', "\x00"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(BadInputError, match=r"bad\.json"):
            PrivacyHistory.load(tmp_path / "bad.json")


def test_a_damaged_file_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(history_store.FOLDER, str(tmp_path))
    model = network()
    trained(model)
    digest = history_store.digest_of(model.weights)
    (tmp_path / f"{digest}.json").write_text("{")
    with pytest.raises(BadInputError, match="is damaged"):
        trained(model)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(history_store.FOLDER, str(tmp_path / "file" / "histories"))
    model = network()
    with pytest.warns(UserWarning, match="could not be written"):
        trained(model)
    with pytest.warns(UserWarning, match="could not be written"):  # this process has it still
        assert trained(model).epsilon() == about(truth((1.0, STEPS), (1.0, STEPS)))


NEW = {
    "dense": lambda: L.Dense(2),
    "lstm": lambda: L.LSTM(2),
    "gru": lambda: L.GRU(2),
    "bidirectional": lambda: L.Bidirectional(L.LSTM(2)),
    "norm": lambda: L.LayerNormalization(),
    "convolution": lambda: L.SeparableConv1D(2, 2, bias_initializer="random_normal"),
    "no bias": lambda: L.Dense(2, use_bias=False, kernel_initializer="he_normal"),
    "cells": lambda: L.RNN([L.GRUCell(2), L.LSTMCell(2, bias_initializer="truncated_normal")]),
    "a constant": lambda: L.Dense(2, bias_initializer=tf.keras.initializers.Constant(0.3)),
}


@pytest.mark.parametrize("kind", NEW)
def test_new_layers_are_new_and_changed_ones_are_not(kind: str) -> None:
    model = tf.keras.Sequential([L.Input((4, 3)), NEW[kind]()])
    assert not_new(model) == []
    model.set_weights([value + np.float32(1e-7) for value in model.get_weights()])
    assert [one.name for one in not_new(model)] == [one.name for one in model.weights]
