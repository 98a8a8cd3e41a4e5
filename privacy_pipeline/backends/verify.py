"""Holds what ran against what was planned, since the plan is what the ledger accounts."""

from __future__ import annotations

from privacy_pipeline.accounting.plan import MechanismPlan, Relation
from privacy_pipeline.errors import PipelineError


def require_units(plan: MechanismPlan, *, examples: int) -> None:
    """Refuses a training split of another size than the registered one.

    Under ZERO_OUT the number of units is public, and the plan's steps were computed from it.

    Args:
        plan: the reserved plan.
        examples: rows of the training split as read.

    Raises:
        PipelineError: the numbers differ.
    """
    if plan.relation is Relation.ZERO_OUT and examples != plan.units:
        raise PipelineError(
            f"the training split has {examples} rows, but {plan.units} units are registered; the budget that was "
            "reserved for this run stays spent",
            fix="register the dataset again if its files have changed: privacy-pipeline budget register CONFIG",
        )


def require_executed_as_planned(
    plan: MechanismPlan, *, steps: int, epochs: int, examples: int, largest_participation: int
) -> None:
    """Refuses to hand out a model whose training differs from what was accounted.

    Args:
        plan: the reserved plan.
        steps: optimizer updates made.
        epochs: passes made.
        examples: rows of the training split as read.
        largest_participation: most batches that one row was in during one epoch.

    Raises:
        PipelineError: a number differs from the plan's, or a row was used more often than the event allows.
    """
    require_units(plan, examples=examples)
    for name, ran, planned in (("steps", steps, plan.steps), ("epochs", epochs, plan.epochs)):
        if ran != planned:
            raise PipelineError(f"{ran} {name} ran, but {planned} were accounted; the model is not handed out")
    if largest_participation > 1:
        raise PipelineError(
            f"a row was in {largest_participation} batches of one epoch, but 1 was accounted; the model is not "
            "handed out"
        )
