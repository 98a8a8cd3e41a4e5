"""User-level privacy of a run: its plan, what the ledger charges, and what the record states."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from federated.clients.encoding import width_of
from federated.experiments.charging.charge import Charge
from federated.experiments.charging.record import Statement
from federated.experiments.config import ExperimentConfig
from federated.experiments.sections import PrivacySection
from federated.privacy import distributed_record
from federated.privacy.cohort_plan import Attendance
from federated.privacy.distributed_noise import RELEASED, WRAPPED, DistributedSettings
from federated.privacy.listed import MECHANISMS
from federated.privacy.plan import FederatedPlan
from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.record import Assumption, DataAccess, Mechanism
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.dp.plan import AdaptiveClipping
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.spans import Span

if TYPE_CHECKING:
    from privacy_pipeline.ledger.ledger import Ledger
    from privacy_pipeline.ledger.state.registration import Registration


@dataclass(frozen=True, kw_only=True)
class ChargedExperiment(Charge):
    """What the ledger charges for one run; keeps `accounting.plan.ChargedPlan`.

    Attributes:
        plan: the mechanism; its units are the clients, each of one value of `unit`.
        contribution_bound: most rows of a client. The update is clipped as a whole, so the guarantee covers them all.
    """

    plan: FederatedPlan
    contribution_bound: int

    @property
    def units(self) -> int | None:
        """Registered number of clients."""
        return self.plan.clients

    def parameters(self) -> dict[str, Any]:
        """Return the plan as JSON values, with the unit's name and bound."""
        return {**super().parameters(), "contribution_bound": self.contribution_bound}

    def statement(self, config: ExperimentConfig, counted: Mapping[str, Any]) -> Statement:
        """Return what the record states of a run that made all rounds."""
        plan, name, section = self.plan, config.data.dataset.name, config.privacy
        if section is None:
            raise ValueError("the config has no `privacy`")
        return Statement(
            unit_in_words=f"one client: all rows of {name} that share one value of `{self.unit}`",
            mechanism=Mechanism(
                name=MECHANISMS[section.mechanism].experiment_title,
                sampler=str(plan.sampling.parameters()["scheme"]),
                clipping_norm=plan.base.clipping.norm,
                noise_multiplier=plan.base.sum_multiplier,
                batch_size=config.clients_per_round,
                epochs=-(-plan.rounds * config.clients_per_round // (plan.clients or 1)),
                steps=plan.rounds,
                units=plan.clients,
                dp_event=events.to_json(plan.event),
                engine=config.algorithm.engine,
                plan=self.parameters(),
            ),
            assumptions=[
                *_assumptions(self),
                *distributed_record.assumptions(plan, released=counted.get(RELEASED)),
            ],
            data_accesses=[
                DataAccess(what="training", covered=True, detail="clipped and noised updates of sampled clients"),
                *uncovered(config),
                *distributed_record.accesses(plan, over=counted.get(WRAPPED)),
            ],
        )


def charged(config: ExperimentConfig, *, units: int) -> ChargedExperiment:
    """Return the plan of a run, before any data is read.

    Args:
        config: settings with a privacy block.
        units: registered number of clients of the train split.

    Raises:
        BadInputError: there is no privacy block, or its parts do not go together.
        AccountingError: no epsilon is known for them.
    """
    section, unit = config.privacy, config.data.dataset.privacy_unit
    if section is None or not isinstance(unit, KeyedUnit):
        raise BadInputError("a guarantee needs a `privacy` block and a key column as the privacy unit")
    adaptive = None
    if section.adaptive is not None:
        # Andrew et al. 2021 take a twentieth of the cohort.
        given = {"count_noise": config.clients_per_round / 20, **section.adaptive.model_dump(exclude_none=True)}
        adaptive = AdaptiveClipping(**given)
    plan = FederatedPlan.calibrated(
        rounds=config.rounds,
        clients_per_round=config.clients_per_round,
        delta=section.delta,
        clipping_norm=section.clipping_norm,
        clients=units,
        epsilon=section.target_epsilon,
        noise_multiplier=section.noise_multiplier,
        adaptive=adaptive,
        sampling=section.scheme,
        attendance=Attendance(dropout=section.dropout, straggler=section.straggler),
        distributed=_distributed(section),
    )
    training = config.model_dump(mode="json", include={"model", "algorithm", "seeds"})
    return ChargedExperiment(plan=plan, unit=unit.key, contribution_bound=unit.contribution_bound, training=training)


def _distributed(section: PrivacySection) -> DistributedSettings | None:
    if section.distributed is None:
        return None
    return DistributedSettings(family=section.mechanism, **section.distributed.model_dump())


def require_room(config: ExperimentConfig, charge: ChargedExperiment, features: FeaturePlan) -> None:
    """Refuse, before anything is spent, a model that the plan's encoding has no room for.

    Args:
        config: settings.
        charge: the plan.
        features: public facts of the columns.

    Raises:
        BadInputError: the model has more trainable weights than accounted.
    """
    if charge.plan.distributed is None:
        return
    widths = [sum(map(width_of, features.columns)), *config.model.hidden_units, 1]
    charge.plan.distributed.require_room(sum((left + 1) * right for left, right in itertools.pairwise(widths)))


REGISTER_FIX = "privacy-pipeline federated register EXPERIMENT.yaml --epsilon CAP --delta DELTA"


def registered(config: ExperimentConfig, ledger: Ledger, *, span: Span) -> Registration:
    """Return what the ledger holds of the experiment's dataset.

    Raises:
        BudgetRefusedError: it is not registered.
    """
    name = config.data.dataset.name
    found = ledger.registration(name, span)
    if found is None:
        raise BudgetRefusedError(
            f"dataset {name} is not registered in the ledger, so nothing may be spent on it",
            fix=REGISTER_FIX,
        )
    return found


def _assumptions(charge: ChargedExperiment) -> list[Assumption]:
    drawn = Assumption(
        name="each client is drawn independently with the same probability",
        held=True,
        detail="cohorts came from the plan's own sampler; no client was in a round twice (checked)",
    )
    if charge.plan.distributed is not None:
        drawn = Assumption(
            name="each client is in at most one round of an epoch",
            held=True,
            detail="cohorts came from the plan's own sampler, and were counted; no amplification is claimed",
        )
    return [
        drawn,
        Assumption(
            name="the sum is divided by a fixed number",
            held=True,
            detail=f"by {charge.plan.expected_clients:g} in every round, however many clients came",
        ),
        Assumption(
            name="one person is one client",
            held=True,
            detail=f"as far as one value of `{charge.unit}` is one person; nothing here can check that",
        ),
        Assumption(
            name="no client holds more rows than registered",
            held=True,
            detail=f"at most {charge.contribution_bound} (checked); an update is clipped as a whole",
        ),
    ]


def uncovered(config: ExperimentConfig) -> list[DataAccess]:
    """Return what no guarantee of an experiment covers."""
    return [
        DataAccess(
            what="training losses, cohort sizes and example counts",
            covered=False,
            detail="not computed, or not released: the run's files hold none of them",
        ),
        DataAccess(
            what="evaluation",
            covered=False,
            detail=f"exact metrics on the eval split, each {config.evaluation.every} rounds, and their spread over "
            "its clients; anyone who reads the run's files or the comparison can see them",
        ),
        DataAccess(
            what="choice of settings",
            covered=False,
            detail="every run of a sweep is charged; choosing among them by exact evaluation is not covered",
        ),
        DataAccess(
            what="times",
            covered=False,
            detail="how long a round takes reveals how many rows its clients have; the run's files hold no duration, "
            "but anyone who watches the machine, its files' dates or the ledger's times sees one",
        ),
        *_personalized(config),
    ]


def _personalized(config: ExperimentConfig) -> list[DataAccess]:
    clients = config.evaluation.personalize
    if not clients:
        return []
    return [
        DataAccess(
            what="personalization",
            covered=False,
            detail=f"the model is tuned on half of the rows of up to {clients} clients of the eval split, one by one, "
            "without noise; what that does for them is exact",
        )
    ]
