"""The rounds of a run: cohort by cohort, counted, kept on disk so that a killed run goes on. Imports no TensorFlow.

Before the first round there is a checkpoint, and later ones replace it. A run that goes on makes the rounds after its
last checkpoint again. Under a guarantee these are the same bits: cohort and noise are functions of key and round, the
key is bound to plan, data, code and machine, and TensorFlow's ops are deterministic meanwhile. So no round ever gives
out two different sums for one charge.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from federated.contract import Array, Engine, RoundResult, RoundState, Sampler
from federated.driver.accounted import Accounted
from federated.driver.checkpoints import Checkpoints, arrays_of, state_from
from federated.privacy.sampler import Participation
from privacy_pipeline.dp.training import run_state
from privacy_pipeline.errors import PipelineError

_SUMMED, _MODEL = "summed", "model"


@dataclass(frozen=True, kw_only=True)
class Made:
    """One round that was made.

    Attributes:
        done: rounds made, this one included.
        before: what the round began with.
        result: what it gave.
        last: it is the last one of the run.
    """

    done: int
    before: RoundState
    result: RoundResult
    last: bool


class Observer:
    """What a caller does beside the rounds; this one does nothing."""

    def restored(self, done: int, arrays: Mapping[str, Array]) -> None:
        """Take up again what `kept` gave the last checkpoint, before the first round of this process.

        Args:
            done: rounds that were made.
            arrays: of the checkpoint, by name.
        """

    def made(self, made: Made) -> bool:
        """Take a round; return whether a checkpoint is to be saved after it, however new the last one is."""
        return False

    def kept(self) -> Mapping[str, Array]:
        """Return what a checkpoint is to hold beside the state; called right before one is saved."""
        return {}

    def reported(self, done: int) -> None:
        """Report how many rounds were made; after the checkpoint, if there is one."""


@dataclass(kw_only=True)
class Rounds:
    """The rounds of one run.

    Attributes:
        rounds: rounds of the run.
        sampler: draws the clients of each round.
        engine: makes a round.
        watcher: counts who took part; None where nothing rests on it.
        accounted: mechanism and plan of a run with a guarantee.
        kept: where the progress is kept; None for a run that cannot be continued.
        observer: what the caller does beside them.
        model: digest of what the engine's model computes, where the binding of the key does not hold it; empty else.
        done: rounds made.
        resumed_at: rounds that an earlier process had made; None if the run begins here.
    """

    rounds: int
    sampler: Sampler
    engine: Engine
    watcher: Participation | None = None
    accounted: Accounted | None = None
    kept: Checkpoints | None = None
    observer: Observer = field(default_factory=Observer)
    model: str = ""
    done: int = 0
    resumed_at: int | None = None
    _state: RoundState | None = field(default=None, repr=False)

    def begin(self) -> RoundState:
        """Return the state that the next round begins with, from the last checkpoint if there is one; once.

        A run that has none saves its first state, with which its key gets usable: call this before a charge is started,
        and no kill after that costs another one.

        Raises:
            PipelineError: the checkpoint cannot be written.
            StateMismatch: it was not written by this run, or with another model; then it is destroyed.
        """
        if self._state is None:
            self._state = self._begin()
        return self._state

    def _begin(self) -> RoundState:
        if self.kept is None:
            return self.engine.initial_state()
        if not self.kept.resumed:
            first = self.engine.initial_state()
            self._save(first)
            return first
        self.done, arrays = self.kept.load()
        self.resumed_at = self.done
        self._require_same_model(arrays)
        if self.accounted is not None:
            self.accounted.earlier = arrays[_SUMMED].tolist()
        self.observer.restored(self.done, arrays)
        for past in range(self.done if self.watcher is not None else 0):
            self._watch(past, self.sampler.cohort(past))
        return state_from(self.done, arrays)

    def _require_same_model(self, arrays: Mapping[str, Array]) -> None:
        if self.model == str(arrays.get(_MODEL, "")):
            return
        if isinstance(self.kept, run_state.RunState):
            self.kept.destroy()
        raise run_state.mismatch("the engine has another model than the one it was started with")

    def spent(self) -> Accounted:
        """Return the mechanism and the plan of a run with a guarantee.

        Raises:
            PipelineError: nothing is accounted for.
        """
        if self.accounted is None:
            raise PipelineError("this run adds no noise under a plan, so it has no guarantee to state")
        return self.accounted

    def run(self) -> RoundState:
        """Run the rounds that are left; return the state after the last one.

        Raises:
            PipelineError: a client took part more often than is accounted for, or the observer ends the run.
        """
        with self._repeatable():
            state = self.begin()
            saved = time.monotonic()
            while self.done < self.rounds:
                cohort = self.sampler.cohort(self.done)
                # Before the data is used: a round that is broken off has been counted.
                self._watch(self.done, cohort)
                self.done += 1
                result = self.engine.run_round(state, cohort)
                last = self.done == self.rounds
                due = self.observer.made(Made(done=self.done, before=state, result=result, last=last))
                state = result.state
                if due or last or time.monotonic() - saved >= run_state.CHECKPOINT_SECONDS:
                    self._save(state)
                    saved = time.monotonic()
                self.observer.reported(self.done)
        return state

    def _repeatable(self) -> AbstractContextManager[None]:
        """Make TensorFlow's ops deterministic where a round may have to be made again under the same noise."""
        if self.kept is None or self.accounted is None:
            return nullcontext()
        from privacy_pipeline.dp.training.checkpoints import deterministic_ops

        return deterministic_ops()

    def _watch(self, number: int, cohort: Array) -> None:
        if self.watcher is not None:
            self.watcher.observe(number, cohort)

    def _save(self, state: RoundState) -> None:
        if self.kept is None:
            return
        summed = {} if self.accounted is None else {_SUMMED: np.array(self.accounted.summed, np.int64)}
        model = {_MODEL: np.array(self.model)} if self.model else {}
        self.kept.save(self.done, {**arrays_of(state), **summed, **model, **self.observer.kept()})
