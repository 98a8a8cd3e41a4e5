"""Builds the rounds of a run with a guarantee: key, sampler and noise from one plan, which is also what is accounted.

Imports no TensorFlow at module level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from federated.contract import Aggregator, Engine
from federated.driver.accounted import Accounted, Mechanism
from federated.driver.rounds import Rounds
from federated.privacy.cohort_plan import CohortPlan
from federated.privacy.sampler import ClientSampler, Participation
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.training.run_state import RunState
from privacy_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from federated.privacy.distributed import DistributedAggregator
    from federated.privacy.gaussian import GaussianAggregator
    from federated.privacy.plan import FederatedPlan
    from federated.silos.plan import SiloPlan

MakeAggregator = Callable[[Sequence[tuple[int, ...]]], Aggregator]  # from the shapes of the trainable weights


class SumsSilos(Engine, Mechanism, Protocol):
    """The engine of silos, which is their mechanism too."""


@dataclass(frozen=True, kw_only=True)
class Secret:
    """Where cohorts and noise of a run come from. Made by `take`.

    Attributes:
        key: the run's key.
        kept: where the key and the progress lie; None where the key is in memory alone.
    """

    key: RunKey
    kept: RunState | None = None

    @classmethod
    def take(cls, *, seed: int | None, state_dir: Path | None, binding: Callable[[], str]) -> Secret:
        """Return the key that a folder holds for this very run, or a new one, which the folder then holds.

        Args:
            seed: fixes all randomness, and with it voids a guarantee; None for a key from the system.
            state_dir: folder of the key and the checkpoints, or None.
            binding: digests all that the key must never be used across; called where there is a folder.

        Raises:
            StateMismatch: `state_dir` holds the state of another run; it is destroyed.
            BadInputError: the folder cannot be used.
        """
        key = RunKey.from_system() if seed is None else RunKey.from_seed(seed)
        if state_dir is None:
            return cls(key=key)
        kept = RunState.open_or_create(state_dir, binding(), key=key)
        return cls(key=kept.key, kept=kept)


def of_clients(
    *,
    plan: FederatedPlan,
    secret: Secret,
    clients: int,
    engine: Callable[[MakeAggregator], Engine],
) -> Rounds:
    """Return the rounds of a run that protects clients.

    Args:
        plan: what was reserved.
        secret: where cohorts and noise come from.
        clients: number of clients in the data.
        engine: makes the engine around the plan's aggregator, which it has to make once.

    Raises:
        BadInputError: the data does not hold the plan's number of clients, or the model cannot be trained so.
        PipelineError: the engine has no aggregator of the plan, or several.
    """
    from federated.privacy.distributed import aggregator_of

    made: list[GaussianAggregator | DistributedAggregator] = []

    def aggregator(shapes: Sequence[tuple[int, ...]]) -> Aggregator:
        made.append(aggregator_of(plan=plan, key=secret.key, shapes=shapes))
        return made[-1]

    built = engine(aggregator)
    if len(made) != 1:
        raise PipelineError(f"the engine made {len(made)} aggregators, and one is accounted for")
    return Rounds(
        rounds=plan.rounds,
        sampler=ClientSampler(plan, secret.key, clients),
        engine=built,
        watcher=Participation(plan, clients),
        accounted=Accounted(plan=plan, key=secret.key, mechanism=made[0]),
        kept=secret.kept,
    )


def of_silos(
    *,
    plan: SiloPlan,
    secret: Secret,
    engine: Callable[[SiloPlan, RunKey], SumsSilos],
) -> Rounds:
    """Return the rounds of a run in which each silo protects its own records.

    Args:
        plan: what was reserved.
        secret: where the noise of each silo comes from.
        engine: makes the engine from plan and key.

    Raises:
        BadInputError: the model cannot be trained so.
        PipelineError: the records are not those of the plan.
    """
    built, silos = engine(plan, secret.key), len(plan.silos)
    cohorts = CohortPlan.of(clients=silos, clients_per_round=silos, rounds=plan.rounds)  # all of them, in each round
    return Rounds(
        rounds=plan.rounds,
        sampler=ClientSampler(cohorts, secret.key, silos),
        engine=built,
        watcher=Participation(cohorts, silos),
        accounted=Accounted(plan=plan, key=secret.key, mechanism=built),
        kept=secret.kept,
    )
