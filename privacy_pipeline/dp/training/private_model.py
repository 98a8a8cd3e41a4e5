"""A Keras model that trains as its plan has it: `fit`, `begin`, and saving its weights with their history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from privacy_pipeline.dp.checks import noise_check
from privacy_pipeline.dp.graphs.graph_state import require_stateless, state_of
from privacy_pipeline.dp.history.history import PrivacyHistory
from privacy_pipeline.dp.history.saved_models import save_history
from privacy_pipeline.dp.mechanism.sampling import FixedPartition
from privacy_pipeline.dp.sampling.sources import Given, given_data
from privacy_pipeline.dp.sampling.store import ExampleStore
from privacy_pipeline.dp.sampling.users import UserIndex
from privacy_pipeline.dp.training.execution import Execution
from privacy_pipeline.dp.training.from_keras.fit_arguments import (
    Validation,
    callback_list,
    keras_callbacks,
    not_covered,
    optimizer_of_callbacks,
    refuse_positional,
    require_as_planned,
)
from privacy_pipeline.dp.training.planned_model import PlannedModel
from privacy_pipeline.dp.training.setting import Setting
from privacy_pipeline.dp.training.steps import PrivateSteps
from privacy_pipeline.dp.training.training import SETS_NOTHING, Training
from privacy_pipeline.errors import BadInputError


class PrivateModel(PlannedModel):
    """A Keras model under a privacy plan. Made by `make_private`.

    Attributes:
        verdict: whether the model's examples are proven to stay apart, as the last `examine` or `fit` found it.
    """

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
