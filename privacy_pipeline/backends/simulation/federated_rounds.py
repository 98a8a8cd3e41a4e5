"""The federated backend's use of the driver: its key and binding, its engine, and the curves that may be released."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.clients.store import ClientStore
from federated.contract import Array, RoundState
from federated.driver.binding import binding_of
from federated.driver.protected import MakeAggregator, Secret, of_clients, of_silos
from federated.driver.rounds import Made, Observer, Rounds
from federated.fast.engine import FastEngine
from federated.model import FederatedModel
from federated.privacy.distributed_noise import RELEASED, WRAPPED
from federated.privacy.plan import FederatedPlan
from federated.privacy.sampler import ClientSampler, Cohorts, Participation
from federated.silos.engine import SiloEngine
from federated.silos.plan import SiloPlan
from federated.silos.records import SiloRecords
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.rowwise.verdict import Verdict
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.tasks.task import Task

if TYPE_CHECKING:
    from federated.contract import Engine
    from federated.tff_engine.worker import TffWorker


@dataclass
class Curves(Observer):
    """Curves of a training, one value an epoch; a checkpoint holds them too.

    Attributes:
        history: what may be released, by name: under a guarantee only what the noise covers.
        epoch: rounds of an epoch.
        told: called after each round with the number of rounds made.
    """

    history: dict[str, list[float]]
    epoch: int
    told: Callable[[int], None] = field(default=lambda done: None, repr=False)
    _losses: list[float] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, *names: str, epoch: int) -> Curves:
        """Return empty curves of these names."""
        return cls(history={name: [] for name in names}, epoch=epoch)

    def restored(self, done: int, arrays: Mapping[str, Array]) -> None:
        """Take up the curves of the last checkpoint."""
        for name, curve in self.history.items():
            curve[:] = arrays[f"history.{name}"].tolist()

    def kept(self) -> Mapping[str, Array]:
        """Return the curves, for a checkpoint."""
        return {f"history.{name}": np.array(curve) for name, curve in self.history.items()}

    def reported(self, done: int) -> None:
        """Report the rounds that were made."""
        self.told(done)

    def made(self, made: Made) -> bool:
        """Add to the curves at the end of an epoch.

        Raises:
            PipelineError: the training diverged.
        """
        if "loss" in self.history:
            self._losses.append(made.result.metrics["loss"])
        if made.done % self.epoch and not made.last:
            return False
        state, norm = made.result.state, made.before.aggregator.get("clipping_norm")
        if not all(np.isfinite(value).all() for value in state.weights):
            raise PipelineError(f"training diverged by round {made.done}", fix="lower the learning rates")
        values = {
            "loss": float(np.nanmean(self._losses)) if self._losses else float("nan"),
            "weights_norm": float(np.sqrt(sum(float(np.sum(np.square(value))) for value in state.weights))),
            "clipping_norm": 0.0 if norm is None else float(norm),
            # Of all rounds so far, also of those before a kill.
            **{name: float(state.aggregator.get(name, 0)) for name in (RELEASED, WRAPPED)},
        }
        for name, curve in self.history.items():
            curve.append(values[name])
        self._losses.clear()
        return False


@dataclass(frozen=True, kw_only=True)
class PipelineRounds:
    """The rounds of a pipeline's training. Made by `of_clients` or `of_silos`.

    Attributes:
        rounds: the driver's; it holds mechanism and plan under a guarantee.
        curves: what it releases beside the model.
        key: the run's key.
        rows: what is proven of the examples of a silo; None where clients are clipped.
    """

    rounds: Rounds
    curves: Curves
    key: RunKey
    rows: Verdict | None = None

    @classmethod
    def of_clients(
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
        task: Task,
        worker: TffWorker | None = None,
    ) -> PipelineRounds:
        """Return a training on clients, from its beginning or from the round at which its state shows a kill.

        Args:
            model: built Keras model of the task.
            clients: the clients.
            algorithm: what a round computes.
            cohorts: who takes part; the plan itself if there is one.
            plan: clipping and noise; None for a run without privacy.
            seed: fixes all randomness, and with it voids a guarantee.
            state_dir: folder of the run's key and checkpoints, or None.
            binding: what else the key must never be used across.
            task: gives the loss.
            worker: a started worker of TensorFlow Federated to make the rounds in; without privacy only.

        Raises:
            StateMismatch: `state_dir` holds the state of another run; it is destroyed.
            BadInputError: the data does not hold the plan's number of clients, or the model cannot be trained so.
        """
        federated, epoch = as_federated(model, task), cohorts.sampling.steps_per_epoch
        if plan is None:
            key, curves = Secret.take(seed=seed, state_dir=None, binding=str).key, Curves.of("loss", epoch=epoch)
            rounds = Rounds(
                rounds=cohorts.rounds,
                sampler=ClientSampler(cohorts, key, clients.num_clients),
                engine=_without_noise(federated, clients, algorithm, worker),
                watcher=Participation(cohorts, clients.num_clients),
                observer=curves,
            )
            return cls(rounds=rounds, curves=curves, key=key)
        if worker is not None:
            raise BadInputError("TensorFlow Federated's own noise is not what the plan accounts", fix="engine: fast")
        secret = Secret.take(
            seed=seed,
            state_dir=state_dir,
            binding=lambda: binding_of(plan=plan, algorithm=algorithm, clients=clients, model=federated, more=binding),
        )

        def engine(aggregator: MakeAggregator) -> Engine:
            return FastEngine(
                model=federated, clients=clients, algorithm=algorithm, aggregator=aggregator(federated.shapes)
            )

        curves = Curves.of(*_released(plan), epoch=epoch)
        rounds = of_clients(plan=plan, secret=secret, clients=clients.num_clients, engine=engine)
        rounds.observer = curves
        return cls(rounds=rounds, curves=curves, key=secret.key)

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
        task: Task,
    ) -> PipelineRounds:
        """Return a training in which each silo protects its own records, from its beginning or where it was killed.

        Args:
            model, algorithm, seed, state_dir, binding, task: as in `of_clients`.
            records: the records of the silos.
            plan: the plan.

        Raises:
            StateMismatch: `state_dir` holds the state of another run; it is destroyed.
            BadInputError: the model cannot be trained so.
            PipelineError: the records are not those of the plan.
        """
        federated, silos = as_federated(model, task), records.clients
        secret = Secret.take(
            seed=seed,
            state_dir=state_dir,
            binding=lambda: binding_of(
                plan=plan, algorithm=algorithm, clients=silos, model=federated, more=binding, owners=records.owners
            ),
        )
        verdicts: list[Verdict] = []

        def engine(plan: SiloPlan, key: RunKey) -> SiloEngine:
            built = SiloEngine(model=federated, records=records, plan=plan, algorithm=algorithm, key=key)
            verdicts.append(built.verdict)
            return built

        curves = Curves.of("weights_norm", epoch=max(1, round(1 / (plan.probability * plan.local_steps))))
        rounds = of_silos(plan=plan, secret=secret, engine=engine)
        rounds.observer = curves
        return cls(rounds=rounds, curves=curves, key=secret.key, rows=verdicts[0])


def _without_noise(
    model: FederatedModel, clients: ClientStore, algorithm: FederatedAlgorithm, worker: TffWorker | None
) -> Engine:
    if worker is None:
        return FastEngine(model=model, clients=clients, algorithm=algorithm)
    from federated.tff_engine.engine import TffEngine

    return TffEngine(model=model, clients=clients, algorithm=algorithm, worker=worker)


def _released(plan: FederatedPlan) -> list[str]:
    """Return the names of the curves that the noise covers."""
    names = ["weights_norm"]
    if plan.base.clipping.adaptive is not None:
        names.append("clipping_norm")
    if plan.distributed is not None:
        names += [RELEASED, WRAPPED]
    return names


def assign(model: Any, state: RoundState) -> None:
    """Give a Keras model the weights of a state."""
    for variables, values in (
        (model.trainable_weights, state.weights),
        (model.non_trainable_weights, state.non_trainable),
    ):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def as_federated(model: Any, task: Task) -> FederatedModel:
    """Return the config's Keras model, with the loss of its task."""
    return FederatedModel(model, loss=task.loss())
