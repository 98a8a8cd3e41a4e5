"""Privacy of the records inside the silos of a run: its plan, what the ledger charges, and what the record states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from federated.experiments.charging.charge import Charge
from federated.experiments.charging.privacy import uncovered
from federated.experiments.charging.record import Statement
from federated.experiments.config import ExperimentConfig
from federated.silos.plan import SiloPlan
from federated.silos.statement import MECHANISM, silo_accesses, silo_assumption
from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.record import Assumption, DataAccess, Mechanism
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.dp.mechanism.mechanism import UserBound
from privacy_pipeline.errors import BadInputError


@dataclass(frozen=True, kw_only=True)
class ChargedSilos(Charge):
    """What the ledger charges for one run; keeps `accounting.plan.ChargedPlan`.

    Attributes:
        plan: the mechanism that a unit of any silo goes through.
        column: names a row's silo.
    """

    plan: SiloPlan
    column: str

    @property
    def contribution_bound(self) -> int:
        """Rows of one unit that a step may use."""
        return 1 if self.plan.base.users is None else self.plan.base.users.max_examples

    @property
    def units(self) -> int | None:
        """Registered number of units over all silos."""
        return self.plan.units

    def parameters(self) -> dict[str, Any]:
        """Return the plan as JSON values, with the names of unit and silo."""
        return {**super().parameters(), "contribution_bound": self.contribution_bound, "silo": self.column}

    def statement(self, config: ExperimentConfig, counted: Mapping[str, Any]) -> Statement:
        """Return what the record states of a run that made all rounds."""
        del counted
        plan, name = self.plan, config.data.dataset.name
        rows = (
            f"one row of {name}" if self.unit == "row" else f"all rows of {name} that share one value of `{self.unit}`"
        )
        return Statement(
            unit_in_words=f"{rows}, in the silo (`{self.column}`) that holds them",
            mechanism=Mechanism(
                name=MECHANISM,
                sampler="poisson",
                clipping_norm=plan.base.clipping.norm,
                noise_multiplier=plan.base.noise.multiplier,
                batch_size=round(plan.base.expected_batch_size),
                epochs=math.ceil(plan.steps * plan.probability - 1e-9),
                steps=plan.steps,
                units=plan.units,
                dp_event=events.to_json(plan.event),
                engine="native",
                plan=self.parameters(),
            ),
            assumptions=[
                silo_assumption(dict(plan.silos)),
                Assumption(
                    name="the number of units is public",
                    held=True,
                    detail=f"{plan.units} units trained on, as registered; those of each silo as stated (checked)",
                ),
            ],
            data_accesses=[
                DataAccess(what="training", covered=True, detail="the final model and everything computed from it"),
                *silo_accesses(self.column),
                *uncovered(config),
            ],
        )


def charged(config: ExperimentConfig, *, units: int) -> ChargedSilos:
    """Return the plan of a run, before any data is read.

    Args:
        config: settings with a `silo_privacy` block.
        units: registered number of privacy units of the train split.

    Raises:
        BadInputError: there is no such block, or the stated silos do not add up to the registered units.
        AccountingError: no epsilon is known for it.
    """
    section, unit, column = config.silo_privacy, config.data.dataset.privacy_unit, config.data.client_column
    if section is None or column is None:  # refused by ExperimentConfig
        raise BadInputError("a guarantee inside silos needs a `silo_privacy` block and the silo's column")
    total = sum(section.silos.values())
    if total != units:
        raise BadInputError(
            f"silo_privacy.silos: they hold {total:,} units together, and {units:,} are registered",
            fix="privacy-pipeline federated register EXPERIMENT.yaml counts them and prints what to write",
        )
    plan = SiloPlan.calibrated(
        silos=section.silos,
        sampling_probability=section.sampling_probability,
        rounds=config.rounds,
        local_steps=section.local_steps,
        epsilon=section.target_epsilon,
        noise_multiplier=section.noise_multiplier,
        delta=section.delta,
        clipping_norm=section.clipping_norm,
        hardened=section.hardened,
        users=UserBound(max_examples=unit.contribution_bound) if isinstance(unit, KeyedUnit) else None,
    )
    training = config.model_dump(mode="json", include={"model", "algorithm", "seeds"})
    return ChargedSilos(
        plan=plan, unit=unit.key if isinstance(unit, KeyedUnit) else "row", column=column, training=training
    )
