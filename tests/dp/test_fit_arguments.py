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
        ({"shuffle": True}, "takes no shuffle"),
        ({"validation_data": X}, "not a pair"),
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


def test_keras_early_stopping_ends_a_run_by_public_data() -> None:
    stop = tf.keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=1e9, patience=1)
    execution = private().fit(X, Y, validation_data=PUBLIC, callbacks=[stop])
    assert execution.steps == 8  # the second epoch is the first that is no better
    stop = tf.keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=1e9, patience=0)
    assert private().fit(X, Y, validation_data=PUBLIC, callbacks=[stop]).steps in (4, 8)


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


def test_what_no_noise_protects_is_listed() -> None:
    assert private().fit(X, Y).not_covered == ()
    listed = private().fit(X, Y, callbacks=[Logs()], validation_data=PUBLIC).not_covered
    assert [one.split()[0] for one in listed] == ["what", "scores"]


def test_a_model_that_is_not_compiled_cannot_be_scored() -> None:
    with pytest.raises(BadInputError, match="not compiled"):
        private(compiled=False).fit(X, Y, validation_data=PUBLIC)


def test_progress_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    private().fit(X, Y)
    assert "Epoch" not in capsys.readouterr().out
    private().fit(X, Y, verbose=2, validation_data=PUBLIC)
    shown = capsys.readouterr().out
    assert "Epoch 2/2" in shown
    assert "val_loss" in shown
