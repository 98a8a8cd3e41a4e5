"""Budgets as a table and as bars, for the command line and for notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Protocol

from privacy_pipeline.pictures.bar import bar
from privacy_pipeline.pictures.fragment import fragment, new_name, paragraph, picture, table

HEAD = ("dataset", "split", "unit", "counted", "cap", "left", "used", "delta", "entries", "best order")
CAPTION = "budgets (epsilon at the cap's delta)"
MEANING = (
    "counted: all runs at the filter's Renyi order, which counts against the cap; part of it is the price of that "
    "order.\nused: the runs' part of the rest. best order: tighter, for runs that were fixed beforehand."
)


class Budget(Protocol):
    """What is shown of a budget; `ledger.state.entries.BudgetStatus` has it."""

    @property
    def budget(self) -> str:
        """Key of the budget."""

    @property
    def dataset(self) -> str:
        """Name of the dataset."""

    @property
    def split(self) -> str:
        """Split that it covers."""

    @property
    def unit(self) -> str:
        """Privacy unit."""

    @property
    def cap_epsilon(self) -> float:
        """Epsilon of the cap."""

    @property
    def cap_delta(self) -> float:
        """Delta of the cap."""

    @property
    def enforced_epsilon(self) -> float:
        """What counts against the cap."""

    @property
    def remaining_epsilon(self) -> float:
        """The cap less that."""

    @property
    def spent_epsilon(self) -> float:
        """All entries at the best order."""

    @property
    def used(self) -> float:
        """Part of the room that is used."""

    @property
    def entries(self) -> Mapping[Any, int]:
        """Number of entries by state."""


def cells(one: Budget) -> tuple[str, ...]:
    """Return a budget as the cells of one row below `HEAD`."""
    counts = {state.value if isinstance(state, Enum) else str(state): n for state, n in one.entries.items()}
    span = one.budget.partition("/span-")[2]
    return (
        f"{one.dataset} (span {span})" if span else one.dataset,
        one.split,
        one.unit,
        f"{one.enforced_epsilon:.3f}",
        f"{one.cap_epsilon:.3f}",
        f"{one.remaining_epsilon:.3f}",
        f"{one.used:.0%}" if math.isfinite(one.used) else "all",
        f"{one.cap_delta:.0e}",
        ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "none",
        f"{one.spent_epsilon:.3f}",
    )


def budgets_html(budgets: Iterable[Budget]) -> str:
    """Return budgets for a notebook: a table, and a bar for each."""
    shown = list(budgets)
    if not shown:
        return fragment(paragraph("no budgets: no dataset is registered"))
    return fragment(
        table(map(cells, shown), head=HEAD, caption=CAPTION),
        *(_bar(one) for one in shown),
        *(paragraph(line) for line in MEANING.split("\n")),
    )


def _bar(one: Budget) -> str:
    if one.cap_epsilon <= 0:
        return ""
    left = f"{one.budget}: {one.enforced_epsilon:.3f} counted, {one.remaining_epsilon:.3f} left"
    cap = f"cap {one.cap_epsilon:.3f} at delta {one.cap_delta:.0e}"
    return picture(
        bar(
            name=new_name("budget"),
            title="Budget spent and left",
            description=f"{left}; {cap}.",
            cap=one.cap_epsilon,
            spent=one.enforced_epsilon,
            words=(left, cap),
        )
    )
