"""Whether the units of a new registration are in others already: nobody pays from two budgets.

Keys are compared over all spans, splits and datasets of a ledger, within one numbering (`id_space`). Rows are compared
as multisets of digests: nothing shows which rows are one person's, so a dataset that has more than a part of its rows
in common with another one counts as the same people. A refusal names the other dataset, never a unit or a number. The
refusal itself reveals, to those who may register, that units are in both; the guide states this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.state.registration import EVAL, TRAIN, Registration, from_row
from privacy_pipeline.ledger.state.unit_digests import UnitDigests, in_common, joined, once, stored_digests
from privacy_pipeline.ledger.storage import schema

if TYPE_CHECKING:
    from privacy_pipeline.ledger.state.unit_digests import Array

PART = 0.1  # of the rows of the smaller of two datasets: with more in common they count as the same people
_SHARE = "register the span without --disjoint: it then shares the budget of the other spans"
_SPAN = "register it as a further span of {0} (`dataset.name: {0}`, `dataset.span`), whose budget it then shares"
_SPACE = "or, if the keys number other people there: --id-space NAME --reason WHY"
_DISTINCT = "or, if these are rows of other people: --distinct-rows WHY"


def require_one_budget(connection: sa.Connection, registration: Registration, digests: UnitDigests | None) -> None:
    """Check a new registration against all others of the ledger.

    Args:
        connection: a transaction.
        registration: of a span that is not registered yet.
        digests: of its units and rows; None where nobody gave them.

    Raises:
        BadInputError: its units would have two budgets, or the dataset has another numbering of keys.
    """
    table = schema.registrations
    rows = connection.execute(sa.select(table).order_by(table.c.id)).mappings().all()
    others = {(row["dataset"], row["span_key"]): from_row(row) for row in rows}
    _require_one_space(registration, others)
    if digests is None:
        return
    stored = stored_digests(connection)
    for key, other in others.items():
        if other.dataset != registration.dataset:
            known = stored.get(key)
            if known is not None:
                _require_other_people(registration, digests, other, known)
            _require_known_rows(registration, digests, other, known)
    if has_eval_budget(connection, registration.dataset):
        same = [stored.get(key) for key, other in others.items() if other.dataset == registration.dataset]
        require_sides_apart(registration, [*same, digests])


def has_eval_budget(connection: sa.Connection, dataset: str) -> bool:
    """Return whether the eval split of a dataset has a budget, open or closed."""
    table = schema.budgets
    query = sa.select(table.c.id).where(table.c.dataset == dataset, table.c.split == EVAL)
    return connection.scalar(query.limit(1)) is not None


def require_sides_apart(of: Registration, spans: list[UnitDigests | None]) -> None:
    """Refuse units that are trained on in one span and evaluated in another, or in the same: they would pay twice.

    Rows that a hash divides are in one split each, and nothing else shows in which.

    Args:
        of: names dataset and unit, for the message.
        spans: digests of all spans of the dataset; None where one was registered without.

    Raises:
        BadInputError: there are such units, or it cannot be determined.
    """
    kind = "rows" if of.unit == "row" else "units"
    untold = len(spans) < 2 and (not spans or _sides(spans[0], kind) is None)
    if untold or (kind == "rows" and "distinct_rows" in of.reasons):
        return
    told = f"dataset {of.dataset}: the eval split has a budget of its own, and "
    fix = (
        "keep a unit's rows on one side in all spans (`hash_split` by the key does), or take `eval_epsilon` out of the "
    )
    fix += "policy before the first evaluation is charged"
    if kind == "rows":
        fix += "; or, if these are rows of other people: --distinct-rows WHY with their registration"
    if kind == "units" and _all_apart(spans):
        return
    sides = [_sides(span, kind) for span in spans]
    if None in sides:
        raise BadInputError(f"{told}nothing shows which {kind} of its spans are in which split", fix=fix)
    known = [side for side in sides if side is not None]
    train, evaluated = (joined([side[split] for side in known]) for split in (TRAIN, EVAL))
    if many_in_common(train, evaluated) if kind == "rows" else in_common(train, evaluated):
        raise BadInputError(f"{told}{kind} that are trained on are in the eval split too", fix=fix)


def _all_apart(spans: list[UnitDigests | None]) -> bool:
    """Return whether no unit is in two of the spans, or in two splits of one, whatever splits they are in."""
    known = [span.units for span in spans if span is not None and span.units]
    parts = [part for units in known for part in units.values()]
    return len(known) == len(spans) and len(once(parts)) == sum(map(len, parts))


def _sides(span: UnitDigests | None, kind: str) -> Mapping[str, Array] | None:
    found = {} if span is None else span.units if kind == "units" else span.rows
    return found if {TRAIN, EVAL} <= set(found) else None


def _require_one_space(registration: Registration, others: Mapping[tuple[str, str], Registration]) -> None:
    for other in others.values():
        if other.dataset == registration.dataset and other.id_space != registration.id_space:
            raise BadInputError(
                f"dataset {other.dataset}: its keys are of id space {other.id_space or 'of the ledger'!r}, and those "
                f"of the new span of {registration.id_space or 'of the ledger'!r}",
                fix=f"--id-space {other.id_space}" if other.id_space else "register without --id-space",
            )


def _require_other_people(new: Registration, digests: UnitDigests, other: Registration, known: UnitDigests) -> None:
    """Refuse a dataset whose units, or many of whose rows, are in one of another name."""
    if digests.key_id != known.key_id:
        raise BadInputError(
            f"{other.name} was registered under another secret of digests, so nothing shows whether its units are in "
            f"{new.name} too",
            fix="restore ledger_units.key from a copy",
        )
    share = _SPAN.format(other.dataset)
    keyed = new.unit != "row" and other.unit != "row" and new.id_space == other.id_space
    if keyed and in_common(digests.every_unit, known.every_unit):
        raise BadInputError(
            f"units of this data are registered as {other.dataset} already: a second name would give them a second "
            "budget",
            fix=f"{share}; {_SPACE}",
        )
    if "distinct_rows" in new.reasons:
        return
    if many_in_common(digests.every_row, known.every_row):
        raise BadInputError(
            f"many rows of this data are registered as {other.dataset} already: a second name would give them a second "
            "budget",
            fix=f"{share}; {_DISTINCT}",
        )


def many_in_common(mine: Array, theirs: Array) -> bool:
    """Return whether two tables, given by the digests of their rows, count as the same people."""
    return bool(len(mine) and len(theirs) and in_common(mine, theirs) > PART * min(len(mine), len(theirs)))


def _require_known_rows(
    new: Registration, digests: UnitDigests, other: Registration, known: UnitDigests | None
) -> None:
    """Refuse a dataset whose rows can be compared with none, because an older version kept no digests of them."""
    if digests.rows and not (known and known.rows) and "distinct_rows" not in new.reasons:
        raise BadInputError(
            f"{other.name} is registered without digests of its rows, as versions up to 0.1.0 did: nothing shows "
            f"whether they are in {new.name} too",
            fix=f"register {other.dataset} again first, with its own config and cap, which adds them; {_DISTINCT}",
        )


def require_disjoint(
    connection: sa.Connection,
    registration: Registration,
    digests: UnitDigests | None,
    *,
    spans: Sequence[str],
    fix: str = _SHARE,
) -> None:
    """Prove that a new span has no unit in common with registered ones of its dataset.

    Args:
        connection: a transaction.
        registration: the new span.
        digests: of its units, where their keys are known.
        spans: keys of the spans to compare it with.
        fix: what to do where there is no proof; by default to share the budget.

    Raises:
        BadInputError: a unit is in both, or this cannot be determined.
    """
    dataset = registration.dataset
    if not spans:
        return
    if registration.unit == "row" or digests is None or not digests.units:
        why = (
            "where the unit is a row there is no key that would show whether a person's row is in another span too"
            if registration.unit == "row"
            else "the keys of this data are not known before ExampleGen has read it"
        )
        raise BadInputError(f"dataset {dataset}: no proof that the span's units are in no other span: {why}", fix=fix)
    stored = stored_digests(connection, dataset)
    for span in spans:
        known = stored.get((dataset, span))
        named = f"span {span}" if span else "the dataset without a span"
        if known is None or not known.units or known.key_id != digests.key_id:
            why = (
                "under another secret of digests"
                if known is not None and known.units
                else "without digests of its units"
            )
            raise BadInputError(f"dataset {dataset}: {named} was registered {why}: nothing is proven", fix=fix)
        if in_common(known.every_unit, digests.every_unit):
            told = f"units of the new span are in {named} too"
            raise BadInputError(f"dataset {dataset}: {told}; nobody may pay from two budgets", fix=fix)
