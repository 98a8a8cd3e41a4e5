"""No noise is drawn twice: one training at a time, of one object, process, folder, and order of the data."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyHistory, PrivacyPlan, StateMismatch, make_private
from privacy_pipeline.dp.history import history_store
from privacy_pipeline.errors import BadInputError
from tests.dp.history.test_history import STEPS, about, data, network, plan, trained, truth

X, Y = data()


def private(model: Any = None, **more: Any) -> Any:
    return make_private(model or network(), plan(), optimizer="sgd", loss="mse", **more)


class TestOneTraining:
    def test_data_that_begins_another_training_is_refused(self) -> None:
        made = private()

        def batches() -> Iterator[Any]:
            made.begin(X, Y)
            yield X, Y

        with pytest.raises(BadInputError, match="is under way"):
            made.begin(batches())
        assert made.fit(X, Y).steps == STEPS  # what failed holds nothing

    def test_a_second_thread_waits_for_nobody(self) -> None:
        made, reached, go = private(), threading.Event(), threading.Event()

        def batches() -> Iterator[Any]:
            reached.set()
            go.wait(60)
            yield X, Y

        first = threading.Thread(target=lambda: made.fit(batches()))
        first.start()
        assert reached.wait(60)
        with pytest.raises(BadInputError, match="is under way"):
            made.begin(X, Y)
        go.set()
        first.join()

    def test_threads_make_the_steps_one_after_the_other(self) -> None:
        training, made = private().begin(X, Y), []

        def go() -> None:
            while training.step():
                made.append(1)

        threads = [threading.Thread(target=go) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == training.execution.steps == STEPS

    @pytest.mark.slow
    def test_a_training_that_is_closed_lets_the_next_begin(self) -> None:
        made = private()
        made.begin(X, Y).close()
        with pytest.raises(BadInputError, match="the plan protects examples"):
            made.begin(X, Y, users=np.arange(len(X)))
        assert made.fit(X, Y).steps == STEPS


@pytest.mark.slow_but("training-pickle")
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("begun", [False, True], ids=["model", "training"])
def test_what_holds_the_key_is_not_copied(way: Callable[[Any], Any], begun: bool) -> None:
    made = private()
    held = made.begin(X, Y) if begun else made
    with pytest.raises(BadInputError, match="cannot be copied"):
        way(held)


def test_a_forked_process_makes_no_step() -> None:
    made = private()
    training = made.begin(X, Y)
    context = multiprocessing.get_context("fork")
    told = context.Queue()

    def child() -> None:
        for work in (training.step, lambda: made.begin(X, Y)):
            try:
                work()
                told.put("went on")
            except BadInputError as error:
                told.put(str(error))

    process = context.Process(target=child)
    process.start()
    assert all("was forked after make_private" in told.get(timeout=60) for _ in range(2))
    process.join()
    assert training.step()


class TestOneFolder:
    def test_a_second_training_on_it_is_refused(self, tmp_path: Path) -> None:
        first, second = private(state_dir=tmp_path / "s"), private(state_dir=tmp_path / "s")
        training = first.begin(X, Y)
        with pytest.raises(BadInputError, match="another training uses this state"):
            second.begin(X, Y)
        while training.step():
            pass
        training.close()
        assert training.execution.steps == STEPS

    @pytest.mark.slow
    def test_another_process_is_refused(self, tmp_path: Path) -> None:
        training = private(state_dir=tmp_path / "s").begin(X, Y)
        context = multiprocessing.get_context("fork")
        told = context.Queue()

        def child() -> None:
            from privacy_pipeline.dp.training.ownership import Owner

            try:
                Owner().lock(tmp_path / "s")
                told.put("locked")
            except BadInputError as error:
                told.put(str(error))

        process = context.Process(target=child)
        process.start()
        assert "another training uses this state" in told.get(timeout=60)
        process.join()
        training.close()

    @pytest.mark.slow
    def test_what_fails_lets_others_in(self, tmp_path: Path) -> None:
        with private(state_dir=tmp_path / "s").begin(X, Y) as training:
            training.step()
        with pytest.raises(StateMismatch) as raised:  # which holds the frames, and what they refer to
            private(state_dir=tmp_path / "s").begin(X * 2, Y)
        assert "are not those it was started with" in str(raised.value)
        assert private(state_dir=tmp_path / "s").fit(X, Y).steps == STEPS


def partitioned(**more: Any) -> Any:
    fixed = PrivacyPlan.calibrated(
        units=60, expected_batch_size=20, epochs=2, noise_multiplier=1.0, delta=1e-5, clipping_norm=1.0, **more
    )
    return make_private(network(), fixed, optimizer="sgd", loss="mse")


@pytest.mark.slow_but("shuffled")
@pytest.mark.parametrize("sampling", ["shuffled", "cyclic"])
def test_a_partition_is_of_one_order_of_the_data(sampling: str) -> None:
    made = partitioned(sampling=sampling)
    with made.begin(X, Y) as training:
        training.step()
    with pytest.raises(BadInputError, match="in another order"):
        made.fit(X[::-1], Y[::-1])
    assert made.fit(X, Y).largest_participation == 2


@pytest.mark.slow
def test_samples_are_drawn_anew_of_any_data() -> None:
    made = private()
    with made.begin(X, Y) as training:
        training.step()
    assert made.fit(X[::-1], Y[::-1]).steps == STEPS


class TestBetweenSteps:
    """A history that is asked for between two steps counts the steps that were made."""

    @pytest.mark.slow_but("new")
    @pytest.mark.parametrize("given", [{}, {"history": "public"}], ids=["new", "public"])
    def test_a_model_is_saved_with_what_it_cost_so_far(self, tmp_path: Path, given: dict[str, Any]) -> None:
        made = private(**given)
        with made.begin(X, Y) as training:
            for steps in (1, 2):
                training.step()
                made.save(tmp_path / f"{steps}.keras")
                found = PrivacyHistory.load(tmp_path / f"{steps}.keras")
                assert [phase.steps for phase in found.phases] == [steps]
                assert found == training.execution.privacy_history

    def test_a_callback_saves_it_too(self, tmp_path: Path) -> None:
        made, found = private(), []

        def save(batch: int, logs: Any) -> None:
            made.save_weights(tmp_path / "w")
            found.append(PrivacyHistory.load(tmp_path / "w").phases[0].steps)

        made.fit(X, Y, callbacks=[tf.keras.callbacks.LambdaCallback(on_train_batch_end=save)])
        assert found == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_what_is_known_of_weights_counts_beside_what_somebody_says() -> None:
    model = network()
    trained(model)
    assert trained(model, history="public").epsilon() == about(truth((1.0, STEPS), (1.0, STEPS)))
    digest = history_store.digest_of(model.weights)
    known = history_store.recalled(digest)
    assert known is not None and known.origin == "public"
