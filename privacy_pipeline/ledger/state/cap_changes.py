"""Change the cap or the policy of a dataset's budgets; what is spent stays spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.state.budgets import UNUSED, find_budget, set_totals, totals_of, train_budgets
from privacy_pipeline.ledger.state.entries import budget_key
from privacy_pipeline.ledger.state.overlaps import require_sides_apart
from privacy_pipeline.ledger.state.policy import Policy, stored_policy
from privacy_pipeline.ledger.state.registration import EVAL, from_row
from privacy_pipeline.ledger.state.totals import Totals
from privacy_pipeline.ledger.state.unit_digests import stored_digests
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import POLICY, Writer


def change_cap(writer: Writer, budget: Mapping[Any, Any], *, epsilon: float, delta: float) -> None:
    """Change a budget's cap; see `Ledger.set_cap`."""
    _change(writer, budget, epsilon, delta, policy=_with_cap(budget["policy"], epsilon, delta), counts=True)


def _with_cap(text: str | None, epsilon: float, delta: float) -> str | None:
    policy = stored_policy(text)
    return None if policy is None else policy.model_copy(update={"epsilon": epsilon, "delta": delta}).to_json()


def _change(
    writer: Writer, budget: Mapping[Any, Any], epsilon: float, delta: float, *, policy: str | None, counts: bool
) -> None:
    _require_provable(budget, epsilon, delta)
    changes = {"epsilon": epsilon, "delta": delta, "policy": policy}
    changes |= {"cap_changes": budget["cap_changes"] + 1} if counts else {}
    set_totals(writer.connection, budget["id"], totals_of(budget), **changes)
    writer.append(POLICY, {"budget": budget["id"], "changes": changes})


def _require_provable(budget: Mapping[Any, Any], epsilon: float, delta: float) -> None:
    """Refuse a change of what has to stay as it was before the first charge (`renyi_filter`).

    Raises:
        BadInputError: another delta, or a cap above the ceiling.
    """
    key, spent = budget_key(budget), totals_of(budget).all
    if spent.count and delta != budget["delta"]:
        raise BadInputError(
            f"budget {key}: its delta is {budget['delta']:g} since the first run was charged; {delta:g} would be "
            "chosen after results were seen, and nothing is proven of that",
            fix=f"delta: {budget['delta']:g}; the cap's epsilon may change",
        )
    if spent.distance > 0 and budget["ceiling"] is not None and epsilon > budget["ceiling"]:
        raise BadInputError(
            f"budget {key}: a run that may fail was charged while no cap was to pass epsilon {budget['ceiling']:g}; "
            f"under a cap of {epsilon:g} its failure would cost more of delta than it paid",
            fix=f"an epsilon of at most {budget['ceiling']:g}; `ceiling` of a policy is set before such a run",
        )


def apply_policy(writer: Writer, policy: Policy) -> None:
    """Give a dataset's budget a policy. Anything but the first one on an unused budget counts as a change of its cap.

    Raises:
        BadInputError: the dataset is not registered, or with another unit, or the change cannot be proven sound.
    """
    budget = find_budget(writer.connection, policy.dataset)
    if budget is None:
        raise BadInputError(f"dataset {policy.dataset} is not registered in the ledger", fix=schema.REGISTER_FIX)
    if budget["unit"] != policy.unit:
        raise BadInputError(
            f"policy of dataset {policy.dataset}: unit: {policy.unit!r}, but registered is {budget['unit']!r}",
            fix=f"unit: {budget['unit']}",
        )
    for one in train_budgets(writer.connection, policy.dataset):
        if one["policy"] != policy.to_json():
            same_cap = (one["epsilon"], one["delta"]) == (policy.epsilon, policy.delta)
            unused = one["policy"] is None and same_cap and not totals_of(one).states
            _change(writer, one, policy.epsilon, policy.delta, policy=policy.to_json(), counts=not unused)
    if policy.eval_epsilon is not None:
        _eval_budget(writer, budget, policy.eval_epsilon, policy.delta)
    else:
        _close_eval_budget(writer, policy)


def _eval_budget(writer: Writer, train: Mapping[Any, Any], epsilon: float, delta: float) -> None:
    """Open the budget of the eval split's units, who are other people than those of the train split."""
    known = find_budget(writer.connection, train["dataset"], split=EVAL)
    if known is None:
        _require_sides_apart(writer.connection, train["dataset"])
        same = {name: train[name] for name in ("dataset", "span_key", "unit", "relation")}
        new = {**same, "split": EVAL, "epsilon": epsilon, "delta": delta}
        row = {**new, **UNUSED}
        inserted = schema.budgets.insert().values(**row, totals=Totals().to_json()).returning(schema.budgets.c.id)
        row["id"] = int(writer.connection.execute(inserted).scalar_one())
        writer.append(POLICY, {"opens": row})
    elif (known["epsilon"], known["delta"], known["policy"]) != (epsilon, delta, None):
        _change(writer, known, epsilon, delta, policy=None, counts=True)


def _require_sides_apart(connection: sa.Connection, dataset: str) -> None:
    """Before the eval split gets a budget: no unit may be in the train split of one span and evaluated in another."""
    table = schema.registrations
    rows = connection.execute(sa.select(table).where(table.c.dataset == dataset)).mappings().all()
    stored = stored_digests(connection, dataset)
    require_sides_apart(from_row(rows[0]), [stored.get((dataset, row["span_key"])) for row in rows])


def _close_eval_budget(writer: Writer, policy: Policy) -> None:
    """Close the eval split's budget under a policy without `eval_epsilon`: it grants nothing any more."""
    known = find_budget(writer.connection, policy.dataset, split=EVAL)
    if known is None:
        return
    cap = {"epsilon": known["epsilon"], "delta": known["delta"]}
    closed = policy.model_copy(update={**cap, "shares": {}}).to_json()
    if known["policy"] != closed:
        _change(writer, known, **cap, policy=closed, counts=True)
