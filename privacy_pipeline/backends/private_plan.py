"""The engine's PrivacyPlan of a config, and the MechanismPlan that the ledger and the record take from it.

Event, parameters and digest have one source, the PrivacyPlan; the trainer makes it again from the same config and is
refused if it is another one than what was reserved. No TensorFlow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from privacy_pipeline.accounting.calibration import calibrate_noise_multiplier
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.accounting.tuning import whole_event
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.dp import DpSgdSection, UsersSection
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.config.models.tuning import TuningSection
from privacy_pipeline.dp.mechanism.listed import CORRELATIONS
from privacy_pipeline.dp.mechanism.sampling import cap_for_extra_delta
from privacy_pipeline.dp.plan import AdaptiveClipping, PrivacyPlan, UserBound
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

BACKEND = "dp_sgd"
_LARGEST_USUAL_CAP = 10.0  # epsilon of a budget at which the default truncation still costs nearly nothing


def privacy_plan(config: PipelineConfig, *, units: int | None, noise_multiplier: float | None = None) -> PrivacyPlan:
    """Return the plan that a config asks for; with `training.tuning`, of one of its trials, all of which meet the
    target.

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
    if noise is None and training.tuning is not None:
        noise = _noise_of_tuning(config, training.tuning, units=units)
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
        sampling=section.sampling,
        per_layer=section.per_layer,
        truncate_at=section.truncate_at or _default_cap(config, units),
        hardened=section.hardened,
        correlation=section.noise.correlation,
        bands=section.noise.bands,
        adaptive=AdaptiveClipping(**section.adaptive.model_dump()) if section.adaptive else None,
        users=_user_bound(config),
    )


def _noise_of_tuning(config: PipelineConfig, tuning: TuningSection, *, units: int | None) -> float:
    """Return the least noise of each trial with which the whole tuning meets the target epsilon."""
    section = _section(config)
    # Adaptive clipping is left out while the noise is searched for: the event is that of the whole multiplier.
    bare = section.model_copy(update={"adaptive": None})
    searched = config.model_copy(update={"training": config.training.model_copy(update={"dp_sgd": bare})})
    some = mechanism_plan(searched, privacy_plan(searched, units=units, noise_multiplier=1.0))

    def whole(noise: float) -> DpEvent:
        return whole_event(tuning, privacy_plan(searched, units=units, noise_multiplier=noise).event)

    return calibrate_noise_multiplier(
        whole, target_epsilon=float(section.target_epsilon or 0.0), delta=some.delta, relation=some.relation
    )


def mechanism_plan(config: PipelineConfig, plan: PrivacyPlan) -> MechanismPlan:
    """Return what the ledger charges for a plan.

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
        backend=config.training.backend,
        mechanism=CORRELATIONS[section.noise.correlation].title,
        unit=unit.key if isinstance(unit, KeyedUnit) else "row",
        contribution_bound=plan.users.max_examples if plan.users else 1,
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
    """Return the PrivacyPlan behind a reserved mechanism, made again from the config.

    Raises:
        PipelineError: the config gives another plan than the one that was reserved.
    """
    plan = privacy_plan(config, units=mechanism.units, noise_multiplier=mechanism.noise_multiplier)
    mechanism.require_same(mechanism_plan(config, plan))
    return plan


def _section(config: PipelineConfig) -> DpSgdSection:
    if config.training.dp_sgd is None:
        raise BadInputError("training.dp_sgd is missing", fix="add the block with `delta` and `target_epsilon`")
    return config.training.dp_sgd


def _default_cap(config: PipelineConfig, units: int | None) -> int | None:
    """Return where to cut batches so that this costs next to nothing of delta, also in budgets with a high cap."""
    section, training = _section(config), config.training
    if section.sampling != "truncated_poisson":
        return None
    known = _public_units(config, units)
    probability = training.batch(units=known) / known
    epsilon = max(section.target_epsilon or 0.0, _LARGEST_USUAL_CAP)
    steps = math.floor(training.epochs / probability)
    spare = section.delta / 1000
    return cap_for_extra_delta(spare, probability=probability, units=known, steps=steps, epsilon=epsilon)


def _user_bound(config: PipelineConfig) -> UserBound | None:
    """Return what a user may contribute to a step, where rows belong to users."""
    section, unit = _section(config), config.dataset.privacy_unit
    if not isinstance(unit, KeyedUnit):
        return None
    if section.engine != "native":
        raise BadInputError(
            f"training.dp_sgd.engine: {section.engine} protects single rows, not all rows of one '{unit.key}'",
            fix="set engine: native, or privacy_unit: row if a row is whose privacy is at stake",
        )
    users = section.users or UsersSection()
    return UserBound(max_examples=users.max_examples or unit.contribution_bound, clip=users.clip)


def _public_units(config: PipelineConfig, units: int | None) -> int:
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
