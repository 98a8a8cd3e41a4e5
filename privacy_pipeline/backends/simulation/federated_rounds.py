"""The rounds of a federated run: cohort by cohort, counted, kept on disk so that a killed run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from federated.clients.store import ClientStore
from federated.contract import Engine, RoundState
from federated.fast.engine import FastEngine
from federated.model import FederatedModel
from federated.privacy.distributed import aggregator_of
from federated.privacy.distributed_noise import RELEASED, WRAPPED
from federated.privacy.plan import CohortPlan, FederatedPlan
from federated.privacy.sampler import ClientSampler, Cohorts, Participation
from federated.silos.engine import SiloEngine
from federated.silos.plan import SiloPlan
from federated.silos.records import SiloRecords
from privacy_pipeline.backends.simulation.federated_binding import binding_of
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.rowwise.verdict import Verdict
from privacy_pipeline.dp.training import run_state
from privacy_pipeline.dp.training.checkpoints import deterministic_ops
from privacy_pipeline.dp.training.run_state import RunState
from privacy_pipeline.errors import BadInputError, PipelineError

if TYPE_CHECKING:
    from federated.tff_engine.worker import TffWorker


@dataclass
class Rounds:
    """A run that is to be made. Made by `prepare`.

    Attributes:
        cohorts: who takes part.
        sampler: draws the clients of each round.
        engine: makes a round.
        watcher: counts who took part.
        key: the run's key.
        noise: what the noise comes from; None without privacy.
        kept: where key and progress are kept; None for a run that cannot be continued.
        history: curves, one value an epoch.
        epoch: rounds of an epoch.
        done: rounds made.
        resumed_at: rounds that an earlier process had made.
        told: called after each round with the number of rounds made.
        rows: what is proven of the examples of a silo; None where clients are clipped.
    """

    cohorts: Cohorts
    sampler: ClientSampler
    engine: Engine
    watcher: Participation
    key: RunKey
    noise: str | None
    kept: RunState | None
    history: dict[str, list[float]]
    epoch: int
    done: int = 0
    resumed_at: int | None = None
    rows: Verdict | None = None
    told: Callable[[int], None] = field(default=lambda done: None, repr=False)

    @classmethod
    def prepare(
        cls,
        *,
        model: Any,
        clients: ClientStore,
        algorithm: FederatedAlgorithm,
        cohorts: Cohorts,
        plan: FederatedPlan | None,
        seed: int | None,
        state_dir: Path | None,
        binding: str,
        worker: TffWorker | None = None,
    ) -> Rounds:
        """Return a run, from its beginning or from the round at which its state shows that it was killed.

        Args:
            model: built Keras model; its output is a logit.
            clients: the clients.
            algorithm: what a round computes.
            cohorts: who takes part; the plan itself if there is one.
            plan: clipping and noise; None for a run without privacy.
            seed: fixes all randomness, and with it voids a guarantee.
            state_dir: folder of the run's key and checkpoints, or None.
            binding: what else the key must never be used across.
            worker: a started worker of TensorFlow Federated to make the rounds in; without privacy only.

        Raises:
            StateMismatch: `state_dir` holds the state of another run; it is destroyed.
            BadInputError: the data does not hold the plan's number of clients, or the model cannot be trained so.
        """
        federated = as_federated(model)
        key, kept = _key(seed), None
        if state_dir is not None and plan is not None:
            bound = binding_of(plan, algorithm, clients, federated, binding)
            kept = RunState.open_or_create(state_dir, bound, key=key)
            key = kept.key
        engine: Engine
        aggregator = None if plan is None else aggregator_of(plan=plan, key=key, shapes=federated.shapes)
        if worker is not None:
            if aggregator is not None:
                raise BadInputError(
                    "TensorFlow Federated's own noise is not what the plan accounts", fix="engine: fast"
                )
            from federated.tff_engine.engine import TffEngine

            engine = TffEngine(model=federated, clients=clients, algorithm=algorithm, worker=worker)
        else:
            engine = FastEngine(model=federated, clients=clients, algorithm=algorithm, aggregator=aggregator)
        private = ["weights_norm"]
        if plan is not None and plan.base.clipping.adaptive is not None:
            private.append("clipping_norm")
        if plan is not None and plan.distributed is not None:
            private += [RELEASED, WRAPPED]
        return cls(
            cohorts=cohorts,
            sampler=ClientSampler(cohorts, key, clients.num_clients),
            engine=engine,
            watcher=Participation(cohorts, clients.num_clients),
            key=key,
            noise=None if aggregator is None else aggregator.generator,
            kept=kept,
            history={name: [] for name in (["loss"] if plan is None else private)},
            epoch=cohorts.sampling.steps_per_epoch,
        )

    @classmethod
    def of_silos(
        cls,
        *,
        model: Any,
        records: SiloRecords,
        algorithm: FederatedAlgorithm,
        plan: SiloPlan,
        seed: int | None,
        state_dir: Path | None,
        binding: str,
    ) -> Rounds:
        """Return a run in which each silo protects its own records, from its beginning or from where it was killed.

        Args:
            model, algorithm, seed, state_dir, binding: as in `prepare`.
            records: the records of the silos.
            plan: the plan.

        Raises:
            StateMismatch: `state_dir` holds the state of another run; it is destroyed.
            BadInputError: the model cannot be trained so.
            PipelineError: the records are not those of the plan.
        """
        federated, silos = as_federated(model), records.clients.num_clients
        key, kept = _key(seed), None
        if state_dir is not None:
            bound = binding_of(plan, algorithm, records.clients, federated, binding, owners=records.owners)
            kept = RunState.open_or_create(state_dir, bound, key=key)
            key = kept.key
        cohorts = CohortPlan.of(clients=silos, clients_per_round=silos, rounds=plan.rounds)
        engine = SiloEngine(model=federated, records=records, plan=plan, algorithm=algorithm, key=key)
        return cls(
            cohorts=cohorts,
            sampler=ClientSampler(cohorts, key, silos),
            engine=engine,
            watcher=Participation(cohorts, silos),
            key=key,
            noise=engine.generator,
            kept=kept,
            history={"weights_norm": []},
            epoch=max(1, round(1 / (plan.probability * plan.local_steps))),
            rows=engine.verdict,
        )

    def run(self) -> RoundState:
        """Run the rounds that are left; return the state after the last one.

        Raises:
            PipelineError: the training diverged, or a client took part more often than is accounted for.
        """
        with nullcontext() if self.kept is None else deterministic_ops():
            state = self._begin()
            losses: list[float] = []
            saved = time.monotonic()
            while self.done < self.cohorts.rounds:
                cohort = self.sampler.cohort(self.done)
                # Before the data is used: a round that is broken off has been counted.
                self.watcher.observe(self.done, cohort)
                norm = state.aggregator.get("clipping_norm")
                self.done += 1
                result = self.engine.run_round(state, cohort)
                state = result.state
                if "loss" in self.history:
                    losses.append(result.metrics["loss"])
                last = self.done == self.cohorts.rounds
                if self.done % self.epoch == 0 or last:
                    self._end_epoch(state, losses, norm)
                    losses = []
                if self.kept is not None and (last or time.monotonic() - saved >= run_state.CHECKPOINT_SECONDS):
                    self._save(state)
                    saved = time.monotonic()
                self.told(self.done)
        return state

    def _begin(self) -> RoundState:
        state = self.engine.initial_state()
        if self.kept is None:
            return state
        if not self.kept.resumed:
            self._save(state)
            return state
        self.done, arrays = self.kept.load()
        self.resumed_at = self.done
        for name, curve in self.history.items():
            curve[:] = arrays[f"history.{name}"].tolist()
        for past in range(self.done):
            self.watcher.observe(past, self.sampler.cohort(past))
        return RoundState(
            round_number=self.done,
            weights=tuple(arrays[f"weights.{place}"] for place in range(len(state.weights))),
            non_trainable=tuple(arrays[f"non_trainable.{place}"] for place in range(len(state.non_trainable))),
            server={name: arrays[f"server.{name}"] for name in state.server},
            aggregator={name: arrays[f"aggregator.{name}"] for name in state.aggregator},
        )

    def _save(self, state: RoundState) -> None:
        arrays: dict[str, NDArray[Any]] = {f"weights.{place}": value for place, value in enumerate(state.weights)}
        arrays.update({f"non_trainable.{place}": value for place, value in enumerate(state.non_trainable)})
        arrays.update({f"server.{name}": value for name, value in state.server.items()})
        arrays.update({f"aggregator.{name}": value for name, value in state.aggregator.items()})
        arrays.update({f"history.{name}": np.array(curve) for name, curve in self.history.items()})
        if self.kept is not None:
            self.kept.save(self.done, arrays)

    def _end_epoch(self, state: RoundState, losses: list[float], norm: Any) -> None:
        """Add to the curves what may be released: with privacy, only what the noise covers."""
        if not all(np.isfinite(value).all() for value in state.weights):
            raise PipelineError(f"training diverged by round {self.done}", fix="lower the learning rates")
        values = {
            "loss": float(np.nanmean(losses)) if losses else float("nan"),
            "weights_norm": float(np.sqrt(sum(float(np.sum(np.square(value))) for value in state.weights))),
            "clipping_norm": 0.0 if norm is None else float(norm),
            # Of all rounds so far, also of those before a kill.
            **{name: float(state.aggregator.get(name, 0)) for name in (RELEASED, WRAPPED)},
        }
        for name, curve in self.history.items():
            curve.append(values[name])


def assign(model: Any, state: RoundState) -> None:
    """Give a Keras model the weights of a state."""
    for variables, values in (
        (model.trainable_weights, state.weights),
        (model.non_trainable_weights, state.non_trainable),
    ):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def as_federated(model: Any) -> FederatedModel:
    """Return the config's Keras model, with the loss of the pipeline."""
    import tensorflow as tf

    return FederatedModel(model, loss=tf.keras.losses.BinaryCrossentropy(from_logits=True))


def _key(seed: int | None) -> RunKey:
    return RunKey.from_system() if seed is None else RunKey.from_seed(seed)
