"""A killed run goes on to the same bits; a lost key or another run's state never goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, RunState, StateMismatch, has_state, make_private
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.graphs.tracing import Traced
from privacy_pipeline.dp.training import checkpoints, replays
from privacy_pipeline.dp.training.checkpoints import graph_digest
from privacy_pipeline.dp.training.run_state import PROGRESS
from privacy_pipeline.errors import BadInputError

L = tf.keras.layers
LOSS = tf.keras.losses.BinaryCrossentropy(from_logits=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "everything",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("adam_dropout", "tree", "banded", "fallback", "partition")
        ),
    ],
)
def test_killed_runs_end_with_the_same_weights(tmp_path: Path, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.dp.training.resume_child", str(tmp_path), kind], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])[kind]
    assert found["killed"] == [True] * 3
    assert found["finished"] == [True] * 2
    assert found["at"] != 0
    assert found["steps"] == 9
    assert found["same"]


def state_of(folder: Path, binding: str = "this run", **more: Any) -> RunState:
    return RunState.open_or_create(folder, binding, **more)


def saved(folder: Path) -> RunState:
    state = state_of(folder)
    state.save(4, {"a": np.arange(3.0), "b": np.array(2)})
    return state


def test_state_is_kept_private_and_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    state = saved(folder)
    assert not state.resumed
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "key.json": 0o600,
        "checkpoint.npz": 0o600,
    }
    again = state_of(folder)
    assert again.resumed
    assert again.key.secret == state.key.secret
    step, arrays = again.load()
    assert step == 4
    assert sorted(arrays) == ["a", "b"]
    np.testing.assert_array_equal(arrays["a"], np.arange(3.0))
    assert state.key.secret.hex() not in repr(state) + str(vars(state))
    again.destroy()
    assert not folder.exists()
    again.destroy()


def test_a_key_that_drew_nothing_is_replaced(tmp_path: Path) -> None:
    first, second = state_of(tmp_path / "s"), state_of(tmp_path / "s", "another run")
    assert not second.resumed
    assert first.key.secret != second.key.secret


def _lose_key(folder: Path) -> None:
    (folder / "key.json").unlink()


def _swap_key(folder: Path) -> None:
    held = json.loads((folder / "key.json").read_text())
    (folder / "key.json").write_text(json.dumps({**held, "key": "00" * 32}))


def _short_key(folder: Path) -> None:
    held = json.loads((folder / "key.json").read_text())
    (folder / "key.json").write_text(json.dumps({**held, "key": "00"}))


def _cut_checkpoint(folder: Path) -> None:
    file = folder / "checkpoint.npz"
    file.write_bytes(file.read_bytes()[:-50])


def _change_checkpoint(folder: Path) -> None:
    with np.load(folder / "checkpoint.npz") as stored:
        held = dict(stored)
    np.savez(folder / "checkpoint.npz", **{**held, "step": np.array(3)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_lose_key, "lost"),
        (_swap_key, "not written by this run"),
        (_short_key, "damaged"),
        (lambda folder: (folder / "key.json").write_text("{}"), "damaged"),
        (lambda folder: (folder / "key.json").chmod(0o640), "others could have read"),
        (_cut_checkpoint, "damaged"),
        (_change_checkpoint, "not written by this run"),
    ],
)
def test_state_that_does_not_fit_is_destroyed(tmp_path: Path, change: Any, reason: str) -> None:
    folder = tmp_path / "state"
    key = saved(folder).key
    change(folder)
    with pytest.raises(StateMismatch, match=reason) as caught:
        state_of(folder)
    assert key.secret.hex() not in str(caught.value) + caught.value.fix
    assert not has_state(folder)
    assert not state_of(folder).resumed


def test_another_binding_or_seed_destroys_the_key(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    with pytest.raises(StateMismatch, match="not those it was started with"):
        state_of(tmp_path / "a", "other data")
    assert not (tmp_path / "a").exists()
    saved(tmp_path / "a")
    with pytest.raises(StateMismatch, match="another seed"):
        state_of(tmp_path / "a", key=RunKey.from_seed(1))


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o755)
    (tmp_path / "mine" / "something").write_text("")
    with pytest.raises(BadInputError, match="others may enter"):
        state_of(tmp_path / "mine")


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(100, 6)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.float32)


def private(folder: Path, *layers: Any, rate: float = 0.1, **more: Any) -> Any:
    plan = PrivacyPlan.calibrated(
        units=100, expected_batch_size=10, steps=4, noise_multiplier=1.0, delta=1e-5, clipping_norm=1.0
    )
    model = tf.keras.Sequential([L.Input((6,)), *layers, L.Dense(1)])
    optimizer = tf.keras.optimizers.SGD(rate)
    return make_private(model, plan, optimizer=optimizer, loss=LOSS, state_dir=folder / "state", **more)


class Stop(tf.keras.callbacks.Callback):
    """Ends the training after two steps."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_training = batch == 1


def test_going_on_in_one_process_is_the_same_run(tmp_path: Path) -> None:
    begun = private(tmp_path)
    first = begun.fit(*data(), callbacks=[Stop()])
    assert (first.steps, first.resumed_at, first.stopped_early) == (2, None, True)
    begun.model.set_weights([0 * w for w in begun.model.get_weights()])  # the checkpoint counts
    second = begun.fit(*data())
    assert (second.steps, second.resumed_at) == (4, 2)
    assert second.event == begun.plan.event
    other = private(tmp_path)
    last = other.fit(*data())
    assert (last.steps, last.resumed_at) == (4, 4)
    assert last.history == second.history
    for one, two in zip(begun.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not tf.config.experimental.list_logical_devices("GPU")
    other.destroy_state()
    assert not (tmp_path / "state").exists()


@pytest.mark.slow_but("rows")
@pytest.mark.parametrize("change", ["data", "layer", "rate", "binding", "rows", "engine"])
def test_noise_is_never_used_for_another_run(tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    private(tmp_path).fit(*data(), callbacks=[Stop()])
    if change == "engine":
        monkeypatch.setattr(checkpoints, "_engine_digest", lambda: "other code")
    other: dict[str, Any] = {"rate": {"rate": 0.2}, "binding": {"binding": "b"}, "rows": {"virtual_batch_size": 7}}
    layers = [L.Activation("tanh")] if change == "layer" else []
    with pytest.raises(StateMismatch):
        private(tmp_path, *layers, **other.get(change, {})).fit(*data(seed=int(change == "data")))
    assert not has_state(tmp_path / "state")


def test_a_run_whose_state_is_gone_does_not_go_on(tmp_path: Path) -> None:
    begun = private(tmp_path)
    begun.fit(*data(), callbacks=[Stop()])
    begun.destroy_state()
    with pytest.raises(BadInputError, match="is gone"):
        begun.fit(*data())


@pytest.mark.slow
def test_randomness_that_the_key_does_not_decide_is_refused(tmp_path: Path) -> None:
    class Noisy(L.Layer):
        def __init__(self, draw: Callable[[Any], Any], **keras: Any) -> None:
            super().__init__(**keras)
            self.draw = draw

        def call(self, inputs: Any, training: bool = False) -> Any:
            return inputs + self.draw(tf.shape(inputs)) if training else inputs

    guilty = Noisy(lambda shape: tf.random.gamma(shape, 1.0), name="guilty")
    with pytest.raises(BadInputError, match="guilty"):
        private(tmp_path / "guilty", guilty).fit(*data())
    assert private(tmp_path / "keyed", Noisy(tf.random.normal)).fit(*data()).steps


def test_graphs_are_told_apart_by_what_they_compute() -> None:
    spec = tf.TensorSpec([None, 2], tf.float32)

    def digest(function: Any) -> str:
        return graph_digest(Traced(function, spec).concrete.graph)

    def loop(limit: int) -> Any:
        return lambda x: tf.while_loop(lambda i, v: i < limit, lambda i, v: (i + 1, v * 2), (0, x))[1]

    assert digest(lambda x: 2 * x) == digest(lambda x: 2 * x)
    assert digest(loop(3)) == digest(loop(3))
    others = [lambda x: 2 * x, lambda x: 3 * x, lambda x: x - x * x, lambda x: x * x - x, loop(3), loop(4)]
    assert len({digest(function) for function in others}) == len(others)


class Every(tf.keras.callbacks.Callback):
    """Calls a function before each step, and may break off before one."""

    def __init__(self, change: Any = None, *, until: int | None = None) -> None:
        super().__init__()
        self.change, self.until = change, until
        self.step = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == self.until:
            raise KeyboardInterrupt
        if self.change is not None:
            self.change(self.model, batch)


def set_rate(model: Any, step: int) -> None:
    model.optimizer.learning_rate.assign(0.1 / (1 + step))


def set_another_rate(model: Any, step: int) -> None:
    model.optimizer.learning_rate.assign(0.1 if step == 0 else 0.02)


def nudge(model: Any, step: int) -> None:
    if step == 1:
        model.trainable_variables[0].assign_add(tf.ones_like(model.trainable_variables[0]))


def anneal(model: Any, step: int) -> None:
    model.layers[0].strength().assign(1.0 + step)


class Annealed(L.Layer):
    """Reads a variable that is not among the model's weights."""

    def __init__(self) -> None:
        super().__init__()
        strength = tf.Variable(1.0, trainable=False)
        self.strength = lambda: strength

    def call(self, inputs: Any) -> Any:
        return inputs * self.strength()


class TestReplays:
    """A run that was broken off goes back to its checkpoint, and makes some of its steps again."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (None, set_another_rate),
            (set_rate, None),
            (set_rate, set_another_rate),
            (None, anneal),
            (anneal, None),
        ],
    )
    def test_from_another_state_they_are_refused(self, tmp_path: Path, first: Any, second: Any) -> None:
        begun = private(tmp_path, Annealed())
        begun.model.compile(begun._optimizer)
        with pytest.raises(KeyboardInterrupt):
            begun.fit(*data(), callbacks=[Every(first, until=3)])
        with pytest.raises(StateMismatch, match=r"step [12] was made before"):
            begun.fit(*data(), callbacks=[Every(second)] if second is not None else [])
        assert not has_state(tmp_path / "state")
        with pytest.raises(BadInputError, match="is gone"):
            begun.fit(*data())

    def test_weights_that_a_callback_sets_are_refused_before_a_step(self, tmp_path: Path) -> None:
        begun = private(tmp_path, Annealed())
        with pytest.raises(BadInputError, match="were set between two steps"):
            begun.fit(*data(), callbacks=[Every(nudge)])

    def test_rows_that_a_callback_changes_in_place_are_not_those_that_are_trained_on(self, tmp_path: Path) -> None:
        """Else a step that is made again would have the same noise on other rows."""
        released = []
        for augmented in (False, True):
            x, y = (np.array(part) for part in data())
            held = private(tmp_path / str(augmented), seed=3, history="public")
            tf.keras.utils.set_random_seed(1)
            held.model.set_weights([tf.ones_like(weight) for weight in held.model.get_weights()])

            def change(_model: Any, _step: int, rows: Any = x, on: bool = augmented) -> None:
                rows += float(on)

            held.fit(x, y, callbacks=[Every(change)])
            released.append(held.model.get_weights())
        for one, other in zip(*released, strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.slow
    @pytest.mark.parametrize("change", [set_rate, anneal, None])
    def test_from_the_same_state_they_are_the_same(self, tmp_path: Path, change: Any) -> None:
        def run(folder: Path, *callbacks: Any) -> Any:
            held = private(folder, Annealed(), seed=3, history="public")
            held.model.compile(held._optimizer)
            tf.keras.utils.set_random_seed(1)
            held.model.set_weights([tf.ones_like(weight) for weight in held.model.get_weights()])
            for callback in callbacks[:-1]:
                with pytest.raises(KeyboardInterrupt):
                    held.fit(*data(), callbacks=[callback])
            assert held.fit(*data(), callbacks=callbacks[-1:]).steps == 4
            return held.model.get_weights()

        whole = run(tmp_path / "whole", Every(change))
        broken = run(tmp_path / "broken", Every(change, until=3), Every(change, until=2), Every(change))
        for one, two in zip(whole, broken, strict=True):
            np.testing.assert_array_equal(one, two)

    @pytest.mark.slow
    def test_a_rate_that_somebody_sets_between_two_fits(self, tmp_path: Path) -> None:
        begun = private(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            begun.fit(*data(), callbacks=[Every(until=2)])
        begun._optimizer.learning_rate.assign(0.02)
        with pytest.raises(StateMismatch, match="step 1 was made before"):
            begun.fit(*data())

    @pytest.mark.slow
    def test_steps_that_were_not_made_may_start_from_anything(self, tmp_path: Path) -> None:
        begun = private(tmp_path)
        begun.fit(*data(), callbacks=[Stop()])
        begun._optimizer.learning_rate.assign(0.02)
        assert begun.fit(*data()).steps == 4

    @pytest.mark.slow
    def test_after_a_restart_of_the_machine_each_step_may_have_been_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun = private(tmp_path)
        begun.fit(*data(), callbacks=[Stop()])
        monkeypatch.setattr(replays, "_boot", lambda: "another")
        begun._optimizer.learning_rate.assign(0.02)
        with pytest.raises(StateMismatch, match="step 3 was made before"):
            begun.fit(*data())

    @pytest.mark.slow_but("a 1 2")
    @pytest.mark.parametrize("content", [None, "", "a 1 2"])
    def test_lost_notes_end_the_run(self, tmp_path: Path, content: str | None) -> None:
        private(tmp_path).fit(*data(), callbacks=[Stop()])
        path = tmp_path / "state" / PROGRESS
        path.unlink()
        if content is not None:
            path.write_text(content)
        with pytest.raises(StateMismatch, match="notes are lost or damaged"):
            private(tmp_path).fit(*data())
        assert not has_state(tmp_path / "state")


@pytest.mark.parametrize(
    "name", ["TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "TF_ENABLE_ONEDNN_OPTS", "processors"]
)
def test_what_cuts_a_sum_otherwise_is_a_fact_of_the_machine(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each of them changes the last bits of a product of matrices, on the same machine."""
    before = checkpoints.machine_facts()
    assert before == checkpoints.machine_facts()
    if name == "processors":  # as in a container, or a job that got fewer of them
        few = set(list(os.sched_getaffinity(0))[1:])
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: few)
    else:
        monkeypatch.setenv(name, "7")
    assert checkpoints.machine_facts() != before
