"""The SiloPlan of a config, what the ledger takes from it, and the records that it is for.

As with `private_plan`: event, parameters and digest have one source; the trainer makes the plan again from the same
config and is refused if it differs from the one that was reserved. TensorFlow is imported only to read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from federated.clients.origin import ClientOrigin
from federated.silos.plan import SiloPlan
from federated.silos.records import SiloRecords, stated
from federated.silos.statement import MECHANISM
from privacy_pipeline import backends
from privacy_pipeline.accounting.plan import MechanismPlan, Sampler
from privacy_pipeline.backends.base import Executed, TrainingInputs
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.federated_privacy import SiloPrivacySection
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.dp.mechanism.mechanism import UserBound
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks import registry as tasks

if TYPE_CHECKING:
    from privacy_pipeline.backends.models.tabular import InputSpec
    from privacy_pipeline.backends.simulation.federated_rounds import PipelineRounds
    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.dp.rowwise.verdict import Verdict

BACKEND = "federated"
ENGINE = "native"


def section_of(config: PipelineConfig) -> SiloPrivacySection:
    """Return the block `silo_privacy`.

    Raises:
        BadInputError: it is missing.
    """
    federated = config.training.federated
    if federated is None or federated.silo_privacy is None:
        raise BadInputError("training.federated.silo_privacy is missing", fix="add the block")
    return federated.silo_privacy


def silo_plan(config: PipelineConfig, *, units: int | None, noise_multiplier: float | None = None) -> SiloPlan:
    """Return the plan that a config with `silo_privacy` asks for.

    Args:
        config: the whole config.
        units: registered number of privacy units in the training split.
        noise_multiplier: instead of calibrating one to the config's target.

    Raises:
        BadInputError: the dataset is not registered, or the stated silos do not add up to its units.
        AccountingError: there is no epsilon for what the config asks for.
    """
    section, unit = section_of(config), config.dataset.privacy_unit
    if units is None:
        raise BadInputError(
            f"dataset.name: '{config.dataset.name}' is not registered in the ledger: the number of records is unknown",
            fix="privacy-pipeline budget register CONFIG",
        )
    total, batch = sum(section.silos.values()), config.training.batch_size or 0
    if total != units:
        raise BadInputError(
            f"training.federated.silo_privacy.silos: they hold {total:,} units together, and {units:,} are registered",
            fix="privacy-pipeline budget register CONFIG counts them and prints what to write",
        )
    if batch > units:
        raise BadInputError(
            f"training.batch_size: {batch} units of a step over all silos are more than the {units} of the training "
            "split",
            fix=f"set training.batch_size to at most {units}",
        )
    noise = noise_multiplier or section.noise_multiplier
    return SiloPlan.calibrated(
        silos=section.silos,
        sampling_probability=batch / units,
        epochs=float(config.training.epochs),
        local_steps=section.local_steps,
        epsilon=section.target_epsilon if noise is None else None,
        noise_multiplier=noise,
        delta=section.delta,
        clipping_norm=section.clipping_norm,
        hardened=section.hardened,
        users=UserBound(max_examples=unit.contribution_bound) if isinstance(unit, KeyedUnit) else None,
    )


def mechanism_plan(config: PipelineConfig, plan: SiloPlan) -> MechanismPlan:
    """Return what the ledger charges for a plan: the event of one unit, whichever silo it is in."""
    unit = config.dataset.privacy_unit
    return MechanismPlan(
        backend=BACKEND,
        mechanism=MECHANISM,
        unit=unit.key if isinstance(unit, KeyedUnit) else "row",
        contribution_bound=unit.contribution_bound if isinstance(unit, KeyedUnit) else 1,
        relation=plan.relation,
        sampler=Sampler.POISSON,
        units=plan.units,
        epochs=config.training.epochs,
        batch_size=round(plan.base.expected_batch_size),
        steps=plan.steps,
        clipping_norm=plan.base.clipping.norm,
        noise_multiplier=plan.base.noise.multiplier,
        delta=plan.delta,
        event=plan.event,
        engine=ENGINE,
        engine_parameters={**plan.parameters(), "column": section_of(config).column},
    )


def reserved_plan(config: PipelineConfig, mechanism: MechanismPlan) -> SiloPlan:
    """Return the SiloPlan behind a reserved mechanism, made again from the config.

    Raises:
        PipelineError: the config gives another plan than the one that was reserved.
    """
    plan = silo_plan(config, units=mechanism.units, noise_multiplier=mechanism.noise_multiplier)
    mechanism.require_same(mechanism_plan(config, plan))
    return plan


def examined(
    config: PipelineConfig, *, features: FeaturePlan, plan: MechanismPlan, specs: Mapping[str, InputSpec]
) -> Verdict:
    """Return what is proven of the examples of a silo in the model of a config; reads no data.

    Args:
        config: the whole config.
        features: the columns and their public domains.
        plan: the mechanism.
        specs: the transformed features that may enter the model, by name.

    Raises:
        BadInputError: an example of the model reaches another one, or the model cannot be trained privately.
    """
    from federated.silos.engine import examine
    from privacy_pipeline.backends.simulation.federated_rounds import as_federated

    model = backends.keras_io.model_of(config, features=features, specs=specs)
    x, y = backends.keras_io.batch_specs(model, specs)
    return examine(as_federated(model, tasks.of(config.dataset)), reserved_plan(config, plan), x=x, y=y)


def read_silos(inputs: TrainingInputs, *, names: list[str], plan: SiloPlan) -> SiloRecords:
    """Read the training split, row by silo.

    Args:
        inputs: what the backend trains on.
        names: the model's inputs.
        plan: which silos there are, and how many units each holds.

    Raises:
        BadInputError: no row, a row without a key or a silo, or a unit with rows in two silos.
        PipelineError: the silos are not those of the plan.
    """
    from privacy_pipeline.backends.example_data import read_examples

    column, dataset = section_of(inputs.config).column, inputs.config.dataset
    examples = read_examples(
        inputs.train_files,
        transform_graph=inputs.transform_graph,
        names=names,
        keyed=isinstance(dataset.privacy_unit, KeyedUnit),
        folder=inputs.work_dir / "examples",
        classes=inputs.features.classes,
        silos=True,
    )
    records = SiloRecords.from_rows(
        silo_of_rows=np.asarray(examples.silos),
        features=dict(examples.store.x),
        labels=examples.store.y,
        owners=examples.owners,
        origin=ClientOrigin(client_is=f"a silo: all rows of {dataset.name} that share one value of '{column}'"),
    )
    records.require(plan, charged=True)
    return records


def executed(training: PipelineRounds, records: SiloRecords, plan: SiloPlan) -> Executed:
    """Return what ran in the terms of the protocol; each silo made these steps.

    A run with a fixed seed is charged as if its noise were secret, but claims no guarantee at all; its record states
    this, as a plain run's does.

    Raises:
        PipelineError: rounds are missing.
    """
    from federated.silos.engine import WITHHELD

    rounds, accounted = training.rounds, training.rounds.spent()
    accounted.require_whole()
    steps = min(rounds.done * plan.local_steps, plan.steps)
    fixed = training.key.seed_fixed
    source = "FROM A FIXED SEED, not private" if fixed else "from the OS entropy"
    return Executed(
        steps=steps,
        epochs=math.ceil(steps * plan.probability - 1e-9),
        examples=records.clients.num_examples,
        units=sum(records.counts().values()),
        largest_participation=None,
        seed_fixed=fixed,
        generator=f"noise: {accounted.generator}; sampling: NumPy Philox4x64-10 with a 128-bit key; both {source}",
        cryptographic=not fixed,
        history=training.curves.history,
        event=accounted.executed(),
        sampler=Sampler.POISSON.value,
        withheld=WITHHELD,
        resumed_at=None if rounds.resumed_at is None else min(rounds.resumed_at * plan.local_steps, plan.steps),
        rows=training.rows,
    )


def require_stated(config: PipelineConfig, counted: dict[str, int] | None) -> None:
    """Refuse stated numbers of units that are not those of the data, at registration, where they cost nothing.

    Args:
        config: the whole config.
        counted: units of each silo in the training split; None where they cannot be counted before the training.

    Raises:
        BadInputError: they differ; it names what to write.
    """
    if counted is not None and section_of(config).silos != counted:
        raise BadInputError(
            "training.federated.silo_privacy.silos: these are not the numbers of units in the training split; nothing "
            "was registered",
            fix=f"silos: {stated(counted)}",
        )
