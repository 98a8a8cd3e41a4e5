"""The engine's PrivacyPlan of a config, and the MechanismPlan that the ledger and the record take from it.

Event, parameters and digest have one source, the PrivacyPlan; the trainer makes it again from the same config and is
refused if it is another one than what was reserved. No TensorFlow.
"""

from __future__ import annotations

from typing import Any

from privacy_pipeline.accounting.accountants import AccountingError
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.config.dp_models import DpSgdSection
from privacy_pipeline.config.models import KeyedUnit, PipelineConfig
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.errors import BadInputError, PipelineError

BACKEND = "dp_sgd"
_SCHEMES = {"shuffled": "fixed_partition"}
_MECHANISMS = {"none": "DP-SGD (Gaussian)", "tree": "DP-FTRL (tree aggregation)", "banded": "DP-MF (banded matrix)"}


def privacy_plan(config: PipelineConfig, *, units: int | None, noise_multiplier: float | None = None) -> PrivacyPlan:
    """The plan that a config asks for.

    Args:
        config: the whole config.
        units: registered number of privacy units in the training split; not looked at under add-or-remove-one.
        noise_multiplier: instead of calibrating one to the config's target.

    Raises:
        BadInputError: the config asks for what cannot be planned, or the dataset is not registered.
        AccountingError: there is no epsilon for what the config asks for.
    """
    section, training = _section(config), config.training
    relation = Relation(section.relation)
    noise = noise_multiplier or section.noise_multiplier
    options: dict[str, Any] = {}
    if section.truncate_at is not None:
        options["truncate_at"] = section.truncate_at
    return PrivacyPlan.calibrated(
        units=_public_units(config, units) if relation is Relation.ZERO_OUT else None,
        expected_batch_size=float(training.batch(units=units or 0)),
        sampling_probability=section.sampling_probability,
        epochs=float(training.epochs),
        epsilon=section.target_epsilon if noise is None else None,
        noise_multiplier=noise,
        delta=section.delta,
        clipping_norm=section.clipping_norm,
        relation=relation,
        sampling=_SCHEMES.get(section.sampling, section.sampling),
        per_layer=section.per_layer,
        hardened=section.hardened,
        **options,
    )


def mechanism_plan(config: PipelineConfig, plan: PrivacyPlan) -> MechanismPlan:
    """What the ledger charges for a plan.

    Raises:
        AccountingError: the plan has no known epsilon, so that nothing may be trained under it here.
    """
    from dp_accounting import UnsupportedDpEvent

    event = plan.event
    if isinstance(event, UnsupportedDpEvent):
        raise AccountingError(
            "training.dp_sgd: epsilon is unknown: there is no proven bound for this combination of noise and sampling",
            fix="correlated noise needs `sampling: cyclic`, and no more bands than steps of an epoch",
        )
    section, unit = _section(config), config.dataset.privacy_unit
    parameters = plan.parameters()
    return MechanismPlan(
        backend=BACKEND,
        mechanism=_MECHANISMS[section.noise.correlation],
        unit=unit.key if isinstance(unit, KeyedUnit) else "row",
        contribution_bound=1,
        relation=plan.relation,
        sampler=Sampler(parameters["sampling"]["scheme"]),
        units=plan.units,
        epochs=config.training.epochs,
        batch_size=round(plan.expected_batch_size),
        steps=plan.steps,
        clipping_norm=plan.clipping.norm,
        noise_multiplier=plan.noise.multiplier,
        delta=plan.delta,
        event=event,
        engine=section.engine,
        engine_parameters=parameters,
    )


def reserved_plan(config: PipelineConfig, mechanism: MechanismPlan) -> PrivacyPlan:
    """The PrivacyPlan behind a reserved mechanism, made anew from the config.

    Raises:
        PipelineError: the config gives another plan than the one that was reserved.
    """
    plan = privacy_plan(config, units=mechanism.units, noise_multiplier=mechanism.noise_multiplier)
    again = mechanism_plan(config, plan)
    if again.digest() != mechanism.digest() or again.event != mechanism.event:
        raise PipelineError("the config gives another plan than the one whose cost was reserved; nothing was trained")
    return plan


def _section(config: PipelineConfig) -> DpSgdSection:
    if config.training.dp_sgd is None:
        raise BadInputError("training.dp_sgd is missing", fix="add the block with `delta` and `target_epsilon`")
    return config.training.dp_sgd


def _public_units(config: PipelineConfig, units: int | None) -> int:
    unit = config.dataset.privacy_unit
    if isinstance(unit, KeyedUnit):
        raise BadInputError(
            f"dataset.privacy_unit: backend dp_sgd protects single rows; user-level DP-SGD needs clipping by "
            f"'{unit.key}', which it does not do",
            fix="set privacy_unit: row if a row is whose privacy is at stake",
        )
    if units is None:
        raise BadInputError(
            f"dataset.name: '{config.dataset.name}' is not registered in the ledger, so the number of units is unknown",
            fix="privacy-pipeline budget register CONFIG",
        )
    batch_size = config.training.batch(units=units)
    if batch_size > units:
        raise BadInputError(
            f"training.batch_size: {batch_size} is more than the {units} units of the training split",
            fix=f"set training.batch_size to at most {units}",
        )
    return units
