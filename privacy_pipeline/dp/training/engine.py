"""Private training with the feel of Keras: `make_private(model, plan)`, then `fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import tensorflow as tf

from privacy_pipeline.dp.checks import noise_check
from privacy_pipeline.dp.checks.validator import require_private
from privacy_pipeline.dp.graphs.graph_state import require_stateless, state_of
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.history.history import PrivacyHistory
from privacy_pipeline.dp.history.past import Past
from privacy_pipeline.dp.history.saved_models import save_history
from privacy_pipeline.dp.mechanism.mechanism import require_whole
from privacy_pipeline.dp.mechanism.sampling import FixedPartition
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.rowwise.sizes import LARGEST
from privacy_pipeline.dp.rowwise.verdict import NOT_EXAMINED, Verdict
from privacy_pipeline.dp.sampling.sources import Given, given_data
from privacy_pipeline.dp.sampling.store import ExampleStore
from privacy_pipeline.dp.sampling.users import UserIndex
from privacy_pipeline.dp.training.checkpoints import Checkpoints, binding_of
from privacy_pipeline.dp.training.choice import Clipper
from privacy_pipeline.dp.training.execution import Execution
from privacy_pipeline.dp.training.fit_arguments import (
    Validation,
    callback_list,
    keras_callbacks,
    not_covered,
    optimizer_of_callbacks,
    refuse_positional,
    require_as_planned,
)
from privacy_pipeline.dp.training.keras_step import (
    keras_optimizer,
    require_arguments,
    require_keras_step,
    require_kinds,
)
from privacy_pipeline.dp.training.model_losses import ModelLosses, output_names, per_example_loss
from privacy_pipeline.dp.training.ownership import Owner, Uncopied
from privacy_pipeline.dp.training.program import Program, specs_of
from privacy_pipeline.dp.training.run_state import RunState, destroy_state, has_state, prepare
from privacy_pipeline.dp.training.steps import PrivateSteps, clipper_of, program_of
from privacy_pipeline.dp.training.training import SETS_NOTHING, Progress, Setting, Training
from privacy_pipeline.errors import BadInputError

_MEMORY_CAP = 256 * 2**20
_LARGEST_BATCH = 6144  # Poisson batches of 4096 expected examples fit in one piece


class PrivateModel(Uncopied):
    """A Keras model under a privacy plan. Made by `make_private`.

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

    def fit(
        self,
        x: Any,
        y: Any = None,
        *positional: Any,
        users: Any = None,
        callbacks: Any = None,
        verbose: int = 0,
        validation_data: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        **keras: Any,
    ) -> Execution:
        """Train for the steps of the plan.

        No exact loss or metric of the data is computed: callbacks get what `validation_data` gives.
        `model.stop_training` ends the run after the step; the steps that were not made remain for another `fit`.

        Args:
            x: an `ExampleStore`; inputs as arrays, tensors, tables of pandas or Arrow, or dicts or tuples of those; or
                batches of (x, y) or (x, y, sample_weight), which are read once: a `tf.data.Dataset`, a Keras
                `Sequence`, a generator. See `sources.given_data`.
            y: labels in the same forms; not with a store or batches.
            positional: nothing; what follows is given by name.
            users: owner of each example, numbers or strings, [examples]; for a plan that protects users.
            callbacks: Keras callbacks. They are called for epochs of `plan.steps_per_epoch` steps.
            verbose: 1 for a bar of the steps, 2 for a line an epoch, as in Keras.
            validation_data: (x, y), (x, y, sample_weight) or a `tf.data.Dataset` of public data, scored after each
                epoch by what the model was compiled with. Rows that are to be protected do not belong here: their
                scores have no noise.
            sample_weight: public weight of each example, or one that follows from the example itself.
            class_weight: public weight by class number.
            keras: other arguments of Keras' `fit`. `epochs`, `steps_per_epoch` and `batch_size` may repeat the
                plan's numbers; the others have no meaning here, and may be what they are by default.

        Raises:
            BadInputError: the data does not fit the plan, the model breaks the bound, the plan's steps are used up, an
                argument of Keras differs from the plan, or a callback calls `fit` of the same object, whose steps it
                would make again with the same noise.
            PipelineError: the noise is not the one that is accounted (no data was used), or the weights are no longer
                finite.
            StateMismatch: `state_dir` holds the state of another run; it is destroyed, and must be charged.
        """
        refuse_positional(positional)
        require_as_planned(self.plan, keras)
        self._require_same_compiled()
        called = keras_callbacks(callbacks)
        scored = Validation(model=self.model, data=validation_data)
        more = {"sample_weight": sample_weight, "class_weight": class_weight}
        watched = any(not getattr(one, SETS_NOTHING, False) for one in called)
        with self.begin(x, y, users=users, watched=watched, **more) as training:

            def epoch_ends() -> dict[str, float]:
                if called:  # which may save the weights
                    training.keep()
                return scored.logs()

            training.run(callback_list(self.model, called, self.plan, verbose=verbose), epoch_ends=epoch_ends)
            made = training.execution
        return replace(made, not_covered=not_covered(callbacks=bool(called), validation=scored.given))

    def begin(
        self,
        x: Any,
        y: Any = None,
        *,
        users: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        watched: bool = True,
    ) -> Training:
        """Return a training whose steps are made one by one, for a loop of one's own; see `Training`.

        Args:
            x: as of `fit`.
            y: as of `fit`.
            users: as of `fit`.
            sample_weight: as of `fit`.
            class_weight: as of `fit`.
            watched: whether code of the caller's runs between steps.

        Raises:
            BadInputError: as of `fit`.
            PipelineError: as of `fit`.
            StateMismatch: as of `fit`.
        """
        with self._owner.begins():
            given = given_data(x, y, sample_weight=sample_weight, class_weight=class_weight, most=self._most())
            if watched and self._state_dir is not None:
                given = replace(given, store=given.store.kept())  # a step that is made again is made of the same rows
            training = self._training = self._begun_on(given, users=users, watched=watched)
        return training

    def _most(self) -> int | None:
        """Return the largest number of examples, where the plan states their number."""
        return None if self.plan.users is not None else self.plan.units

    def _losses_of(self, given: Given) -> ModelLosses:
        return replace(self._losses, loss=given.loss(self._losses.loss))

    def _begun_on(self, given: Given, *, users: Any, watched: bool) -> Training:
        store = given.store
        if users is not None:
            if self.plan.users is None:
                raise BadInputError("the plan protects examples, not users", fix="give the plan a UserBound")
            store = replace(store, users=UserIndex.from_owners(users))
        if self._progress.begun >= self.plan.steps:
            raise BadInputError(
                f"all {self.plan.steps} steps of the plan have been made", fix="make a new plan, and account for both"
            )
        self._require_same_order(store)
        self._owner.claim(self.model.trainable_variables)
        past = self._past.history(restored=self._state_dir is not None)
        noise_check.require_noise(self.plan)
        history: dict[str, list[float]] = {"weights_norm": []}
        if self.plan.clipping.adaptive is not None:
            history["clipping_norm"] = []
        program = self._program(store, self._losses_of(given))
        past = past.together(self._past.of_optimizer(state_of(self._optimizer)))
        written = [*self.model.trainable_variables, *state_of(self._optimizer), *program.state]
        require_stateless(program.graph, model=self.model, writes=written, part="its private step")
        checkpoints, replaced = None, PrivacyHistory()
        if self._state_dir is not None:
            replaced = self._past.replaced()
            self._lock(self._state_dir)
            checkpoints = self._checkpoints(store.digest(), program, history, past=past, watched=watched)
            self._progress.begun = checkpoints.begin()
        steps = PrivateSteps.of(program=program, plan=self.plan, store=store, key=self._key, model=self.model)
        steps.watcher.catch_up(self._progress.begun, steps.reader.sampler)
        setting = Setting(
            model=self.model,
            plan=self.plan,
            key=self._key,
            optimizer=self._optimizer,
            program=program,
            steps=steps,
            checkpoints=checkpoints,
            verdict=self.verdict,
            past=self._past,
            before=past,
            replaced=replaced,
            data_name=self._data_name,
            watched=watched,
        )
        return Training(setting, self._progress, history=history, owner=self._owner, ended=self._ended)

    def _require_same_order(self, store: ExampleStore) -> None:
        """Compare the data with that of the first training, where the plan bounds how often each place is used.

        Raises:
            BadInputError: it is other data, or in another order.
        """
        if self._state_dir is not None or not isinstance(self.plan.sampling, FixedPartition):
            return  # a state_dir is bound to its data, and other sampling counts no places
        digest = store.digest()
        if self._progress.used and digest != self._order:
            raise BadInputError(
                "the data is not that of the first fit, or in another order, and a fixed partition counts how often "
                "each place of it was used",
                fix="give the same data in the same order (no shuffle), or call make_private again: both add up",
            )
        self._order = digest

    def _require_same_compiled(self) -> None:
        """Refuse a model that was compiled after make_private took its optimizer or its loss.

        Raises:
            BadInputError: it was.
        """
        compiled = (getattr(self.model, "optimizer", None), getattr(self.model, "compiled_loss", None))
        for what, then, now in zip(("optimizer", "loss"), self._compiled, compiled, strict=True):
            if then is not None and now is not then:
                raise BadInputError(
                    f"model '{self.model.name}' was compiled after make_private, which took its {what} before",
                    fix="call make_private again; the privacy cost of both adds up",
                )

    def _ended(self) -> None:
        self._training = None
        self._owner.ended()

    def _known(self) -> PrivacyHistory:
        """Return the history of the weights as they are now, also between two steps."""
        if self._training is not None:
            self._training.keep()
        return self._past.now()

    def save(self, path: Path | str, **keras: Any) -> None:
        """Save the model as `model.save` does, with the privacy history of its weights inside; see `load_model`.

        Args:
            path: `.keras` file, HDF5 file, or the folder of a SavedModel.
            keras: other arguments of `model.save`.

        Raises:
            BadInputError: nothing is known of the weights, or the file cannot be written.
        """
        self._save(self.model.save, path, keras)

    def save_weights(self, path: Path | str, **keras: Any) -> None:
        """Save the weights as `model.save_weights` does, with their privacy history inside; see `load_weights`.

        Args:
            path: HDF5 file, or the prefix of a checkpoint.
            keras: other arguments of `model.save_weights`.

        Raises:
            BadInputError: nothing is known of the weights, or the file cannot be written.
        """
        self._save(self.model.save_weights, path, keras)

    def _save(self, write: Callable[..., None], path: Path | str, keras: Mapping[str, Any]) -> None:
        history = self._known()
        if self.model.optimizer is None:  # it was not compiled: Keras would not save the optimizer
            self.model.compile(optimizer=self._optimizer, loss=self._loss)
        with optimizer_of_callbacks(self.model, self._optimizer):
            write(path, **keras)
        save_history(self.model, path, history)

    def destroy_state(self) -> None:
        """Destroy key and checkpoints of `state_dir`; call this when the result has been committed."""
        if self._state_dir is not None:
            destroy_state(self._state_dir)

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
    state_dir: Path | str | None = None,
    binding: str = "",
    history: PrivacyHistory | Literal["public", "none"] | None = None,
    remember: bool = True,
    data_name: str = "",
) -> PrivateModel:
    """Put a Keras model under a privacy plan.

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
    require_kinds(model, plan)
    require_arguments(binding=binding, data_name=data_name, state_dir=state_dir, remember=remember)
    require_whole(seed=seed, virtual_batch_size=virtual_batch_size, memory_cap=memory_cap)
    require_private(model)
    require_keras_step(model)
    of_model = (optimizer is None, loss is None)
    optimizer = optimizer if optimizer is not None else getattr(model, "optimizer", None)
    if optimizer is None:
        raise BadInputError("an optimizer is needed", fix='make_private(model, plan, optimizer="sgd", loss=...)')
    optimizer = keras_optimizer(optimizer, steps=plan.steps)
    if loss is None:
        loss = getattr(model, "loss", None)
        compiled = getattr(model, "compiled_loss", None)
        loss_weights = loss_weights if loss_weights is not None else getattr(compiled, "_user_loss_weights", None)
    if not (virtual_batch_size and 1 <= virtual_batch_size <= LARGEST and memory_cap and memory_cap >= 1):
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
        state_dir=None if state_dir is None else Path(state_dir),
        binding=binding,
        history=_stated(history),
        remember=remember,
        data_name=data_name,
        compiled=(
            model.optimizer if of_model[0] else None,
            getattr(model, "compiled_loss", None) if of_model[1] else None,
        ),
    )


def _stated(history: Any) -> PrivacyHistory | None:
    """Return what the user states of weights.

    Raises:
        BadInputError: it is neither a history nor one of the two words.
    """
    if history is None or isinstance(history, PrivacyHistory):
        return history
    if isinstance(history, str) and history in ("public", "none"):
        return PrivacyHistory(origin=cast(Literal["public", "none"], history))
    raise BadInputError(
        f"history={history!r:.60} is not a history of weights",
        fix='PrivacyHistory.load(path), or "public" if public data alone made them, or "none" if nothing protects what '
        "did (then no guarantee holds)",
    )


def _copied_rate(optimizer: Any) -> Any:
    return getattr(optimizer, "_current_learning_rate", None)


def _new_key(seed: int | None) -> RunKey:
    return RunKey.from_system() if seed is None else RunKey.from_seed(seed)
