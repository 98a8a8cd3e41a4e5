"""A Keras model and a plan, with what the trainings of it share: optimizer, losses, key and `state_dir`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.history.history import PrivacyHistory
from privacy_pipeline.dp.history.past import Past
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.rowwise.verdict import NOT_EXAMINED, Verdict
from privacy_pipeline.dp.sampling.sources import Given, given_data
from privacy_pipeline.dp.sampling.store import ExampleStore
from privacy_pipeline.dp.training.checkpoints import Checkpoints, binding_of
from privacy_pipeline.dp.training.choice import Clipper
from privacy_pipeline.dp.training.from_keras.model_losses import ModelLosses, output_names, per_example_loss
from privacy_pipeline.dp.training.ownership import Owner, Uncopied
from privacy_pipeline.dp.training.program import Program, specs_of
from privacy_pipeline.dp.training.run_state import RunState, destroy_state, has_state, prepare
from privacy_pipeline.dp.training.setting import Progress
from privacy_pipeline.dp.training.steps import clipper_of, program_of
from privacy_pipeline.dp.training.training import Training
from privacy_pipeline.errors import BadInputError


class PlannedModel(Uncopied):
    """A Keras model under a plan, before and between its trainings; see `PrivateModel`.

    Attributes:
        verdict: whether the model's examples are proven to stay apart, as the last `examine` or `fit` found it.
    """

    def __init__(
        self,
        *,
        model: Any,
        plan: PrivacyPlan,
        optimizer: Any,
        loss: Any,
        loss_weights: Any,
        seed: int | None,
        virtual_batch_size: int,
        memory_cap: int,
        state_dir: Path | None,
        binding: str,
        history: PrivacyHistory | None,
        remember: bool,
        data_name: str,
        compiled: tuple[Any, Any],
    ) -> None:
        self._model = model
        self._plan = plan
        self._owner = Owner()
        self._training: Training | None = None  # the one under way
        self.verdict = NOT_EXAMINED
        self._optimizer = optimizer
        self._losses = ModelLosses(model, per_example_loss(loss, loss_weights=loss_weights, names=output_names(model)))
        self._loss, self._compiled = loss, compiled
        self._seed = seed
        self._key = _new_key(seed)
        self._state_dir = state_dir
        self._binding = binding
        self._past = Past(model=model, given=history, shared=remember)
        self._data_name = data_name
        self._configured: dict[str, Any] | None = None
        self._largest = virtual_batch_size
        self._memory_cap = memory_cap
        self._progress = Progress()
        self._order: str | None = None  # digest of the data of a plan that counts places in it
        self._norm = None if plan.clipping.adaptive is None else tf.Variable(plan.clipping.norm, trainable=False)

    @property
    def model(self) -> Any:
        """The Keras model. It cannot be set: what is known of one model's weights does not hold for another's."""
        return self._model

    @property
    def plan(self) -> PrivacyPlan:
        """The plan. It cannot be set: steps of two plans compose, and one plan's event does not cover the other's."""
        return self._plan

    def examine(self, x: Any, y: Any = None) -> Verdict:
        """Return whether the model's examples are proven to stay apart; look at shapes and dtypes alone.

        Args:
            x: what `fit` takes; or nest of `tf.TensorSpec` of the inputs, [None, ...].
            y: the same of the labels.

        Raises:
            BadInputError: a row of the model reaches another one, or the model keeps state.
        """
        described = not isinstance(x, ExampleStore) and all(isinstance(one, tf.TypeSpec) for one in tf.nest.flatten(x))
        if described:
            if y is None:
                raise BadInputError(
                    "the inputs are described and the labels are not", fix="give their tf.TensorSpec as y"
                )
            self._clipper(x, y, self._losses)
        else:
            given = given_data(x, y, most=self._most())
            self._clipper(*specs_of(given.store), self._losses_of(given))
        return self.verdict

    def destroy_state(self) -> None:
        """Destroy key and checkpoints of `state_dir`; call this when the result has been committed."""
        if self._state_dir is not None:
            destroy_state(self._state_dir)

    def _most(self) -> int | None:
        """Return the largest number of examples, where the plan states their number."""
        return None if self.plan.users is not None else self.plan.units

    def _losses_of(self, given: Given) -> ModelLosses:
        return replace(self._losses, loss=given.loss(self._losses.loss))

    def _lock(self, folder: Path) -> None:
        if self._progress.used and not has_state(folder):
            raise BadInputError(
                f"{folder}: the state of the run is gone",
                fix="call make_private again; the privacy cost of both trainings adds up",
            )
        prepare(folder)
        self._owner.lock(folder)

    def _checkpoints(
        self,
        data: str,
        program: Program,
        history: dict[str, list[float]],
        *,
        past: PrivacyHistory,
        watched: bool,
    ) -> Checkpoints:
        """Open `state_dir`; the key is the one in it, or a new one. Never one that was used without it."""
        folder = self._state_dir or Path()
        if self._configured is None:  # once: callbacks may change the learning rate
            self._configured = self._optimizer.get_config()
        binding = binding_of(
            graph=program.graph,
            weights=self.model.weights,
            data=data,
            settings=[
                self.plan.digest(),
                self._configured,
                self._largest,
                self._memory_cap,
                self._binding,
                past.to_json(),
            ],
        )
        state = RunState.open_or_create(folder, binding, key=_new_key(self._seed))
        self._key = state.key
        return Checkpoints(
            state=state,
            steps=self.plan.steps,
            variables=[*self.model.weights, *self._optimizer.variables, *program.state],
            # With a schedule, Keras stores the current rate in a variable, which every step overwrites.
            others=[one for one in program.graph.variables if one is not _copied_rate(self._optimizer)],
            history=history,
            watched=watched,
        )

    def _program(self, store: ExampleStore, losses: ModelLosses) -> Program:
        return program_of(
            model=self.model,
            clipper=self._clipper(*specs_of(store), losses),
            optimizer=self._optimizer,
            plan=self.plan,
            store=store,
            largest=self._largest,
            norm=self._norm,
        )

    def _clipper(self, x: Any, y: Any, losses: ModelLosses) -> Clipper:
        clipper = clipper_of(model=self.model, losses=losses, plan=self.plan, x=x, y=y, memory_cap=self._memory_cap)
        self.verdict = clipper.verdict
        return clipper


def _copied_rate(optimizer: Any) -> Any:
    return getattr(optimizer, "_current_learning_rate", None)


def _new_key(seed: int | None) -> RunKey:
    return RunKey.from_system() if seed is None else RunKey.from_seed(seed)
