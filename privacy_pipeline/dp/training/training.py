"""A private training under way: its steps one by one, and what they make of the weights' history."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from privacy_pipeline.dp.graphs.graph_state import require_unchanged, snapshot, state_of
from privacy_pipeline.dp.history.history import Phase, PrivacyHistory
from privacy_pipeline.dp.history.watched import Watched
from privacy_pipeline.dp.sampling.feeding import Batch
from privacy_pipeline.dp.training.checkpoints import deterministic_ops
from privacy_pipeline.dp.training.execution import Execution, event_made
from privacy_pipeline.dp.training.from_keras.fit_arguments import optimizer_of_callbacks, require_same_trained
from privacy_pipeline.dp.training.ownership import Owner, Uncopied
from privacy_pipeline.dp.training.program import finite_norm
from privacy_pipeline.dp.training.setting import Progress, Setting
from privacy_pipeline.errors import BadInputError

SETS_NOTHING = "sets_no_weights"  # attribute of callbacks of this project that need not be watched
_BETWEEN = "what code between the steps computes of private rows"
_SAMPLING = "sampling: NumPy Philox4x64-10 with a 128-bit key"


class Training(Uncopied):
    """Makes the steps of a plan; what it has made is accounted for whenever it is asked.

    Made by `PrivateModel.begin`, for loops of one's own:

        with private.begin(x, y) as training:
            while training.step():
                ...  # look at the weights, which the noise protects
        print(training.execution)

    Attributes:
        history: by name, after each epoch; see `Execution`.
    """

    def __init__(
        self,
        setting: Setting,
        progress: Progress,
        *,
        history: dict[str, list[float]],
        owner: Owner,
        ended: Callable[[], None],
    ) -> None:
        self._set, self._progress, self._owner, self._ended = setting, progress, owner, ended
        self._first = progress.begun
        self._snapshot = snapshot(setting.model)
        self._batches: Iterator[tuple[int, Batch]] = setting.steps.reader.from_step(self._first)
        self._open = True
        self._before = setting.before
        self._weights = Watched(setting.model.weights) if setting.watched else None
        # Of the weights after a step; None while steps are made, or where no code of the caller's runs between them.
        self._left = self._as_they_are()
        self._stepping = threading.Lock()
        self.history = history

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def step(self) -> bool:
        """Make the next step of the plan.

        Returns:
            Whether there was one to make.

        Raises:
            BadInputError: the training was closed, or layers were frozen or thawed since the last step.
            PipelineError: the weights are no longer finite.
            StateMismatch: the step was made before, from another state.
        """
        if not self._open:
            raise BadInputError("the training was closed", fix="call begin again for the steps that are left")
        self._owner.require_process()
        with self._stepping:  # threads make steps one after the other
            self._watch()
            with self._set_up():
                step = self._made(lambda _: None)
            if step is None:
                return False
            self._left = self._as_they_are()
            if self._ends_epoch(step):
                self._after_epoch(step)
                self.keep()
            self._keep_checkpoint(step, last=step + 1 == self._set.plan.steps)
        return True

    def run(self, callbacks: Any, *, epoch_ends: Callable[[], dict[str, float]]) -> None:
        """Make the remaining steps, and call Keras' callbacks for them.

        Args:
            callbacks: Keras' list of callbacks.
            epoch_ends: gives what they get at the end of an epoch.
        """
        with self._set_up():
            self._loop(callbacks, epoch_ends)

    def close(self) -> None:
        """Keep the history of the weights as they are now; the steps that were not made remain for another training."""
        if not self._open:
            return
        self._open = False
        self._batches.close()  # type: ignore[attr-defined]
        self.keep()
        self._ended()

    @property
    def execution(self) -> Execution:
        """What was made so far.

        Raises:
            PipelineError: weights changed that are not trained.
        """
        done = self._set
        require_unchanged(self._snapshot)
        self._take_in()
        return Execution(
            plan=done.plan,
            steps=self._released,
            largest_participation=done.steps.watcher.largest,
            seed_fixed=done.key.seed_fixed,
            generator=f"noise: {done.steps.reader.noise.generator}; {_SAMPLING}; "
            + ("both FROM A FIXED SEED, not private" if done.key.seed_fixed else "both from the OS' entropy"),
            cryptographic=not done.key.seed_fixed,
            stopped_early=self._progress.begun < done.plan.steps,
            history=self.history,
            resumed_at=None if done.checkpoints is None else done.checkpoints.resumed_at,
            verdict=done.verdict,
            not_covered=(_BETWEEN,) if done.watched else (),
            privacy_history=self._past_and_now(),
        )

    def keep(self) -> None:
        """Keep the history of the weights as they are now; for code that may save them between two steps."""
        self._take_in()
        if self._released:
            moments = state_of(self._set.optimizer)
            self._set.past.left(self._before, self._past_and_now(), moments=moments, last=not self._open)

    @property
    def _released(self) -> int:
        """Steps that count: those before a kill too, though the run went back to a checkpoint."""
        checkpoints = self._set.checkpoints
        return max(self._progress.begun, 0 if checkpoints is None else checkpoints.released)

    def _past_and_now(self) -> PrivacyHistory:
        done, steps = self._set, self._released
        return self._before.together(done.replaced).with_phase(
            Phase(
                id=done.key.derive("privacy history", 8).hex(),
                event=event_made(done.plan, steps, seed_fixed=done.key.seed_fixed),
                steps=steps,
                relation=done.plan.relation,
                unit=done.plan.unit,
                data=done.data_name,
            )
        )

    def _set_up(self) -> AbstractContextManager[Any]:
        stack = ExitStack()
        if self._set.checkpoints is not None:
            stack.enter_context(deterministic_ops())
        stack.enter_context(optimizer_of_callbacks(self._set.model, self._set.optimizer))
        return stack

    def _made(self, began: Callable[[int], None]) -> int | None:
        """Make a step; return its number, or None where all are made."""
        self._owner.require_process()
        coming = next(self._batches, None)
        if coming is None:
            return None
        step, batch = coming
        began(step)
        checkpoints = self._set.checkpoints
        if checkpoints is not None:
            checkpoints.before(step)
        self._left = None
        # Before the data is used: a step that is broken off has been counted.
        self._progress.begun, self._progress.used = step + 1, True
        self._set.steps.make(step, batch)
        if checkpoints is not None:
            checkpoints.after()
        return step

    def _watch(self) -> None:
        """Compare the weights with those that the step before left; what others set in their place counts too.

        Raises:
            BadInputError: nothing is known of them.
            PipelineError: weights changed that are not trained.
        """
        if self._left is None or self._left == self._as_they_are():
            return
        require_unchanged(self._snapshot)
        known = self._set.past.set_by_others()
        if known is None:
            raise BadInputError(
                f"weights of model '{self._set.model.name}' were set between two steps (by a callback or code of one's "
                "own), and nothing is known of what made them",
                fix="leave the weights to the private steps; to go on from other weights call make_private again, with "
                "`history`",
            )
        self._before, self._left = self._before.together(known), self._as_they_are()

    def _as_they_are(self) -> bytes | None:
        if self._weights is None:
            return None
        self._owner.require_process()  # TensorFlow does not survive a fork
        return self._weights.fingerprint()

    def _take_in(self) -> None:
        """Account for weights that others set, where no step follows on them that could be refused."""
        if self._left is not None and self._left != self._as_they_are():
            known = self._set.past.set_by_others() or PrivacyHistory(origin="none")
            self._before, self._left = self._before.together(known), self._as_they_are()

    def _ends_epoch(self, step: int) -> bool:
        return (step + 1) % self._set.plan.steps_per_epoch == 0 or step + 1 == self._set.plan.steps

    def _after_epoch(self, step: int) -> None:
        self.history["weights_norm"].append(finite_norm(self._set.model, step + 1))
        if self._set.program.norm is not None:
            self.history["clipping_norm"].append(float(self._set.program.norm))
        require_same_trained(self._set.model, self._set.program.variables)

    def _keep_checkpoint(self, step: int, *, last: bool) -> None:
        if self._set.checkpoints is not None:
            self._set.checkpoints.made(step + 1, last=last)

    def _loop(self, callbacks: Any, epoch_ends: Callable[[], dict[str, float]]) -> None:
        model, plan = self._set.model, self._set.plan
        length = plan.steps_per_epoch
        each_step = getattr(callbacks, "_should_call_train_batch_hooks", True)

        def began(step: int) -> None:
            begins = step % length == 0 or step == self._first
            if begins:
                callbacks.on_epoch_begin(step // length)
            callbacks.on_train_batch_begin(step % length)
            if begins or each_step:
                self._watch()

        model.stop_training = False
        callbacks.on_train_begin()
        while (step := self._made(began)) is not None:
            ends = self._ends_epoch(step)
            if ends or each_step:
                self._left = self._as_they_are()
            callbacks.on_train_batch_end(step % length)
            last = step + 1 == plan.steps or model.stop_training
            if ends or last:
                self._after_epoch(step)
                callbacks.on_epoch_end(step // length, epoch_ends())
                require_same_trained(model, self._set.program.variables)
            last = last or model.stop_training
            self._keep_checkpoint(step, last=last)
            if last:
                break
        callbacks.on_train_end()
