"""What a request has to fulfil before its cost is even checked, and how a refusal is worded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privacy_pipeline.accounting import truncation
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.ledger.charging import unions
from privacy_pipeline.ledger.charging.unprotected import check_use
from privacy_pipeline.ledger.state.budgets import budgets_of, find_budget
from privacy_pipeline.ledger.state.entries import Forecast, Price, budget_key
from privacy_pipeline.ledger.state.held import against_cap
from privacy_pipeline.ledger.state.policy import stored_policy
from privacy_pipeline.ledger.state.registration import TRAIN, Registration, from_row
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.spans import Span

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import ChargedPlan
    from privacy_pipeline.ledger.charging.budget_check import BudgetCheck
    from privacy_pipeline.ledger.charging.request import Request
    from privacy_pipeline.ledger.charging.unions import Union
    from privacy_pipeline.ledger.state.registration import Division

_WHAT_FITS = "ask for less (more noise, fewer epochs): `privacy-pipeline budget forecast CONFIG` prints what fits"


def paying_budgets(
    connection: sa.Connection, *, dataset: str, span: Span, split: str, union: Union | None
) -> tuple[Registration, list[sa.RowMapping]]:
    """Return the registration of what a run asks to read, and the budgets that pay, each once.

    Args:
        connection: a transaction.
        dataset: its name.
        span: the span, or several.
        split: the split.
        union: the spans together, where they are several; they are checked against the present registrations.

    Raises:
        BudgetRefusedError: it is not registered, or its split has no budget or one that was closed.
    """
    if union is not None:
        union.require_current(connection)
        registered = union.whole
    else:
        registered = unions.registered_span(connection, dataset, span)
    budgets = budgets_of(connection, dataset, split=split, span=span)
    if not budgets:
        fix = "set `eval_epsilon` in the dataset's policy: privacy-pipeline budget init, then budget apply"
        raise BudgetRefusedError(f"split {split!r} of dataset {dataset} has no budget", fix=fix)
    for budget in budgets:
        policy = stored_policy(budget["policy"])
        if split != TRAIN and policy is not None and policy.is_closed:
            raise BudgetRefusedError(
                f"the budget of split {split!r} of dataset {dataset} is closed: its policy has no `eval_epsilon` any "
                "more",
                fix="set `eval_epsilon` in the dataset's policy, then: privacy-pipeline budget apply FILE",
            )
    return registered, budgets


def check_plan(plan: ChargedPlan, registered: Registration, *, split: str) -> None:
    """Check a plan against the registered facts that its guarantee rests on.

    Raises:
        BudgetRefusedError: unit, relation, number of units or contribution bound differ.
    """
    pairs: tuple[tuple[str, object, object], ...] = (
        ("privacy unit", plan.unit, registered.unit),
        ("neighbouring relation", plan.relation.value, registered.relation.value),
    )
    if plan.relation is Relation.ZERO_OUT:  # else the number is secret, and the plan has none
        pairs += (("number of units in the split", plan.units, registered.splits[split].units),)
    for what, planned, known in pairs:
        if planned != known:
            raise BudgetRefusedError(
                f"dataset {registered.name} is registered with {what} {known!r}, but the plan has {planned!r}",
                fix="let the config state what was registered; a budget has one unit and one relation",
            )
    if plan.contribution_bound > registered.contribution_bound:
        raise BudgetRefusedError(
            f"dataset {registered.name} is registered with at most {registered.contribution_bound} rows of a unit, but "
            f"the plan uses {plan.contribution_bound}",
            fix="lower contribution_bound",
        )


def check_data(connection: sa.Connection, request: Request, registered: Registration) -> None:
    """Check the data that a run will read against what was registered.

    Raises:
        BudgetRefusedError: it is other data, or divided otherwise.
    """
    require_division(registered, request.division)
    if request.data_digest == registered.digest:
        return
    table = schema.registrations
    known = connection.execute(sa.select(table).where(table.c.digest == request.data_digest)).mappings().first()
    if known is not None:
        owner = from_row(known).name
        raise BudgetRefusedError(
            f"the data of this run is registered as {owner}, not as {registered.name}",
            fix=f"set dataset.name and dataset.span to those of {owner}: its budget is charged for this data",
        )
    raise BudgetRefusedError(
        f"the data is not what was registered as {registered.name}",
        fix=f"restore the registered data, or register the new data under a span of its own: {schema.REGISTER_FIX}",
    )


def require_division(registered: Registration, division: Division | None) -> None:
    """Check the way in which a run divides rows into splits against the registered one.

    Args:
        registered: the registration; one of an older format has none.
        division: the run's; None where it is not stated.

    Raises:
        BudgetRefusedError: they differ: units of the eval split would be trained on.
    """
    if registered.division is not None and division is not None and division != registered.division:
        raise BudgetRefusedError(
            f"{registered.name} is registered with {registered.division.told}, and the run has {division.told}: units "
            "of one split would come into the other",
            fix="divide it as it was registered; other splits are another dataset, which needs other people's data",
        )


def forecast_of(checked: Sequence[BudgetCheck]) -> Forecast:
    """Return what a checked run would do to the budget with the least room; the other ones that would pay come
    with it.
    """
    # A budget that refuses comes before any that grants, so the first shows whether all of them grant.
    ordered = sorted(checked, key=lambda one: (one.fits, one.runs_that_fit, one.budget["epsilon"] - one.held_after))
    first, *others = (_forecast(one) for one in ordered)
    return dataclasses.replace(first, others=tuple(others))


def _forecast(checked: BudgetCheck) -> Forecast:
    delta = checked.budget["delta"]
    return Forecast(
        epsilon_run=checked.cost.epsilon(delta),
        epsilon_before=checked.held_before,
        epsilon_after=checked.held_after,
        cap=checked.budget["epsilon"],
        delta=delta,
        fits=checked.fits,
        runs_that_fit=checked.runs_that_fit,
        limit=_limit(checked)[0],
        budget=budget_key(checked.budget),
    )


def check_principal(
    connection: sa.Connection,
    budgets: Sequence[Mapping[Any, Any]],
    principal: str,
    *,
    backend: str | None = None,
) -> None:
    """Refuse users whom the policy does not name, and what it does not allow; the train split's holds for both.

    Raises:
        BudgetRefusedError: the policy of a budget does not name this user among those who may spend, or does not allow
            the backend that trains.
    """
    for budget in budgets:
        governs = budget if budget["split"] == TRAIN else find_budget(connection, budget["dataset"])
        policy = stored_policy(governs["policy"] if governs is not None else None)
        if policy is not None and policy.may_spend is not None and principal not in policy.may_spend:
            raise BudgetRefusedError(
                f"{principal} may not spend budget {budget_key(budget)}",
                fix=f"ask one of {', '.join(policy.may_spend)}, or the owner of the policy",
            )
        if policy is not None and budget["split"] == TRAIN:
            check_use(policy, backend=backend, guarantee=True)


def _limit(checked: BudgetCheck) -> tuple[str, str]:
    """Return what refuses a run where it is not the cap's epsilon alone, and what to do; empty texts otherwise."""
    cap, delta = float(checked.budget["epsilon"]), float(checked.budget["delta"])
    within = checked.filter_epsilon <= cap
    if checked.fits:
        return "", ""
    if checked.share < 1 and checked.runs_in_share == 0 and (within or checked.share == 0):
        used = (
            f"purpose {checked.purpose!r} may use {checked.share:.0%} of the budget (of its Renyi divergence at order"
        )
        return f"{used} {checked.order:g}), which does not hold it", "or change `shares` in the budget's policy"
    if within and checked.truncations_that_fit == 0:
        return (
            f"cutting batches at `truncate_at`, or releasing unknown values above a threshold, costs more of the cap's "
            f"delta {delta:g} than the {truncation.SHARE:.0%} that are kept for it",
            "raise truncate_at, or use sampling: poisson, which cuts nothing; ask for values of public domains only",
        )
    return "", ""


def refusal(checked: Sequence[BudgetCheck], cost: Price) -> BudgetRefusedError:
    """Return the refusal for anyone who asked for more than there is.

    Args:
        checked: the run against each budget that would pay; at least one refuses it.
        cost: its cost.
    """
    lacking = [_lack(one, cost) for one in checked if not one.fits]
    message, fix = "; ".join(told for told, _ in lacking), lacking[0][1]
    if len(checked) > 1:
        message += f"; the run's spans have {len(checked)} budgets, and none of them was charged"
    return BudgetRefusedError(message, fix=fix)


def _lack(checked: BudgetCheck, cost: Price) -> tuple[str, str]:
    """Return what one budget lacks, and what to do."""
    cap, delta = float(checked.budget["epsilon"]), float(checked.budget["delta"])
    told = (
        f"budget {budget_key(checked.budget)}: counted against the cap: {against_cap(checked.held_before, cap)}; "
        f"this run costs {cost.epsilon(delta):.4f} (RDP, delta {delta:g})"
    )
    limit, fix = _limit(checked)
    if not limit:
        remain = max(0.0, cap - checked.held_before)
        message = (
            f"{told}, with it {against_cap(checked.held_after, cap)} would be counted (Renyi order "
            f"{checked.order:g}), above the cap of {cap:g}; {remain:.4f} remain"
        )
        return message, f"{_WHAT_FITS}; or have the owner of the budget raise its cap"
    return f"{told}; {limit}", fix if fix.startswith("raise") else f"{_WHAT_FITS}; {fix}"
