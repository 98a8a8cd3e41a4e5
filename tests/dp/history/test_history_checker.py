"""Random histories of weights: what is claimed of them is never less than what a recorder of releases saw.

The steps are stood in for by ones that are fast and that note each release: its noise, and all that decides the sum
under it. All else is the engine's: keys, samples, checkpoints, counts, histories. Two things must hold. The same noise
covers the same sum alone; and an epsilon that is claimed is that of all releases that the weights come from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
import tensorflow as tf
from dp_accounting import rdp

from privacy_pipeline.dp import PrivacyHistory, PrivacyPlan, make_private
from privacy_pipeline.dp.history import history, history_store
from privacy_pipeline.dp.rowwise.verdict import NOT_EXAMINED
from privacy_pipeline.dp.training import planned_model, private_model
from privacy_pipeline.dp.training.run_state import StateMismatch
from privacy_pipeline.errors import BadInputError

L = tf.keras.layers
UNITS, BATCH, STEPS, DELTA = 20, 5, 5, 1e-5
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(UNITS, 2)).astype(np.float32), RNG.normal(size=(UNITS, 1)).astype(np.float32)
NOISES = (1.0, 1.5, 2.5)


@cache
def plan(noise: float) -> PrivacyPlan:
    numbers = {"units": UNITS, "expected_batch_size": BATCH, "steps": STEPS, "clipping_norm": 1.0}
    return PrivacyPlan.calibrated(noise_multiplier=noise, delta=DELTA, **numbers)


ORDERS = [2, 3, 4, 6, 8, 12, 16, 32]  # few, since the checker asks for many epsilons


def epsilon_of(event: Any, *, delta: float, relation: Any) -> float:
    """Epsilon by dp_accounting alone."""
    return float(rdp.RdpAccountant(ORDERS).compose(event).get_epsilon(delta))


@cache
def truth(counts: tuple[tuple[float, int], ...]) -> float:
    """Epsilon of (noise multiplier, releases) together."""
    parts = [
        dp_accounting.SelfComposedDpEvent(
            dp_accounting.PoissonSampledDpEvent(BATCH / UNITS, dp_accounting.GaussianDpEvent(noise)), many
        )
        for noise, many in counts
    ]
    return epsilon_of(dp_accounting.ComposedDpEvent(parts), delta=DELTA, relation=None) if counts else 0.0


@dataclass
class Recorder:
    """What was released, by its noise, and the weights that hold it."""

    sums: dict[str, str] = field(default_factory=dict)
    noises: dict[str, float] = field(default_factory=dict)
    of_model: dict[int, set[str]] = field(default_factory=dict)

    def observe(self, model: Any, noise: Any, deciding: list[bytes], multiplier: float) -> None:
        name, decided = (hashlib.sha256(b"".join(parts)).hexdigest() for parts in ([noise.tobytes()], deciding))
        assert self.sums.setdefault(name, decided) == decided, "one noise covers two sums"
        self.noises[name] = multiplier
        self.of_model.setdefault(id(model), set()).add(name)

    def epsilon(self, releases: set[str]) -> float:
        return truth(tuple(sorted(Counter(self.noises[one] for one in releases).items())))


class Program:
    """Stands in for the compiled step: notes the release and moves the weights by it."""

    def __init__(self, recorder: Recorder, model: Any, optimizer: Any, multiplier: float) -> None:
        self.recorder, self.model, self.optimizer, self.multiplier = recorder, model, optimizer, multiplier
        self.graph, self.state, self.norm, self.variables = tf.Graph(), [], None, model.trainable_variables
        self.graph.variables = (optimizer._learning_rate,)  # the step reads it

    def require_as_proven(self, traced: Any = None) -> None:
        """Nothing is traced."""

    def run(self, x: Any, y: Any, present: Any, noise: Any, seed: Any) -> None:
        rate = float(self.optimizer.learning_rate)
        weights = [variable.numpy() for variable in self.model.trainable_variables]
        deciding = [*(value.tobytes() for value in weights), x.tobytes(), y.tobytes(), np.float64(rate).tobytes()]
        self.recorder.observe(self.model, noise, deciding, self.multiplier)
        start = 0
        for variable, value in zip(self.model.trainable_variables, weights, strict=True):
            part = noise[start : start + value.size].reshape(value.shape)
            variable.assign(value - rate * (part + np.float32(x.sum())))
            start += value.size


class After(tf.keras.callbacks.Callback):  # type: ignore[misc]
    """Does something after some steps."""

    def __init__(self, steps: int, act: Callable[[Any], None]) -> None:
        super().__init__()
        self.left, self.act = steps, act

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            self.act(self.model)


def kill(model: Any) -> None:
    raise KeyboardInterrupt


def stop(model: Any) -> None:
    model.stop_training = True


def network() -> Any:
    return tf.keras.Sequential([L.Input((2,)), L.Dense(2), L.Dense(1)])


class World:
    """Models, what is claimed of each, and the releases that each of them comes from."""

    def __init__(self, recorder: Recorder, folder: Path, seed: int) -> None:
        self.recorder, self.folder, self.rng = recorder, folder, np.random.default_rng(seed)
        self.models, self.claimed, self.begun = [network()], {}, {}
        self.kept: list[PrivacyHistory] = []
        self.told: list[str] = []

    def run(self, actions: int) -> None:
        for _ in range(actions):
            place = int(self.rng.integers(len(self.models)))
            ways = [self.fit, self.fit, self.go_on, self.reload, self.copy, self.part, self.by_hand, self.by_steps]
            act = self.rng.choice([*ways, self.at_once])
            self.told.append(f"{act.__name__} {place}")
            act(place)
        both = PrivacyHistory().together(*self.kept)
        every = {one for releases in self.recorder.of_model.values() for one in releases}
        seen = {one for execution in self.claimed.values() for one in execution[1]}
        assert seen <= every
        assert both.epsilon(DELTA) >= (1 - 1e-9) * self.recorder.epsilon(seen), self.told

    def releases(self, place: int) -> set[str]:
        return self.recorder.of_model.setdefault(id(self.models[place]), set())

    def _callbacks(self, place: int, private: Any, x: Any) -> list[Any]:
        chosen = self.rng.choice(["none", "stop", "kill", "fit", "schedule", "set", "other", "augment"])
        steps = int(self.rng.integers(1, STEPS))
        if chosen == "set":
            return [After(steps, self._sets(place))]
        if chosen == "other":
            return [After(steps, self._refused(place))]
        if chosen == "augment":

            def augment(_model: Any) -> None:
                x[:] += 1  # in place: the rows that the engine has are its own

            ends = [After(int(self.rng.integers(2, STEPS)), kill)] if self.rng.random() < 0.5 else []
            return [After(steps, augment), *ends]
        if chosen == "schedule":
            rate = float(self.rng.choice([0.1, 0.5]))
            return [tf.keras.callbacks.LearningRateScheduler(lambda epoch: rate), After(steps, kill)]

        def again(model: Any) -> None:
            with pytest.raises(BadInputError, match="under way"):
                private.fit(X, Y)

        return {"none": [], "stop": [After(steps, stop)], "kill": [After(steps, kill)], "fit": [After(steps, again)]}[
            chosen
        ]

    def _sets(self, place: int) -> Callable[[Any], None]:
        """Puts the weights of another model in the place of those that are trained."""
        other = int(self.rng.integers(len(self.models)))
        weights, releases = self.models[other].get_weights(), set(self.releases(other))

        def act(model: Any) -> None:
            model.set_weights(weights)
            self.releases(place).update(releases)

        return act

    def _refused(self, place: int) -> Callable[[Any], None]:
        """Begins a training of the same weights by another object."""

        def act(_model: Any) -> None:
            with pytest.raises(BadInputError, match="another private model trains"):
                make_private(self.models[place], plan(1.0), optimizer="sgd", loss="mse", history="public").fit(X, Y)

        return act

    def _private(self, place: int, **more: Any) -> Any:
        if self.rng.random() < 0.4:
            more["state_dir"] = self.folder / f"state {place}"
        optimizer = tf.keras.optimizers.SGD(float(self.rng.choice([0.1, 0.2])))
        noise = float(self.rng.choice(NOISES))
        return make_private(self.models[place], plan(noise), optimizer=optimizer, loss="mse", **more)

    def fit(self, place: int) -> None:
        self.begun[place] = self._private(place)
        self._made(place, self.begun[place])
        if self.rng.random() < 0.5:
            self.go_on(place)

    def go_on(self, place: int) -> None:
        if place in self.begun:
            self._made(place, self.begun[place])

    def by_steps(self, place: int) -> None:
        private = self._private(place)

        def work() -> Any:
            with private.begin(X, Y) as training:
                for _ in range(int(self.rng.integers(0, STEPS))):
                    training.step()
            return training.execution

        self._checked(place, work)

    def _made(self, place: int, private: Any) -> None:
        x = X.copy()
        self._checked(place, lambda: private.fit(x, Y, callbacks=self._callbacks(place, private, x)))

    def _checked(self, place: int, work: Callable[[], Any]) -> None:
        try:
            execution = work()
        except (KeyboardInterrupt, StateMismatch):
            return
        except BadInputError as error:
            known = ("have been made", "nothing is known", "were changed since", "state of the run is gone")
            # Weights that were set and refused are there: what they come from stands in `of_model` by now.
            assert any(one in error.message for one in known), error
            return
        claimed, releases = execution.epsilon(), self.releases(place)
        assert claimed >= (1 - 1e-9) * self.recorder.epsilon(releases), (self.told, execution.privacy_history)
        self.claimed[place] = execution, set(releases)
        self.kept.append(execution.privacy_history)

    def _replace(self, place: int, model: Any) -> None:
        self.recorder.of_model[id(model)] = set(self.releases(place))
        self.models[place] = model
        self.begun.pop(place, None)

    def reload(self, place: int) -> None:
        model = network()
        path = self.folder / "w.weights.h5"
        self.models[place].save_weights(path)
        model.load_weights(path)
        self._replace(place, model)

    def copy(self, place: int) -> None:
        model = network()
        model.set_weights(self.models[place].get_weights())
        self.recorder.of_model[id(model)] = set(self.releases(place))
        self.models.append(model)

    def part(self, place: int) -> None:
        """A model that takes over one layer of another one."""
        model = network()
        layer = int(self.rng.integers(2))
        model.layers[layer].set_weights(self.models[place].layers[layer].get_weights())
        self.recorder.of_model[id(model)] = set(self.releases(place))
        self.models.append(model)

    def at_once(self, place: int) -> None:
        """Two objects on one model: the second one waits until the first is done, and composes then."""
        first, second = self._private(place), self._private(place)

        def work() -> Any:
            with first.begin(X, Y) as training:
                training.step()
                with pytest.raises(BadInputError, match=r"another private model trains|another training uses"):
                    second.begin(X, Y)
                training.step()
            return training.execution

        self._checked(place, work)

    def by_hand(self, place: int) -> None:
        """Weights that nothing knows: the next training asks, and is told."""
        model = network()
        model.set_weights([value + 0.5 for value in self.models[place].get_weights()])
        known = self.claimed.get(place)
        if known is None or known[1] != self.releases(place):
            return
        self._replace(place, model)
        with pytest.raises(BadInputError, match="nothing is known"):
            make_private(model, plan(1.0), optimizer="sgd", loss="mse").fit(X, Y)
        self._made(place, self._private(place, history=known[0].privacy_history))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
    made = Recorder()

    class Clipper:
        verdict = NOT_EXAMINED

    def program_of(*, model: Any, optimizer: Any, plan: PrivacyPlan, **rest: Any) -> Program:
        return Program(made, model, optimizer, plan.noise.multiplier)

    monkeypatch.setattr(planned_model, "program_of", program_of)
    monkeypatch.setattr(planned_model, "clipper_of", lambda **rest: Clipper())
    monkeypatch.setattr(private_model, "require_stateless", lambda graph, **rest: None)
    monkeypatch.setattr(private_model.noise_check, "require_noise", lambda plan: None)
    monkeypatch.setattr(planned_model, "binding_of", _binding)
    monkeypatch.setattr(history, "epsilon_of", epsilon_of)
    monkeypatch.setenv(history_store.FOLDER, str(tmp_path / "histories"))
    monkeypatch.setattr(history_store, "_KNOWN", {})
    return made


def _binding(*, graph: Any, weights: Any, data: str, settings: Any) -> str:
    return hashlib.sha256(f"{data} {settings}".encode()).hexdigest()


@pytest.mark.slow_but("0", "12", "24", "37", "49")
@pytest.mark.parametrize("seed", range(50))
def test_no_history_claims_less_than_was_released(recorder: Recorder, tmp_path: Path, seed: int) -> None:
    World(recorder, tmp_path, seed).run(8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50, 2050))
def test_no_long_history_claims_less_than_was_released(recorder: Recorder, tmp_path: Path, seed: int) -> None:
    World(recorder, tmp_path, seed).run(14)
