"""Checks what ran against what was planned, since the plan is what the ledger accounts."""

from __future__ import annotations

from privacy_pipeline.accounting.events import canonical
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.backends.base import Executed
from privacy_pipeline.errors import PipelineError


def require_units(plan: MechanismPlan, *, units: int) -> None:
    """Refuse a training split of another size than the registered one.

    Under ZERO_OUT the number of units is public, and the plan's probability was computed from it. Under
    ADD_OR_REMOVE_ONE nothing was, and the number is not even looked at.

    Args:
        plan: the reserved plan.
        units: privacy units of the training split as read.

    Raises:
        PipelineError: the numbers differ.
    """
    if plan.relation is Relation.ZERO_OUT and units != plan.units:
        raise PipelineError(
            f"the training split has {units} privacy units ({plan.unit}), but {plan.units} units are registered; the "
            "budget that was reserved for this run stays spent",
            fix="register the dataset again if its files have changed: privacy-pipeline budget register CONFIG",
        )


def require_executed_as_planned(plan: MechanismPlan, executed: Executed) -> None:
    """Refuse to hand out a model whose training differs from what was accounted.

    Args:
        plan: the reserved plan.
        executed: what ran.

    Raises:
        PipelineError: a number differs from the plan's, another sampler drew the batches, the event is another one,
            or a unit was used more often than the event allows.
    """
    require_units(plan, units=executed.examples if executed.units is None else executed.units)
    pairs = (
        ("steps", executed.steps, plan.steps),
        ("epochs", executed.epochs, plan.epochs),
        ("as the sampler", executed.sampler, plan.sampler.value),
    )
    for name, ran, planned in pairs:
        if ran != planned:
            raise PipelineError(f"{ran} {name} ran, but {planned} were accounted; the model is not handed out")
    if executed.event is None or canonical(executed.event) != canonical(plan.event):
        raise PipelineError("what ran has another DpEvent than what was accounted; the model is not handed out")
    once = plan.sampler is Sampler.SHUFFLED or plan.sampler is Sampler.CYCLIC
    if once and (executed.largest_participation is None or executed.largest_participation > 1):
        raise PipelineError(
            f"a unit was in {executed.largest_participation} batches of one epoch, but 1 was accounted; the model is "
            "not handed out"
        )
