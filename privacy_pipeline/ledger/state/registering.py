"""Register a span of a dataset: its facts, and the budget that pays for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.state.budgets import budget_row, find_budget, find_registration, train_budgets
from privacy_pipeline.ledger.state.overlaps import require_disjoint, require_one_budget
from privacy_pipeline.ledger.state.registration import Registration, details_of, differences, to_row
from privacy_pipeline.ledger.state.unit_digests import UnitDigests, store
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import BIND, REGISTER, Writer
from privacy_pipeline.spans import span_key


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
