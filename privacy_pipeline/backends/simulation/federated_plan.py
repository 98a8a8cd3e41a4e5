"""The FederatedPlan of a config, and the MechanismPlan that the ledger and the record take from it. No TensorFlow.

As with `private_plan`: event, parameters and digest have one source; the trainer makes the plan again from the same
config and is refused if it differs from the one that was reserved.
"""

from __future__ import annotations

from federated.privacy.cohort_plan import Attendance, CohortPlan
from federated.privacy.distributed_noise import DistributedSettings
from federated.privacy.listed import MECHANISMS
from federated.privacy.plan import FederatedPlan
from privacy_pipeline.accounting.plan import MechanismPlan, Sampler
from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.federated_privacy import FederatedPrivacySection, FederatedSection
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.dp.plan import AdaptiveClipping
from privacy_pipeline.errors import BadInputError

BACKEND = "federated"


def section_of(config: PipelineConfig) -> FederatedSection:
    """Return the backend's block.

    Raises:
        BadInputError: it is missing.
    """
    if config.training.federated is None:
        raise BadInputError("training.federated is missing", fix="add the block")
    return config.training.federated


def cohort_plan(config: PipelineConfig, *, clients: int) -> CohortPlan:
    """Return who takes part in the rounds of a run that claims no guarantee.

    Raises:
        BadInputError: a round has more clients than there are.
    """
    section = section_of(config)
    return CohortPlan.of(
        clients=_enough(config, clients),
        clients_per_round=float(config.training.batch_size or 0),
        epochs=float(config.training.epochs),
        sampling=section.scheme,
        attendance=_attendance(section),
    )


def federated_plan(
    config: PipelineConfig, *, clients: int | None, noise_multiplier: float | None = None
) -> FederatedPlan:
    """Return the plan that a config with `privacy` asks for.

    Args:
        config: the whole config.
        clients: registered number of clients in the training split.
        noise_multiplier: instead of calibrating one to the config's target.

    Raises:
        BadInputError: the dataset is not registered, or the config asks for what cannot be planned.
        AccountingError: there is no epsilon for what the config asks for.
    """
    section, privacy = section_of(config), _privacy(config)
    if clients is None:
        raise BadInputError(
            f"dataset.name: '{config.dataset.name}' is not registered in the ledger: the number of clients is unknown",
            fix="privacy-pipeline budget register CONFIG",
        )
    noise = noise_multiplier or privacy.noise_multiplier
    return FederatedPlan.calibrated(
        clients=_enough(config, clients),
        clients_per_round=float(config.training.batch_size or 0),
        epochs=float(config.training.epochs),
        sampling=section.scheme,
        epsilon=privacy.target_epsilon if noise is None else None,
        noise_multiplier=noise,
        delta=privacy.delta,
        clipping_norm=privacy.clipping_norm,
        correlation=MECHANISMS[privacy.mechanism].correlation,
        adaptive=AdaptiveClipping(**privacy.adaptive.model_dump()) if privacy.adaptive else None,
        hardened=privacy.hardened,
        attendance=_attendance(section),
        distributed=_distributed(privacy),
    )


def _distributed(privacy: FederatedPrivacySection) -> DistributedSettings | None:
    if privacy.distributed is None:
        return None
    return DistributedSettings(family=privacy.mechanism, **privacy.distributed.model_dump())


def mechanism_plan(config: PipelineConfig, plan: FederatedPlan) -> MechanismPlan:
    """Return what the ledger charges for a plan.

    Raises:
        BadInputError: no column names the client.
        AccountingError: the plan has no known epsilon, so that nothing may be trained under it here.
    """
    from dp_accounting import UnsupportedDpEvent

    event, unit = plan.event, config.dataset.privacy_unit
    if isinstance(event, UnsupportedDpEvent):
        raise AccountingError(
            "training.federated.privacy: epsilon is unknown: there is no proven bound for this noise and sampling",
            fix="`mechanism: tree` needs `sampling: cyclic`",
        )
    if not isinstance(unit, KeyedUnit):
        raise BadInputError("training.federated.privacy protects clients", fix="dataset.privacy_unit: {key: COLUMN}")
    parameters = plan.parameters()
    return MechanismPlan(
        backend=BACKEND,
        mechanism=MECHANISMS[_privacy(config).mechanism].title,
        unit=unit.key,
        contribution_bound=unit.contribution_bound,
        relation=plan.relation,
        sampler=Sampler(parameters["sampling"]["scheme"]),
        units=plan.clients,
        epochs=config.training.epochs,
        batch_size=round(plan.expected_clients),
        steps=plan.rounds,
        clipping_norm=plan.base.clipping.norm,
        noise_multiplier=plan.base.noise.multiplier,
        delta=plan.delta,
        event=event,
        engine=section_of(config).algorithm.engine,
        engine_parameters=parameters,
    )


def reserved_plan(config: PipelineConfig, mechanism: MechanismPlan) -> FederatedPlan:
    """Return the FederatedPlan behind a reserved mechanism, made again from the config.

    Raises:
        PipelineError: the config gives another plan than the one that was reserved.
    """
    plan = federated_plan(config, clients=mechanism.units, noise_multiplier=mechanism.noise_multiplier)
    mechanism.require_same(mechanism_plan(config, plan))
    return plan


def _privacy(config: PipelineConfig) -> FederatedPrivacySection:
    privacy = section_of(config).privacy
    if privacy is None:
        raise BadInputError("training.federated.privacy is missing", fix="add it, with `delta` and `target_epsilon`")
    return privacy


def _attendance(section: FederatedSection) -> Attendance:
    return Attendance(dropout=section.attendance.dropout, straggler=section.attendance.straggler)


def _enough(config: PipelineConfig, clients: int) -> int:
    cohort = config.training.batch_size or 0
    if cohort > clients:
        raise BadInputError(
            f"training.batch_size: {cohort} clients of a round are more than the {clients} of the training split",
            fix=f"set training.batch_size to at most {clients}",
        )
    return clients
