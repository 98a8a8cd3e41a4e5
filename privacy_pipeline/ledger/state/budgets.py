"""Budgets and registrations as the ledger's tables hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.state.entries import BudgetStatus, Charge, State, budget_key
from privacy_pipeline.ledger.state.held import enforced_epsilon, used_part
from privacy_pipeline.ledger.state.overlaps import require_disjoint, require_one_budget, require_sides_apart
from privacy_pipeline.ledger.state.policy import Policy, stored_policy
from privacy_pipeline.ledger.state.registration import (
    EVAL,
    TRAIN,
    Registration,
    details_of,
    differences,
    from_row,
    to_row,
)
from privacy_pipeline.ledger.state.totals import Sum, Totals
from privacy_pipeline.ledger.state.unit_digests import UnitDigests, store, stored_digests
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import BIND, POLICY, REGISTER, Writer
from privacy_pipeline.spans import Span, span_key, spans_of

# Built once: every write asks for them while it holds the lock.
_REGISTRATION = sa.select(schema.registrations).where(
    schema.registrations.c.dataset == sa.bindparam("of"), schema.registrations.c.span_key == sa.bindparam("at")
)
_BUDGET = (
    sa.select(schema.budgets)
    .where(schema.budgets.c.dataset == sa.bindparam("of"), schema.budgets.c.split == sa.bindparam("part"))
    .where(sa.or_(schema.budgets.c.span_key == "", schema.budgets.c.span_key == sa.bindparam("at")))
    .order_by(schema.budgets.c.span_key.desc())
)


def check_cap(epsilon: float, delta: float) -> None:
    """Refuse a cap that is out of range."""
    if not (epsilon > 0 and math.isfinite(epsilon)) or not 0 < delta < 1:
        raise BadInputError(f"a cap needs epsilon above 0 and delta between 0 and 1, found {epsilon!r} and {delta!r}")


# What a budget's row holds before its first run.
_UNUSED = {"policy": None, "filter_order": None, "cap_changes": 0, "ceiling": None, "delta_factor": 1}


def budget_row(registration: Registration, epsilon: float, delta: float) -> dict[str, Any]:
    """Return a new budget as columns of its table."""
    return {
        "dataset": registration.dataset,
        "split": TRAIN,
        "unit": registration.unit,
        "relation": registration.relation.value,
        "epsilon": epsilon,
        "delta": delta,
        "span_key": "",
        **_UNUSED,
        "totals": Totals().to_json(),
    }


def check_budget(budget: sa.RowMapping, registration: Registration, epsilon: float, delta: float) -> None:
    """Refuse a span of another unit, relation or cap than its dataset has."""
    if (budget["unit"], budget["relation"]) != (registration.unit, registration.relation.value):
        raise BadInputError(
            f"the spans of dataset {registration.dataset} share one budget, for unit {budget['unit']!r} under "
            f"{budget['relation']}; span {registration.span} has unit {registration.unit!r} under "
            f"{registration.relation.value}"
        )
    if (budget["epsilon"], budget["delta"]) != (epsilon, delta):
        raise BadInputError(
            f"dataset {registration.dataset} has a cap of epsilon {budget['epsilon']:g} at delta {budget['delta']:g} "
            f"for all its spans; registering does not change it to {epsilon:g} at {delta:g}",
            fix=f"register with the same cap; to change it: privacy-pipeline budget init {registration.dataset}, edit "
            "the file, then budget apply FILE",
        )


def refuse_foreign_data(connection: sa.Connection, registration: Registration) -> None:
    """Refuse data that is registered under another name."""
    table = schema.registrations
    foreign = sa.select(table.c.dataset).where(
        table.c.digest == registration.digest, table.c.dataset != registration.dataset
    )
    owner = connection.scalar(foreign)
    if owner is not None:
        raise BadInputError(
            f"this data is registered already, as dataset {owner}: a second name would give it a second budget",
            fix=f"set dataset.name to {owner}",
        )


def find_registration(connection: sa.Connection, name: str, span: int | None) -> Registration | None:
    """Return the registration of a span, or None."""
    row = connection.execute(_REGISTRATION, {"of": name, "at": span_key(span)}).mappings().first()
    return None if row is None else from_row(row)


def find_budget(
    connection: sa.Connection, dataset: str, *, split: str = TRAIN, span: int | None = None
) -> sa.RowMapping | None:
    """Return the budget that pays for a span of a dataset: its own, or the one that the spans share; None where there
    is none.

    Returns:
        The budget's row.
    """
    asked = {"of": dataset, "part": split, "at": span_key(span)}
    return connection.execute(_BUDGET, asked).mappings().first()


def budgets_of(connection: sa.Connection, dataset: str, *, split: str, span: Span) -> list[sa.RowMapping]:
    """Return the budgets that pay for a span, or for several: each once, whichever of the spans share it.

    Returns:
        Rows in ascending order of their ids; none where a span has none.
    """
    found = [find_budget(connection, dataset, split=split, span=one) for one in spans_of(span)]
    known = {row["id"]: row for row in found if row is not None}
    return [known[number] for number in sorted(known)] if None not in found else []


def totals_of(budget: Mapping[Any, Any]) -> Totals:
    """Return the stored totals of a budget's row.

    Raises:
        LedgerError: they are damaged.
    """
    return Totals.from_json(budget["totals"], budget=budget_key(budget))


def set_totals(connection: sa.Connection, budget_id: int, totals: Totals, **changes: Any) -> None:
    """Store the totals of a budget, and further columns."""
    table = schema.budgets
    connection.execute(table.update().where(table.c.id == budget_id).values(totals=totals.to_json(), **changes))


def register(
    writer: Writer,
    registration: Registration,
    *,
    epsilon: float,
    delta: float,
    digests: UnitDigests | None = None,
    disjoint: bool = False,
) -> None:
    """See `Ledger.register`."""
    connection, dataset = writer.connection, registration.dataset
    if isinstance(registration.span, tuple):
        raise BadInputError(f"{registration.name}: spans are registered one by one", fix="name one span")
    refuse_foreign_data(connection, registration)
    known = find_registration(connection, dataset, registration.span)
    if known is not None and (changed := differences(known, registration)):
        raise BadInputError(
            f"{known.name} is registered already, with other values of: {', '.join(changed)}",
            fix="what is registered stays; register new data under a new span or another name",
        )
    shared = find_budget(connection, dataset)
    if shared is not None:
        check_budget(shared, registration, epsilon, delta)
    if known is not None:
        _check_same_sharing(connection, known, disjoint=disjoint)
        _bind(writer, known, registration, digests)
        return
    require_one_budget(connection, registration, digests)
    opened = budget_row(registration, epsilon, delta)
    if shared is not None:
        own = _own_budget(connection, registration, digests, disjoint=disjoint)
        # The policy goes with it: a fresh budget must not get around shares, or around who may spend.
        opened = {**opened, "span_key": span_key(registration.span), "policy": shared["policy"]} if own else {}
    add_registration(writer, to_row(registration), opened or None, digests=digests)


def _bind(writer: Writer, known: Registration, again: Registration, digests: UnitDigests | None) -> None:
    """Add what this registration has more, when the same data is registered again: reasons, and to an older one units.

    A reason that was given stays.
    """
    reasons, older = {**again.reasons, **known.reasons}, known.division is None and again.division is not None
    if not older and reasons == dict(known.reasons):
        return
    whole = replace(again, older=known.older) if older else known
    row = {**to_row(known), "details": details_of(replace(whole, reasons=reasons))}
    table, key = schema.registrations, (known.dataset, span_key(known.span))
    same = (table.c.dataset == key[0], table.c.span_key == key[1])
    writer.connection.execute(table.update().where(*same).values(details=row["details"]))
    _append(writer, BIND, {"registration": row}, digests if older else None)


def _append(writer: Writer, kind: str, body: dict[str, Any], digests: UnitDigests | None) -> None:
    """Write the record of a registration, and the tables of digests that it names."""
    row = body["registration"]
    if digests is not None:
        store(writer.connection, dataset=row["dataset"], span_key=row["span_key"], digests=digests)
        body = {**body, "digests": digests.to_record()}
    writer.append(kind, body)


def _own_budget(
    connection: sa.Connection, registration: Registration, digests: UnitDigests | None, *, disjoint: bool
) -> bool:
    """Return whether a further span gets a budget of its own. Either way no unit comes to lie under two budgets.

    Raises:
        BadInputError: that is not proven.
    """
    dataset, table = registration.dataset, schema.registrations
    if disjoint:
        spans = connection.scalars(sa.select(table.c.span_key).where(table.c.dataset == dataset)).all()
        require_disjoint(connection, registration, digests, spans=spans)
        return True
    apart = [budget["span_key"] for budget in train_budgets(connection, dataset) if budget["span_key"]]
    fix = "leave those units out of the span, or prove it disjoint from all others and register it with --disjoint"
    require_disjoint(connection, registration, digests, spans=apart, fix=fix)
    return False


def _check_same_sharing(connection: sa.Connection, known: Registration, *, disjoint: bool) -> None:
    spans = [budget["span_key"] for budget in train_budgets(connection, known.dataset)]
    first = len(spans) == 1 and _registered_spans(connection, known.dataset) == 1
    if disjoint and not first and span_key(known.span) not in spans:
        raise BadInputError(
            f"{known.name} is registered already and shares a budget; what was charged to that stays there",
            fix="register it again without --disjoint; nothing changes",
        )


def _registered_spans(connection: sa.Connection, dataset: str) -> int:
    table = schema.registrations
    query = sa.select(sa.func.count()).where(table.c.dataset == dataset)
    return int(connection.execute(query).scalar_one())


def train_budgets(connection: sa.Connection, dataset: str) -> Sequence[sa.RowMapping]:
    """Return the budgets of the train split: the one that spans share first, then those of single spans."""
    table = schema.budgets
    query = sa.select(table).where(table.c.dataset == dataset, table.c.split == TRAIN).order_by(table.c.id)
    return connection.execute(query).mappings().all()


def add_registration(
    writer: Writer,
    row: Mapping[str, Any],
    budget: Mapping[str, Any] | None,
    *,
    digests: UnitDigests | None = None,
) -> None:
    """Register a span, and with `budget` opens the budget of its dataset, or one of its own."""
    connection, opened = writer.connection, None
    if budget is not None:
        inserted = schema.budgets.insert().values(**budget).returning(schema.budgets.c.id)
        opened = {**budget, "id": int(connection.execute(inserted).scalar_one())}
        del opened["totals"]
    connection.execute(schema.registrations.insert().values(**row))
    _append(writer, REGISTER, {"registration": dict(row), "budget": opened}, digests)


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
        row = {**new, **_UNUSED}
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


def charge_of(total: Sum) -> Charge:
    """Return a sum as a charge."""
    return Charge(values=total.values, distance=total.distance)


def status_of(budget: Mapping[Any, Any]) -> BudgetStatus:
    """Return a budget at a glance, from its stored totals alone."""
    totals, policy = totals_of(budget), stored_policy(budget["policy"])
    total, closed = totals.all, policy is not None and policy.is_closed
    spent = charge_of(total)
    cap = {"epsilon": budget["epsilon"], "delta": budget["delta"], "ceiling": budget["ceiling"]}
    held = enforced_epsilon(spent, order=budget["filter_order"], **cap)
    used = used_part(spent, order=budget["filter_order"], **cap)
    return BudgetStatus(
        budget=budget_key(budget),
        dataset=budget["dataset"],
        split=budget["split"],
        unit=budget["unit"],
        relation=Relation(budget["relation"]),
        cap_epsilon=budget["epsilon"],
        cap_delta=budget["delta"],
        ceiling=budget["ceiling"],
        delta_factor=budget["delta_factor"],
        enforced_epsilon=held,
        spent_epsilon=spent.epsilon(budget["delta"]),
        remaining_epsilon=0.0 if closed else max(0.0, budget["epsilon"] - held),
        used=used,
        simple_epsilon=total.simple_epsilon,
        entries={state: totals.states.get(state.value, 0) for state in State},
        overruns=totals.overruns,
        filter_order=budget["filter_order"],
        cap_changes=budget["cap_changes"],
        alerts=tuple(level for level in policy.alerts if used >= level) if policy else (),
        closed=closed,
    )
