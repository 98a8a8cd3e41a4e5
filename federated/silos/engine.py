"""Rounds of cross-silo training: every silo makes steps of the DP-SGD engine, the server averages what they send.

What leaves a silo is its model after the round's steps, each of which was noised inside the silo. So neither server nor
other silos have to be trusted, and no secure aggregation is needed for the guarantee.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from federated.contract import Array, IntArray, RoundResult, RoundState
from federated.model import FederatedModel
from federated.optimizers import Optimizer, learning_rate
from federated.server import Server
from federated.silos.plan import SiloPlan
from federated.silos.records import SiloRecords
from privacy_pipeline.accounting.events import canonical
from privacy_pipeline.config.models.federated import FederatedAlgorithm, OptimizerSection
from privacy_pipeline.dp.checks.validator import require_private
from privacy_pipeline.dp.graphs.graph_state import require_stateless, state_of
from privacy_pipeline.dp.graphs.randomness import KEY_BYTES, RunKey
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.rowwise.verdict import Verdict
from privacy_pipeline.dp.sampling.store import ExampleStore
from privacy_pipeline.dp.sampling.users import UserIndex
from privacy_pipeline.dp.training.choice import Clipper
from privacy_pipeline.dp.training.from_keras.model_losses import ModelLosses, per_example_loss
from privacy_pipeline.dp.training.program import specs_of
from privacy_pipeline.dp.training.steps import PrivateSteps, clipper_of, program_of
from privacy_pipeline.errors import BadInputError, PipelineError

# Known inside a silo, never released: nothing of it is covered by the noise.
WITHHELD = (
    "training losses and metrics",
    "realised batch sizes of silos",
    "gradients before noise",
    "number of examples with non-finite gradients",
)
_MEMORY_CAP = 256 * 2**20
_LARGEST_BATCH = 6144


class LocalOptimizer:
    """An optimizer of local steps with the formulas of `federated.optimizers`, as the DP-SGD engine calls it.

    Args:
        section: what the config asks for.
    """

    def __init__(self, section: OptimizerSection) -> None:
        self._section = section
        self._formulas = Optimizer(section, tf.math)
        self._rate = tf.Variable(section.learning_rate, trainable=False, dtype=tf.float32)
        self._first: dict[str, Any] = {}
        self._state: dict[str, tf.Variable] = {}

    def build(self, variables: list[Any]) -> None:
        """Make the state for these variables."""
        self._first = self._formulas.initial_state([tuple(variable.shape) for variable in variables])
        self._state = {name: tf.Variable(value, trainable=False) for name, value in self._first.items()}

    @property
    def variables(self) -> list[Any]:
        """All that a step moves beside the weights; none of it leaves the silo."""
        return [*self._state.values(), self._rate]

    def begin(self, round_number: int) -> None:
        """Go back to the first state, as every local training does, and take the round's rate."""
        for name, value in self._first.items():
            self._state[name].assign(value)
        self._rate.assign(learning_rate(self._section, round_number))

    def apply_gradients(self, pairs: Any) -> None:
        """Make one step; called within the graph of a private step.

        Args:
            pairs: (gradient, variable) each.
        """
        gradients, variables = zip(*pairs, strict=True)
        state = {name: held.read_value() for name, held in self._state.items()}
        weights = [variable.read_value() for variable in variables]
        after, moved = self._formulas.step(state, weights, list(gradients), self._rate.read_value())
        for variable, value in zip(variables, moved, strict=True):
            variable.assign(value)
        for name, value in after.items():
            self._state[name].assign(value)


@dataclass(frozen=True)
class _Silo:
    """What one silo trains with.

    Attributes:
        steps: its private steps, under its own plan and key.
        optimizer: of those steps.
        weight: of its update.
    """

    steps: PrivateSteps
    optimizer: LocalOptimizer
    weight: np.float32


class SiloEngine:
    """Keeps `federated.contract.Engine`; its clients are the silos, all of which take part in every round.

    Args:
        model: the model; its weights are the first round's.
        records: the records of the silos.
        plan: the plan.
        algorithm: client and server optimizer; what a round computes beside them the plan decides.
        key: the run's key; each silo draws from one of its own, derived from it.

    Attributes:
        verdict: whether the examples of a silo are proven to stay apart in the model.

    Raises:
        BadInputError: a model that cannot be trained privately, or data that does not fit it.
        PipelineError: the records are not those of the plan, or a silo's plan has another event than is accounted for.
    """

    def __init__(
        self,
        *,
        model: FederatedModel,
        records: SiloRecords,
        plan: SiloPlan,
        algorithm: FederatedAlgorithm,
        key: RunKey,
    ) -> None:
        records.require(plan)
        require_private(model.keras)
        self._model, self._plan = model, plan
        self._server = Server(algorithm, model.shapes)
        plans = [plan.plan_of(place) for place in range(len(plan.silos))]
        require_one_event(plan, plans)
        stores = [_store(model, records, plan, name) for name, _ in plan.silos]
        clipper = _clipper(model, plans[0], *specs_of(stores[0]))
        self.verdict = clipper.verdict
        self._silos = []
        for place, (name, _) in enumerate(plan.silos):
            optimizer = LocalOptimizer(algorithm.client_optimizer)
            program = program_of(
                model=model.keras,
                clipper=clipper,
                optimizer=optimizer,
                plan=plans[place],
                store=stores[place],
                largest=_LARGEST_BATCH,
                norm=None,
            )
            written = [*model.keras.trainable_weights, *state_of(optimizer)]
            require_stateless(program.graph, model=model.keras, writes=written, part="its private step")
            steps = PrivateSteps.of(
                program=program, plan=plans[place], store=stores[place], key=silo_key(key, name), model=model.keras
            )
            self._silos.append(_Silo(steps, optimizer, np.float32(plan.weight_of(place))))

        self.summed: list[int] = []  # rounds whose noised models left the silos, in their order

    @property
    def generator(self) -> str:
        """What the noise comes from, for the record."""
        return f"{self._silos[0].steps.reader.noise.generator}, a key of its own for each silo"

    def initial_state(self) -> RoundState:
        """Return the state before the first round."""
        return RoundState(
            round_number=0,
            weights=self._model.weights(),
            non_trainable=self._model.non_trainable(),
            server=self._server.initial_state(),
        )

    def run_round(
        self, state: RoundState, cohort: IntArray, *, present: npt.NDArray[np.bool_] | None = None
    ) -> RoundResult:
        """Run one round; see `federated.contract.Engine`. Counts that depend on samples are given as expected ones.

        Raises:
            BadInputError: the plan has no such round, or the cohort is not every silo once.
        """
        steps = self._plan.steps_of(state.round_number)
        everyone = np.array_equal(np.sort(np.asarray(cohort, np.int64)), np.arange(len(self._silos)))
        if not everyone or (present is not None and not np.all(present)):
            raise BadInputError("every silo takes part in every round, once")
        self._model.hold(state.non_trainable)
        self.summed.append(state.round_number)
        update = [np.zeros(shape, np.float32) for shape in self._model.shapes]
        for silo in self._silos:
            after = self._trained(silo, state, steps)
            changes = (new - old for new, old in zip(after, state.weights, strict=True))
            update = [total + silo.weight * change for total, change in zip(update, changes, strict=True)]
        weights, server, metrics = self._server.step(state, update, None)
        size = 4 * self._model.parameters * len(self._silos)
        return RoundResult(
            state=RoundState(
                round_number=state.round_number + 1,
                weights=weights,
                non_trainable=state.non_trainable,
                server=server,
            ),
            metrics=metrics,
            clients=len(self._silos),
            examples=round(self._plan.base.expected_batch_size * len(steps)),
            bytes_down=size,
            bytes_up=size,
        )

    def _trained(self, silo: _Silo, state: RoundState, steps: range) -> tuple[Array, ...]:
        """Return a silo's weights after its steps of a round: all that leaves it."""
        self._model.assign(state.weights)
        silo.optimizer.begin(state.round_number)
        silo.steps.run(steps)
        return self._model.weights()


def examine(model: FederatedModel, plan: SiloPlan, *, x: Any, y: Any) -> Verdict:
    """Whether the examples of a silo are proven to stay apart in a model; reads no data.

    Args:
        model: the model.
        plan: the plan.
        x: nest of `tf.TensorSpec` of the inputs, in the form that clients' data has.
        y: the same of the labels.

    Raises:
        BadInputError: an example reaches another one, or the model cannot be trained privately.
    """
    require_private(model.keras)
    return _clipper(model, plan.plan_of(0), x, y).verdict


def _clipper(model: FederatedModel, plan: PrivacyPlan, x: Any, y: Any) -> Clipper:
    """Return what clips the units of each silo, whose plans clip alike."""
    losses = ModelLosses(model.keras, per_example_loss(model.loss))
    return clipper_of(model=model.keras, losses=losses, plan=plan, x=x, y=y, memory_cap=_MEMORY_CAP)


def silo_key(key: RunKey, name: str) -> RunKey:
    """Return the key of one silo: samples and noise of two silos have nothing in common."""
    return RunKey(key.derive(f"silo {name}", KEY_BYTES), seed_fixed=key.seed_fixed)


def require_one_event(plan: SiloPlan, plans: list[PrivacyPlan]) -> None:
    """Refuse silos whose records go through another mechanism than the one that is accounted for.

    Args:
        plan: what is accounted for.
        plans: what each silo runs.

    Raises:
        PipelineError: a silo has another event, delta, relation or bound.
    """
    for (name, _), own in zip(plan.silos, plans, strict=True):
        same = (own.delta, own.relation, own.clipping, own.noise, own.users, own.steps) == (
            plan.delta,
            plan.relation,
            plan.base.clipping,
            plan.base.noise,
            plan.base.users,
            plan.steps,
        )
        if not same or canonical(own.event) != canonical(plan.event):
            raise PipelineError(
                f"silo '{name}' would train under another mechanism than the one that is accounted for all silos"
            )


def _store(model: FederatedModel, records: SiloRecords, plan: SiloPlan, name: str) -> ExampleStore:
    """Return the records of a silo as the DP-SGD engine reads them."""
    rows = records.rows_of(records.place_of(name))
    columns: Mapping[str, Array] = dict(zip(model.input_names, model.columns(records.clients.features), strict=True))
    if (records.owners is None) != (plan.base.users is None):
        raise BadInputError("the plan's unit is a user exactly where the records name the owner of each row")
    users = None if records.owners is None else UserIndex.from_owners(records.owners[rows])
    inputs = {key: array[rows] for key, array in columns.items()}
    return ExampleStore(inputs, np.asarray(records.clients.labels[rows], np.float32), users)
