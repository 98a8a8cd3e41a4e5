"""Several spans of a dataset as one run reads them: what is registered of their rows and units together.

The number of units decides how much sampling amplifies, so it has to be that of all spans together, in which a unit
with rows in two spans is one unit. The digests of the units show this: where no unit is in two of the spans, the
registered numbers add up; otherwise the different digests are counted. Where they prove nothing, nothing is granted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.ledger.state.budgets import find_registration
from privacy_pipeline.ledger.state.registration import Registration, SplitCount
from privacy_pipeline.ledger.state.unit_digests import UnitDigests, in_common, once, stored_digests
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.spans import Span, check_spans, span_words, union_digest

_ONE_BY_ONE = "read the spans one at a time, each in a run of its own"


@dataclass(frozen=True)
class Union:
    """Registered spans, and what they are together.

    Attributes:
        parts: the registration of each span, in ascending order.
        whole: the same as if it were one; its `span` names all of them.
    """

    parts: tuple[Registration, ...]
    whole: Registration

    def require_current(self, connection: sa.Connection) -> None:
        """Check the spans against the registrations that a writer has just checked against the journal's head.

        Raises:
            LedgerError: they are not the same.
        """
        now = tuple(find_registration(connection, part.dataset, _number(part)) for part in self.parts)
        if now != self.parts:
            raise schema.LedgerError(f"the registrations of {self.whole.name} changed meanwhile; nothing was written")


def of(engine: sa.Engine, dataset: str, span: Span) -> Union | None:
    """Return the spans of a run together; None where it is one span, or a dataset without spans.

    Raises:
        BadInputError: the numbers of the spans are not ascending.
        BudgetRefusedError: see `together`.
        LedgerError: the ledger cannot be read.
    """
    if not isinstance(span, tuple):
        return None
    with schema.transaction(engine, write=False) as connection:
        return together(connection, dataset, span)


def together(connection: sa.Connection, dataset: str, spans: tuple[int, ...]) -> Union:
    """Return what is registered of several spans.

    Raises:
        BadInputError: the numbers of the spans are not ascending.
        BudgetRefusedError: a span is not registered, they do not go together, or their units cannot be counted.
    """
    check_spans(spans)
    parts = tuple(registered_span(connection, dataset, span) for span in spans)
    name = f"dataset {dataset} ({span_words(spans)})"
    _require_alike(name, parts)
    whole = replace(
        parts[0],
        span=spans,
        contribution_bound=min(part.contribution_bound for part in parts),
        splits=_splits(connection, name, parts),
        digest=union_digest({_number(part): part.digest for part in parts}),
        registered=max(part.registered for part in parts),
    )
    return Union(parts, whole)


def registered_span(connection: sa.Connection, dataset: str, span: Span) -> Registration:
    """Return the registration of one span.

    Raises:
        BudgetRefusedError: it is not registered.
    """
    if isinstance(span, tuple):
        raise ValueError("one span was asked for")
    found = find_registration(connection, dataset, span)
    if found is None:
        where = dataset if span is None else f"{dataset} (span {span})"
        raise BudgetRefusedError(f"dataset {where} is not registered in the ledger", fix=schema.REGISTER_FIX)
    return found


def _number(part: Registration) -> int:
    if not isinstance(part.span, int):
        raise ValueError("a part of several spans is one span")
    return part.span


def _require_alike(name: str, parts: Sequence[Registration]) -> None:
    """Refuse spans of one run that differ in what only the spans of a dataset may differ in."""
    first = parts[0]
    for part in parts[1:]:
        for what, one, other in (
            ("privacy unit", first.unit, part.unit),
            ("neighbouring relation", first.relation.value, part.relation.value),
            ("splits", sorted(first.splits), sorted(part.splits)),
            ("columns", sorted(first.columns), sorted(part.columns)),
            ("division", _told(first), _told(part)),
        ):
            if one != other and (what != "division" or (one and other)):
                raise BudgetRefusedError(
                    f"{name}: span {first.span} is registered with {what} {_listed(one)}, span {part.span} with "
                    f"{_listed(other)}: they cannot be read together",
                    fix=_ONE_BY_ONE,
                )


def _told(part: Registration) -> str:
    """Return how rows come into the splits; what an older registration does not state is compared with nothing."""
    return "" if part.division is None else part.division.told


def _listed(value: str | list[str]) -> str:
    return repr(value) if isinstance(value, str) else ", ".join(value) or "that nobody named"


def _splits(connection: sa.Connection, name: str, parts: Sequence[Registration]) -> dict[str, SplitCount]:
    """Return the rows and units of each split of all the spans together.

    Raises:
        BudgetRefusedError: nothing proves how many units there are, or a unit is in two splits.
    """
    found = _digests(connection, name, parts)
    units = [digests.every_unit for digests in found]
    apart = len(once(units)) == sum(map(len, units))
    if not apart:
        _require_countable(name, parts, found)
    counts = {}
    for split in parts[0].splits:
        rows, count = (sum(getattr(part.splits[split], what) for part in parts) for what in ("rows", "units"))
        if not apart:
            count = len(once(digests.units[split] for digests in found))
        counts[split] = SplitCount(rows=rows, units=count)
    return counts


def _digests(connection: sa.Connection, name: str, parts: Sequence[Registration]) -> list[UnitDigests]:
    """Return the digests of the units of each span, all under one secret."""
    if parts[0].unit == "row":
        raise BudgetRefusedError(
            f"{name}: where the unit is a row, nothing shows whether a row is in two of the spans, or how many rows "
            "there are together; a run with a guarantee reads one of them",
            fix="give dataset.privacy_unit a key; or read the spans one at a time",
        )
    dataset = parts[0].dataset
    stored = {key[1]: found for key, found in stored_digests(connection, dataset).items() if found.units}
    missing = [part.span for part in parts if str(part.span) not in stored]
    if missing:
        raise BudgetRefusedError(
            f"{name}: span {missing[0]} was registered without digests of its units, so nothing shows how many units "
            "there are together",
            fix=_ONE_BY_ONE,
        )
    found = [stored[str(part.span)] for part in parts]
    if len({digests.key_id for digests in found}) > 1:
        raise BudgetRefusedError(
            f"{name}: they were registered under different secrets of digests, so nothing shows how many units there "
            "are together",
            fix=_ONE_BY_ONE,
        )
    return found


def _require_countable(name: str, parts: Sequence[Registration], found: Sequence[UnitDigests]) -> None:
    """Check that digests count the units of spans that have some in common: one for each unit, and by split."""
    for part, digests in zip(parts, found, strict=True):
        if set(digests.units) != set(part.splits):
            raise BudgetRefusedError(
                f"{name}: units are in more than one of them, and span {part.span} was registered without stating "
                "which unit is in which split, so nothing shows how many there are together",
                fix=_ONE_BY_ONE,
            )
        for split, count in part.splits.items():
            if len(digests.units[split]) != count.units:
                raise BudgetRefusedError(
                    f"{name}: units are in more than one of them, and in split {split!r} of span {part.span} keys "
                    "differ in case, blanks or leading zeros alone, so nothing shows how many units there are together",
                    fix=_ONE_BY_ONE,
                )
    for one, other in itertools.combinations(parts[0].splits, 2):
        left, right = (once(digests.units[split] for digests in found) for split in (one, other))
        if in_common(left, right):
            raise BudgetRefusedError(
                f"{name}: units are in split {one!r} of one span and in split {other!r} of another: the run "
                "would train and be evaluated on the same units",
                fix=f"keep a unit's rows on one side in all spans; or {_ONE_BY_ONE}",
            )
