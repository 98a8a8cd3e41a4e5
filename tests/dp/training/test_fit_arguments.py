"""Arguments of Keras' `fit` mean what they mean in Keras, or are refused by name before a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.errors import BadInputError

L = tf.keras.layers
PLAN = PrivacyPlan.calibrated(
    units=40, expected_batch_size=10, steps=8, noise_multiplier=1.0, delta=1e-5, clipping_norm=1.0
)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)).astype(np.float32), RNG.normal(size=(40, 1)).astype(np.float32)
PUBLIC = RNG.normal(size=(16, 3)).astype(np.float32), RNG.normal(size=(16, 1)).astype(np.float32)


def private(*, compiled: bool = True) -> Any:
    model = tf.keras.Sequential([L.Input((3,)), L.Dense(1)])
    if compiled:
        model.compile("sgd", "mse", metrics=["mae"])
    return make_private(model, PLAN, optimizer="sgd", loss="mse")


def test_what_the_plan_says_may_be_repeated() -> None:
    assert private().fit(X, Y, epochs=2, steps_per_epoch=4, batch_size=10).steps == 8


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"epochs": 5}, "epochs=5: the plan has 2 epochs"),
        ({"steps_per_epoch": 3}, "the plan has 4 steps an epoch"),
        ({"batch_size": 32}, "the plan has 10 examples expected in a batch"),
        ({"validation_split": 0.2}, "takes no validation_split"),
        ({"initial_epoch": 1}, "takes no initial_epoch"),
        ({"shuffle": False}, "takes no shuffle"),
        ({"validation_freq": 2}, "takes no validation_freq"),
        ({"validation_data": X}, r"is not \(x, y\)"),
        ({"validation_data": (X[:, :2], Y)}, "validation_data does not fit model"),
        ({"validation_data": (X, Y[:, 0], Y, Y)}, r"is not \(x, y\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_says_something_else_is_one_line_and_no_step(given: dict[str, Any], says: str) -> None:
    made = private()
    before = [value.copy() for value in made.model.get_weights()]
    with pytest.raises(BadInputError, match=says):
        made.fit(X, Y, **given)
    for value, old in zip(made.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_what_keras_has_by_default_may_be_said() -> None:
    defaults = {"callbacks": None, "initial_epoch": 0, "validation_split": 0.0, "shuffle": True, "validation_freq": 1}
    assert private().fit(X, Y, **defaults, validation_steps=None, workers=1, use_multiprocessing=False).steps == 8


def test_arguments_by_their_place_are_named() -> None:
    with pytest.raises(BadInputError, match="given by name") as caught:
        private().fit(X, Y, 10, 2, 1)
    assert str(caught.value.fix) == "fit(x, y, batch_size=10, epochs=2, verbose=1)"


@pytest.mark.slow_but("weights")
@pytest.mark.parametrize("form", ["weights", "dataset"])
def test_public_data_comes_in_the_forms_of_keras(form: str) -> None:
    weights = np.linspace(0.0, 2.0, len(PUBLIC[0])).astype(np.float32)
    batches = tf.data.Dataset.from_tensor_slices((*PUBLIC, weights)).batch(5)
    made, logs = private(), Logs()
    made.fit(X, Y, callbacks=[logs], validation_data=batches if form == "dataset" else (*PUBLIC, weights))
    right = made.model.evaluate(*PUBLIC, sample_weight=weights, verbose=0, return_dict=True)
    assert logs.seen[-1]["val_loss"] == pytest.approx(right["loss"], rel=1e-5)


def test_a_name_that_keras_does_not_know_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="epoch_count"):
        private().fit(X, Y, epoch_count=2)


class Logs(tf.keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(dict(logs or {}))


def test_callbacks_get_the_scores_of_public_data() -> None:
    made, logs = private(), Logs()
    made.fit(X, Y, validation_data=PUBLIC, callbacks=[logs])
    assert [sorted(one) for one in logs.seen] == [["val_loss", "val_mae"]] * 2
    right = made.model.evaluate(*PUBLIC, verbose=0, return_dict=True)
    assert logs.seen[-1]["val_mae"] == pytest.approx(right["mae"])


@pytest.mark.slow
def test_keras_early_stopping_ends_a_run_by_public_data() -> None:
    stop = tf.keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=1e9, patience=1)
    execution = private().fit(X, Y, validation_data=PUBLIC, callbacks=[stop])
    assert execution.steps == 8  # the second epoch is the first that is no better
    stop = tf.keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=1e9, patience=0)
    assert private().fit(X, Y, validation_data=PUBLIC, callbacks=[stop]).steps in (4, 8)


@pytest.mark.slow_but("False")
@pytest.mark.parametrize("compiled", [True, False])
def test_a_scheduler_changes_the_optimizer_that_makes_the_steps(compiled: bool) -> None:
    model = tf.keras.Sequential([L.Input((3,)), L.Dense(1)])
    if compiled:
        model.compile("adam", "mse")
    before, compiled_with = [value.copy() for value in model.get_weights()], getattr(model, "optimizer", None)
    optimizer = tf.keras.optimizers.SGD(0.5)
    scheduler = tf.keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.0)
    make_private(model, PLAN, optimizer=optimizer, loss="mse").fit(X, Y, callbacks=[scheduler])
    assert float(optimizer.learning_rate) == 0.0
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert getattr(model, "optimizer", None) is compiled_with


def test_a_callback_that_freezes_a_layer_is_refused_by_name() -> None:
    made = private()
    freeze = tf.keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(made.model.layers[0], "trainable", False)
    )
    with pytest.raises(BadInputError, match="changed which layers"):
        made.fit(X, Y, callbacks=[freeze])


@pytest.mark.slow
def test_what_no_noise_protects_is_listed() -> None:
    assert private().fit(X, Y).not_covered == ()
    listed = private().fit(X, Y, callbacks=[Logs()], validation_data=PUBLIC).not_covered
    assert [one.split()[0] for one in listed] == ["what", "scores"]


def test_a_model_that_is_not_compiled_cannot_be_scored() -> None:
    with pytest.raises(BadInputError, match="not compiled"):
        private(compiled=False).fit(X, Y, validation_data=PUBLIC)


@pytest.mark.slow
def test_progress_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    private().fit(X, Y)
    assert "Epoch" not in capsys.readouterr().out
    private().fit(X, Y, verbose=2, validation_data=PUBLIC)
    shown = capsys.readouterr().out
    assert "Epoch 2/2" in shown
    assert "val_loss" in shown
