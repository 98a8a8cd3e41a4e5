"""What is trained on is known, asked for or refused: parts of models, optimizers, and weights that others set."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyHistory, load_model, load_weights, make_private, validate
from privacy_pipeline.errors import BadInputError
from tests.dp.history.test_history import STEPS, UNITS, about, data, network, plan, trained, truth

K, L = tf.keras, tf.keras.layers
ONE, TWO = (1.0, STEPS), ((1.0, STEPS), (1.0, STEPS))
ASKED = "do not show that they are new, and nothing is known of what made them"


def words() -> tuple[Any, Any]:
    return np.random.default_rng(1).integers(0, 9, (UNITS, 5)), data()[1]


def tokens(embedding: Any = None) -> Any:
    """A model of words, whose embedding has no bias beside it."""
    first = L.Embedding(9, 4) if embedding is None else embedding
    return K.Sequential([L.Input((5,), dtype="int64"), first, L.GlobalAveragePooling1D(), L.Dense(1)])


def privately(model: Any, **more: Any) -> Any:
    given = {"optimizer": "sgd", "loss": "mse", **more}
    return make_private(model, plan(), **given).fit(*words())


def plainly(model: Any) -> None:
    model.compile("adam", "mse")
    model.fit(*words(), epochs=2, verbose=0)


def same_layer(model: Any) -> Any:
    return tokens(model.layers[0])


def frozen_layer(model: Any) -> Any:
    model.layers[0].trainable = False
    return tokens(model.layers[0])


def copied_array(model: Any) -> Any:
    other = tokens()
    other.layers[0].set_weights(model.layers[0].get_weights())
    return other


def given_as_weights(model: Any) -> Any:
    return tokens(L.Embedding(9, 4, weights=model.layers[0].get_weights()))


def given_as_initializer(model: Any) -> Any:
    (matrix,) = model.layers[0].get_weights()
    return tokens(L.Embedding(9, 4, embeddings_initializer=K.initializers.Constant(matrix)))


def given_as_function(model: Any) -> Any:
    (matrix,) = model.layers[0].get_weights()
    return tokens(L.Embedding(9, 4, embeddings_initializer=lambda shape, dtype=None: tf.constant(matrix)))


REUSED: dict[str, Callable[[Any], Any]] = {
    "the layer": same_layer,
    "the layer, frozen": frozen_layer,
    "its array": copied_array,
    "as weights": given_as_weights,
    "as an initializer": given_as_initializer,
    "by a function": given_as_function,
}


class TestPartsOfModels:
    @pytest.mark.slow
    @pytest.mark.parametrize("way", REUSED.values(), ids=REUSED)
    def test_a_part_that_was_trained_privately_brings_its_history(self, way: Callable[[Any], Any]) -> None:
        base = tokens()
        privately(base)
        assert privately(way(base)).epsilon() == about(truth(*TWO))

    @pytest.mark.slow_but("the layer", "by a function")
    @pytest.mark.parametrize("way", REUSED.values(), ids=REUSED)
    def test_a_part_of_which_nothing_is_known_is_asked_for(self, way: Callable[[Any], Any]) -> None:
        base = tokens()
        plainly(base)
        head = way(base)
        with pytest.raises(BadInputError, match=f"embeddings:0.*{ASKED}"):
            privately(head)

    @pytest.mark.slow
    def test_public_beside_a_part_that_is_known_erases_nothing(self) -> None:
        base = tokens()
        privately(base)
        assert privately(same_layer(base), history="public").epsilon() == about(truth(*TWO))

    def test_a_base_without_biases_is_asked_for(self) -> None:
        base = K.Sequential([L.Input((3,)), L.Dense(4, "relu", use_bias=False), L.Dense(1)])
        base.compile("adam", "mse")
        base.fit(*data(), verbose=0)
        with pytest.raises(BadInputError, match=ASKED):
            trained(K.Sequential([L.Input((3,)), base.layers[0], L.Dense(1)]))

    def test_a_normalisation_that_was_exchanged_brings_its_convolution_along(self) -> None:
        base = K.Sequential([L.Input((6, 2)), L.Conv1D(3, 2, use_bias=False), L.BatchNormalization(), L.Flatten()])
        base.compile("adam", "mse")
        x = np.random.default_rng(0).normal(size=(UNITS, 6, 2)).astype(np.float32)
        base.fit(x, np.zeros((UNITS, 15)), verbose=0)
        fixed: Any = validate(base, fix=True)
        model = K.Sequential([L.Input((6, 2)), *fixed.layers, L.Dense(1)])
        with pytest.raises(BadInputError, match=ASKED):
            make_private(model, plan(), optimizer="sgd", loss="mse").fit(x, data()[1])


@pytest.mark.parametrize("said", ["None", "unknown", "private", "initial", "none ", "m.keras", Path("m.keras"), {}, 1])
def test_what_is_no_history_is_refused(said: Any) -> None:
    with pytest.raises(BadInputError, match="is not a history of weights"):
        make_private(network(), plan(), optimizer="sgd", loss="mse", history=said)


def test_an_empty_history_does_not_make_weights_new() -> None:
    model = network()
    model.set_weights([value + 0.1 for value in model.get_weights()])
    with pytest.raises(BadInputError, match=ASKED):
        trained(model, history=PrivacyHistory())
    with pytest.raises(BadInputError, match="has no origin 'best'"):
        PrivacyHistory(origin="best")  # type: ignore[arg-type]


class TestTwoOwners:
    @pytest.mark.slow
    def test_trainings_of_the_same_weights_do_not_interleave(self) -> None:
        model = network()
        one, other = (make_private(model, plan(), optimizer="sgd", loss="mse") for _ in range(2))
        with one.begin(*data()) as training:
            assert training.step()
            with pytest.raises(BadInputError, match="another private model trains the same weights"):
                other.begin(*data())
        assert other.fit(*data()).epsilon() == about(truth((1.0, 1), ONE))

    def test_nor_where_one_shares_a_layer_with_the_other(self) -> None:
        base = network()
        head = K.Sequential([L.Input((3,)), base.layers[0], L.Dense(1)])
        one, other = (make_private(each, plan(), optimizer="sgd", loss="mse") for each in (base, head))
        with one.begin(*data()), pytest.raises(BadInputError, match="another private model trains"):
            other.begin(*data())

    def test_a_callback_starts_no_other_training(self) -> None:
        model = network()
        other = make_private(model, plan(), optimizer="sgd", loss="mse")
        within = K.callbacks.LambdaCallback(on_epoch_end=lambda *_: other.fit(*data()))
        with pytest.raises(BadInputError, match="another private model trains"):
            make_private(model, plan(), optimizer="sgd", loss="mse").fit(*data(), callbacks=[within])

    def test_the_model_cannot_be_exchanged(self) -> None:
        private = make_private(network(), plan(), optimizer="sgd", loss="mse")
        with pytest.raises(AttributeError):
            private.model = network()


class TestOptimizers:
    @pytest.mark.slow
    def test_moments_of_an_earlier_training_count(self) -> None:
        model, adam = network(), K.optimizers.Adam(0.1)
        first = model.get_weights()
        make_private(model, plan(), optimizer=adam, loss="mse").fit(*data())
        model.set_weights(first)
        again = make_private(model, plan(), optimizer=adam, loss="mse").fit(*data())
        assert again.epsilon() == about(truth(*TWO))

    @pytest.mark.parametrize("way", ["a loop", "fit"])
    def test_moments_of_which_nothing_is_known_are_refused(self, way: str) -> None:
        model, adam = network(), K.optimizers.Adam(0.1)
        first = model.get_weights()
        if way == "fit":
            model.compile(adam, "mse")
            model.fit(*data(), verbose=0)
        else:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(data()[0]) - data()[1]))
            adam.apply_gradients(zip(tape.gradient(loss, model.trainable_weights), model.trainable_weights))
        model.set_weights(first)
        again = K.Sequential(model.layers)
        again.build((None, 3))
        with pytest.raises(BadInputError, match="the optimizer was used before"):
            make_private(again, plan(), optimizer=adam, loss="mse").fit(*data())

    @pytest.mark.slow
    def test_one_without_moments_may_be_used_again(self) -> None:
        model, sgd = network(), K.optimizers.SGD(0.1)
        make_private(model, plan(), optimizer=sgd, loss="mse").fit(*data())
        execution = make_private(model, plan(), optimizer=sgd, loss="mse").fit(*data())
        assert execution.epsilon() == about(truth(*TWO))


class Sets(K.callbacks.Callback):  # type: ignore[misc]
    """Sets weights at one of Keras' times."""

    def __init__(self, when: str, weights: Any) -> None:
        super().__init__()
        self.weights = weights
        setattr(self, when, self.set_them)

    def set_them(self, *_: Any, **__: Any) -> None:
        self.model.set_weights(self.weights(self.model))


def moved(model: Any) -> Any:
    return [value + 1 for value in model.get_weights()]


class TestWeightsThatOthersSet:
    @pytest.mark.slow_but("on_train_begin")
    @pytest.mark.parametrize("when", ["on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_epoch_end"])
    def test_unknown_ones_end_the_run_before_a_step(self, when: str) -> None:
        private = make_private(network(), plan(), optimizer="sgd", loss="mse")
        with pytest.raises(BadInputError, match="were set between two steps"):
            private.fit(*data(), callbacks=[Sets(when, moved)])

    @pytest.mark.slow
    def test_unknown_ones_at_the_end_leave_no_guarantee(self) -> None:
        model = network()
        execution = make_private(model, plan(), optimizer="sgd", loss="mse").fit(
            *data(), callbacks=[Sets("on_train_end", moved)]
        )
        assert execution.epsilon() == math.inf and str(execution).startswith("no guarantee")
        assert trained(model).epsilon() == math.inf

    @pytest.mark.slow
    def test_nor_do_they_where_the_run_was_refused_and_goes_on(self) -> None:
        private = make_private(network(), plan(), optimizer="sgd", loss="mse")
        with pytest.raises(BadInputError, match="were set between two steps"):
            private.fit(*data(), callbacks=[Sets("on_train_batch_end", moved)])
        assert private.fit(*data()).epsilon() == math.inf

    @pytest.mark.slow
    @pytest.mark.parametrize("when", ["on_epoch_end", "on_train_batch_end"])
    def test_a_run_that_is_broken_off_has_set_none(self, when: str) -> None:
        """Whether callbacks are told of each step, or of epochs alone."""
        model = network()

        def breaks_off(*_: Any) -> None:
            raise KeyboardInterrupt

        private = make_private(model, plan(), optimizer="sgd", loss="mse")
        with pytest.raises(KeyboardInterrupt):
            private.fit(*data(), callbacks=[K.callbacks.LambdaCallback(**{when: breaks_off})])
        assert math.isfinite(private.fit(*data()).epsilon())

    @pytest.mark.slow
    def test_known_ones_count(self) -> None:
        base = network()
        trained(base)
        kept = base.get_weights()
        execution = make_private(network(), plan(), optimizer="sgd", loss="mse").fit(
            *data(), callbacks=[Sets("on_train_begin", lambda _: kept)]
        )
        assert execution.epsilon() == about(truth(*TWO))

    @pytest.mark.slow
    def test_early_stopping_puts_the_best_epoch_back(self) -> None:
        model = network()
        model.compile("sgd", "mse")
        public = np.zeros((4, 3), np.float32), np.zeros((4, 1), np.float32)
        best = K.callbacks.EarlyStopping("val_loss", patience=0, mode="max", restore_best_weights=True)
        execution = make_private(model, plan()).fit(*data(), callbacks=[best], validation_data=public)
        assert execution.epsilon() <= truth(ONE) * (1 + 2e-3)

    @pytest.mark.slow
    def test_a_plain_fit_in_a_callback_is_found(self) -> None:
        model = network()
        model.compile("sgd", "mse")
        within = K.callbacks.LambdaCallback(on_epoch_end=lambda *_: model.fit(*data(), verbose=0))
        with pytest.raises(BadInputError, match="were set between two steps"):
            make_private(model, plan()).fit(*data(), callbacks=[within])

    def test_so_is_a_batch_in_a_loop_of_ones_own(self) -> None:
        model = network()
        model.compile("sgd", "mse")
        with make_private(model, plan()).begin(*data()) as training:
            assert training.step() and training.execution.not_covered
            model.train_on_batch(*data())
            with pytest.raises(BadInputError, match="were set between two steps"):
                training.step()

    @pytest.mark.slow_but("plain")
    @pytest.mark.parametrize("protected", [True, False], ids=["private", "plain"])
    def test_a_backup_that_keras_restores_counts_or_is_refused(self, tmp_path: Path, protected: bool) -> None:
        def network_and_backup() -> tuple[Any, Any]:
            model = network()
            model.compile("sgd", "mse")
            return model, K.callbacks.BackupAndRestore(str(tmp_path / "backup"), delete_checkpoint=False)

        def stop(epoch: int, _logs: Any) -> None:
            if epoch == 1:
                raise KeyboardInterrupt

        model, backup = network_and_backup()
        stopping = [backup, K.callbacks.LambdaCallback(on_epoch_begin=stop)]
        with pytest.raises(KeyboardInterrupt):
            if protected:
                make_private(model, plan()).fit(*data(), callbacks=stopping)
            else:
                model.fit(*data(), epochs=3, callbacks=stopping, verbose=0)
        model, backup = network_and_backup()
        if protected:
            assert make_private(model, plan()).fit(*data(), callbacks=[backup]).epsilon() >= truth((1.0, 3), ONE) * 0.99
        else:
            with pytest.raises(BadInputError, match="were set between two steps"):
                make_private(model, plan()).fit(*data(), callbacks=[backup])


@pytest.mark.slow_but("checkpoint")
@pytest.mark.parametrize("whole", [True, False], ids=["SavedModel", "checkpoint"])
def test_weights_that_keras_saves_over_older_ones_have_no_history(tmp_path: Path, whole: bool) -> None:
    model, path = network(), tmp_path / "m"
    save = {True: lambda: model.save(path, save_format="tf"), False: lambda: model.save_weights(path)}[whole]
    first = trained(model)
    save()
    first.privacy_history.save(path)
    trained(model)
    save()
    with pytest.raises(BadInputError, match="saved again without their privacy history"):
        load_model(path) if whole else load_weights(network(), path)


class Averaged(K.optimizers.SGD):  # type: ignore[misc]
    def compute_gradients(self, *given: Any, **more: Any) -> Any:
        return super().compute_gradients(*given, **more)


class OwnFit(K.Sequential):  # type: ignore[misc]
    def fit(self, *given: Any, **more: Any) -> Any:
        return None


class TestOtherTrainingThanKeras:
    @pytest.mark.parametrize("name", ["train_step", "compute_loss", "make_train_function"])
    def test_a_method_of_the_object_alone_is_refused(self, name: str) -> None:
        model = network()
        setattr(model, name, lambda *_: None)
        with pytest.raises(BadInputError, match=f"has a {name} of its own"):
            trained(model)

    def test_so_is_a_fit_of_its_class(self) -> None:
        with pytest.raises(BadInputError, match="has a fit of its own"):
            trained(OwnFit([L.Input((3,)), L.Dense(1)]))

    def test_optimizers_that_do_more_are_refused_by_name(self) -> None:
        with pytest.raises(BadInputError, match="has a compute_gradients of its own"):
            make_private(network(), plan(), optimizer=Averaged(), loss="mse")
        with pytest.raises(BadInputError, match="has use_ema"):
            make_private(network(), plan(), optimizer=K.optimizers.Adam(use_ema=True), loss="mse")

    def test_a_model_that_is_compiled_again_is_refused(self) -> None:
        model = network()
        model.compile("sgd", "mse")
        private = make_private(model, plan())
        model.compile("adam", "mse")
        with pytest.raises(BadInputError, match="was compiled after make_private"):
            private.fit(*data())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_saved_model_has_the_optimizer_that_was_given(tmp_path: Path, name: str, compiled: bool) -> None:
    model = network()
    if compiled:
        model.compile("sgd", "mse")
    private = make_private(model, plan(), optimizer=K.optimizers.Adam(0.01), loss="mse")
    private.fit(*data())
    private.save(tmp_path / name)
    loaded = load_model(tmp_path / name)
    assert type(loaded.optimizer).__name__ == "Adam" and int(loaded.optimizer.iterations) == STEPS
    assert make_private(loaded, plan()).fit(*data()).epsilon() == about(truth(*TWO))
