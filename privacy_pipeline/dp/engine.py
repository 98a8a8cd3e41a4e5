"""Private training with the feel of Keras: `make_private(model, plan)`, then `fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from privacy_pipeline.dp import noise_check
from privacy_pipeline.dp.checkpoints import Checkpoints, binding_of, deterministic_ops
from privacy_pipeline.dp.choice import Clipper
from privacy_pipeline.dp.execution import Execution, event_made
from privacy_pipeline.dp.fit_arguments import (
    Validation,
    callback_list,
    not_covered,
    optimizer_of_callbacks,
    require_as_planned,
    require_same_trained,
)
from privacy_pipeline.dp.graph_state import require_stateless, require_unchanged, snapshot, state_of
from privacy_pipeline.dp.history import Phase, PrivacyHistory
from privacy_pipeline.dp.keras_step import keras_optimizer, require_keras_step
from privacy_pipeline.dp.losses import ModelLosses, per_example_loss
from privacy_pipeline.dp.past import Past
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.program import Program, finite_norm, specs_of
from privacy_pipeline.dp.randomness import RunKey
from privacy_pipeline.dp.rowwise.sizes import LARGEST
from privacy_pipeline.dp.rowwise.verdict import NOT_EXAMINED, Verdict
from privacy_pipeline.dp.run_state import RunState, destroy_state, has_state
from privacy_pipeline.dp.steps import PrivateSteps, clipper_of, program_of
from privacy_pipeline.dp.store import ExampleStore
from privacy_pipeline.dp.users import UserIndex
from privacy_pipeline.dp.validator import require_private
from privacy_pipeline.errors import BadInputError

_MEMORY_CAP = 256 * 2**20
_LARGEST_BATCH = 6144  # Poisson batches of 4096 expected examples fit in one piece
_SAMPLING = "sampling: NumPy Philox4x64-10 with a 128-bit key"


class PrivateModel:
    """A Keras model under a privacy plan. Made by `make_private`.

    Attributes:
        model: the Keras model; its weights are what is trained.
        plan: the plan.
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
    ) -> None:
        self.model = model
        self._plan = plan
        self._running = False
        self.verdict = NOT_EXAMINED
        self._optimizer = optimizer
        self._losses = ModelLosses(model, per_example_loss(loss, loss_weights=loss_weights))
        self._seed = seed
        self._key = _new_key(seed)
        self._state_dir = state_dir
        self._binding = binding
        self._past, self._remember = Past(model=model, given=history), remember
        self._data_name = data_name
        self._configured: dict[str, Any] | None = None
        self._largest = virtual_batch_size
        self._memory_cap = memory_cap
        self._begun = 0
        self._used = False  # a step was made under the key, whatever a checkpoint goes back to
        self._norm = None if plan.clipping.adaptive is None else tf.Variable(plan.clipping.norm, trainable=False)

    @property
    def plan(self) -> PrivacyPlan:
        """The plan. It cannot be set: steps of two plans compose, and one plan's event says nothing of the other's."""
        return self._plan

    def examine(self, x: Any, y: Any = None) -> Verdict:
        """Whether the model's examples are proven to stay apart; looks at shapes and dtypes alone.

        Args:
            x: what `fit` takes; or nest of `tf.TensorSpec` of the inputs, [None, ...].
            y: the same of the labels.

        Raises:
            BadInputError: a row of the model reaches another one, or the model keeps state.
        """
        described = not isinstance(x, ExampleStore) and all(isinstance(one, tf.TypeSpec) for one in tf.nest.flatten(x))
        if described and y is None:
            raise BadInputError("the inputs are described and the labels are not", fix="give their tf.TensorSpec as y")
        self._clipper(*((x, y) if described else specs_of(_store_of(x, y))))
        return self.verdict

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        users: Any = None,
        callbacks: Sequence[Any] = (),
        verbose: int = 0,
        validation_data: Any = None,
        **keras: Any,
    ) -> Execution:
        """Trains for the steps of the plan.

        No exact loss or metric of the data is computed: callbacks get what `validation_data` gives.
        `model.stop_training` ends the run after the step; the steps that were not made remain for another `fit`.

        Args:
            x: an `ExampleStore`, or inputs: an array [examples, ...], or a dict or tuple of arrays.
            y: labels in the same forms; not with a store.
            users: owner of each example, numbers or strings, [examples]; for a plan that protects users.
            callbacks: Keras callbacks. They are told of epochs of `plan.steps_per_epoch` steps.
            verbose: 1 for a bar of the steps, 2 for a line an epoch, as in Keras.
            validation_data: (x, y) of public data, scored after each epoch by what the model was compiled with. Rows
                that are to be protected do not belong here: their scores have no noise.
            keras: other arguments of Keras' `fit`. `epochs`, `steps_per_epoch` and `batch_size` may repeat what the
                plan says; the others have no meaning here.

        Raises:
            BadInputError: the data does not fit the plan, the model breaks the bound, the plan's steps are used up, an
                argument of Keras says something else than the plan, or a callback calls `fit` of the same object, whose
                steps it would make again with the same noise.
            PipelineError: the noise is not the one that is accounted (no data was used), or the weights are no longer
                finite.
            StateMismatch: `state_dir` holds the state of another run; it is destroyed, and must be charged.
        """
        if self._running:
            raise BadInputError(
                "fit was called from a callback of its own fit: it would make steps again, with the same noise",
                fix="call make_private again to train more; the privacy cost of both adds up",
            )
        require_as_planned(self.plan, keras)
        scored = Validation(model=self.model, data=validation_data)
        self._running = True
        try:
            return self._fit(x, y, users=users, callbacks=callbacks, verbose=verbose, scored=scored)
        finally:
            self._running = False

    def _fit(
        self, x: Any, y: Any, *, users: Any, callbacks: Sequence[Any], verbose: int, scored: Validation
    ) -> Execution:
        store = _store_of(x, y)
        if users is not None:
            if self.plan.users is None:
                raise BadInputError("the plan protects examples, not users", fix="give the plan a UserBound")
            store = replace(store, users=UserIndex.from_owners(users))
        if self._begun >= self.plan.steps:
            raise BadInputError(
                f"all {self.plan.steps} steps of the plan have been made", fix="make a new plan, and account for both"
            )
        past = self._past.history(restored=self._state_dir is not None)
        noise_check.require_noise(self.plan)
        history: dict[str, list[float]] = {"weights_norm": []}
        if self.plan.clipping.adaptive is not None:
            history["clipping_norm"] = []
        program = self._program(store)
        written = [*self.model.trainable_variables, *state_of(self._optimizer), *program.state]
        require_stateless(program.graph, model=self.model, writes=written, part="its private step")
        checkpoints = None
        if self._state_dir is not None:
            checkpoints = self._checkpoints(store.digest(), program, history, past=past, watched=bool(callbacks))
            self._begun = checkpoints.begin()
        before = snapshot(self.model)
        steps = PrivateSteps.of(program=program, plan=self.plan, store=store, key=self._key, model=self.model)
        steps.watcher.catch_up(self._begun, steps.reader.sampler)
        called = callback_list(self.model, callbacks, self.plan, verbose=verbose)

        def epoch_ends() -> dict[str, float]:
            if callbacks:  # which may save the weights
                self._keep(past)
            return scored.logs()

        exact = nullcontext() if checkpoints is None else deterministic_ops()
        try:
            with exact, optimizer_of_callbacks(self.model, self._optimizer):
                self._loop(steps, called, history, checkpoints, epoch_ends)
        finally:  # a run that is broken off has released what it made
            self._keep(past)
        require_unchanged(before)
        return Execution(
            plan=self.plan,
            steps=self._begun,
            largest_participation=steps.watcher.largest,
            seed_fixed=self._key.seed_fixed,
            generator=f"noise: {steps.reader.noise.generator}; {_SAMPLING}; "
            + ("both FROM A FIXED SEED, not private" if self._key.seed_fixed else "both from the OS' entropy"),
            cryptographic=not self._key.seed_fixed,
            stopped_early=self._begun < self.plan.steps,
            history=history,
            resumed_at=None if checkpoints is None else checkpoints.resumed_at,
            verdict=self.verdict,
            not_covered=not_covered(callbacks=bool(callbacks), validation=scored.given),
            privacy_history=past.with_phase(self._phase()),
        )

    def _phase(self) -> Phase:
        """What was made so far."""
        return Phase(
            id=self._key.derive("privacy history", 8).hex(),
            event=event_made(self.plan, self._begun, seed_fixed=self._key.seed_fixed),
            steps=self._begun,
            relation=self.plan.relation,
            unit=self.plan.unit,
            data=self._data_name,
        )

    def _keep(self, past: PrivacyHistory) -> None:
        """Keeps the history of the weights as they are now."""
        if self._begun:
            self._past.left(past, past.with_phase(self._phase()), remember_them=self._remember)

    def destroy_state(self) -> None:
        """Destroys key and checkpoints of `state_dir`; call it when the result has been committed."""
        if self._state_dir is not None:
            destroy_state(self._state_dir)

    def _checkpoints(
        self,
        data: str,
        program: Program,
        history: dict[str, list[float]],
        *,
        past: PrivacyHistory,
        watched: bool,
    ) -> Checkpoints:
        """Opens `state_dir`; the key is the one in it, or a new one. Never one that was used without it."""
        folder = self._state_dir or Path()
        if self._used and not has_state(folder):
            raise BadInputError(
                f"{folder}: the state of the run is gone",
                fix="call make_private again; the privacy cost of both trainings adds up",
            )
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

    def _program(self, store: ExampleStore) -> Program:
        return program_of(
            model=self.model,
            clipper=self._clipper(*specs_of(store)),
            optimizer=self._optimizer,
            plan=self.plan,
            store=store,
            largest=self._largest,
            norm=self._norm,
        )

    def _clipper(self, x: Any, y: Any) -> Clipper:
        clipper = clipper_of(
            model=self.model, losses=self._losses, plan=self.plan, x=x, y=y, memory_cap=self._memory_cap
        )
        self.verdict = clipper.verdict
        return clipper

    def _loop(
        self,
        steps: PrivateSteps,
        callbacks: Any,
        history: dict[str, list[float]],
        checkpoints: Checkpoints | None,
        epoch_ends: Callable[[], dict[str, float]],
    ) -> None:
        """Runs the remaining steps; `epoch_ends` gives what callbacks are told at the end of an epoch."""
        length, first, program = self.plan.steps_per_epoch, self._begun, steps.program
        self.model.stop_training = False
        callbacks.on_train_begin()
        for step, batch in steps.reader.from_step(first):
            if step % length == 0 or step == first:
                callbacks.on_epoch_begin(step // length)
            callbacks.on_train_batch_begin(step % length)
            if checkpoints is not None:
                checkpoints.before(step)
            # Before the data is used: a step that is broken off has been counted.
            self._begun, self._used = step + 1, True
            steps.make(step, batch)
            if checkpoints is not None:
                checkpoints.after()
            callbacks.on_train_batch_end(step % length)
            last = step + 1 == self.plan.steps or self.model.stop_training
            if (step + 1) % length == 0 or last:
                history["weights_norm"].append(finite_norm(self.model, step + 1))
                if program.norm is not None:
                    history["clipping_norm"].append(float(program.norm))
                callbacks.on_epoch_end(step // length, epoch_ends())
                require_same_trained(self.model, program.variables)
            last = last or self.model.stop_training
            if checkpoints is not None:
                checkpoints.made(step + 1, last=last)
            if last:
                break
        callbacks.on_train_end()


def _store_of(x: Any, y: Any) -> ExampleStore:
    return x if isinstance(x, ExampleStore) else ExampleStore.from_arrays(x, y)


def make_private(
    model: Any,
    plan: PrivacyPlan,
    *,
    optimizer: Any = None,
    loss: Any = None,
    loss_weights: Any = None,
    seed: int | None = None,
    virtual_batch_size: int = _LARGEST_BATCH,
    memory_cap: int = _MEMORY_CAP,
    state_dir: Path | None = None,
    binding: str = "",
    history: PrivacyHistory | Literal["public", "none"] | None = None,
    remember: bool = True,
    data_name: str = "",
) -> PrivateModel:
    """Puts a Keras model under a privacy plan.

    Args:
        model: built Keras model: functional, Sequential or subclassed.
        plan: the plan.
        optimizer: Keras optimizer or its name; without it, the one that the model was compiled with.
        loss: Keras loss, its name, or a function that gives one number for each example; without it, the compiled one.
        loss_weights: weights of several outputs' losses; with the compiled loss, the compiled ones.
        seed: fixes all randomness, and with it voids the guarantee; for tests.
        virtual_batch_size: examples that are worked on at once, up to 8,192; larger batches are cut. Changes memory
            alone.
        memory_cap: bytes for per-example gradients of layers without a clipping rule.
        state_dir: folder of the run's key and checkpoints. A run that is killed goes on from there, to the same
            weights bit for bit, when the same call is made again; `destroy_state` ends that. Without it, the key lives
            in memory alone.
        binding: what else the key must never be used across, such as a digest of the user's code. Plan, graph of a
            step, optimizer, data, software and processor are bound in any case; what callbacks do to a step that is
            made again is compared.
        history: what is known of the weights, where it cannot be found: their `PrivacyHistory`; "public" where they
            were made from public data alone; "none" where they were made from data that nothing protects, and no
            guarantee holds. New weights, and weights that a private training left, need none.
        remember: whether the weights are known again by their bits, in this process and by a file in the folder of
            `history_store`; not needed where a ledger accounts for the data.
        data_name: what the history calls the data. Trainings compose whatever their names are.

    Raises:
        BadInputError: the model cannot be trained privately, there is no optimizer or loss, or its learning rate is
            out of range.
    """
    require_private(model)
    require_keras_step(model)
    optimizer = optimizer if optimizer is not None else getattr(model, "optimizer", None)
    if optimizer is None:
        raise BadInputError("an optimizer is needed", fix='make_private(model, plan, optimizer="sgd", loss=...)')
    optimizer = keras_optimizer(optimizer, steps=plan.steps)
    if loss is None:
        loss = getattr(model, "loss", None)
        compiled = getattr(model, "compiled_loss", None)
        loss_weights = loss_weights if loss_weights is not None else getattr(compiled, "_user_loss_weights", None)
    if not 1 <= virtual_batch_size <= LARGEST or memory_cap < 1:
        raise BadInputError(f"virtual_batch_size must lie between 1 and {LARGEST}, and memory_cap be 1 or more")
    return PrivateModel(
        model=model,
        plan=plan,
        optimizer=optimizer,
        loss=loss,
        loss_weights=loss_weights,
        seed=seed,
        virtual_batch_size=virtual_batch_size,
        memory_cap=memory_cap,
        state_dir=state_dir,
        binding=binding,
        history=PrivacyHistory(origin=history) if isinstance(history, str) else history,
        remember=remember,
        data_name=data_name,
    )


def _copied_rate(optimizer: Any) -> Any:
    return getattr(optimizer, "_current_learning_rate", None)


def _new_key(seed: int | None) -> RunKey:
    return RunKey.from_system() if seed is None else RunKey.from_seed(seed)
