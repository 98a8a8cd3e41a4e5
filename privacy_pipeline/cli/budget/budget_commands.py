"""`budget register` and `budget status`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from privacy_pipeline.cli.output import err, errors_as_exit_codes, note, out, print_json, with_old_keys
from privacy_pipeline.cli.parameters import (
    AsJson,
    ConfigPath,
    DatasetOption,
    LedgerOrDefault,
    OptionalTarget,
    Overrides,
    target_of,
)
from privacy_pipeline.cli.shown import cell, escape
from privacy_pipeline.pictures.budgets import CAPTION, HEAD, MEANING, cells

if TYPE_CHECKING:
    from privacy_pipeline.ledger.state.entries import BudgetStatus


def register(
    config: ConfigPath,
    epsilon: Annotated[
        float | None, typer.Option(min=0.0, help="Cap of the dataset's budget over all runs.", show_default=False)
    ] = None,
    delta: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Delta of the cap (default: 1e-05).")] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy with the caps, applied together with the registration.")
    ] = None,
    disjoint: Annotated[
        bool, typer.Option("--disjoint", help="Give the span its own budget, if its units are in no other span.")
    ] = False,
    existing_key: Annotated[
        bool, typer.Option("--existing-key", help="A new ledger uses the key that was made for it beforehand.")
    ] = False,
    id_space: Annotated[
        str, typer.Option(metavar="NAME", help="The keys name other units than the same keys of other datasets.")
    ] = "",
    reason: Annotated[str, typer.Option(metavar="WHY", help="Reason, which is journalled.")] = "",
    distinct_rows: Annotated[
        str, typer.Option(metavar="WHY", help="Why rows that other datasets hold too belong to other people.")
    ] = "",
    set_: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Register the dataset of a config: its splits, its number of units, and its budget.

    Reads the data once, to count it and to fix its digest. The splits cannot change afterwards.
    """
    from privacy_pipeline.api.register import register as registered

    with errors_as_exit_codes(as_json=as_json):
        found = registered(
            config,
            epsilon=epsilon,
            delta=delta,
            policy=policy,
            overrides=set_,
            disjoint=disjoint,
            existing_key=existing_key,
            id_space=id_space,
            reason=reason,
            distinct_rows=distinct_rows,
            note=note,
        )
        if as_json:
            print_json(found.to_json())
            return
        known = found.registration
        out.print(
            f"[green]✓[/] dataset {known.name}: {found.sizes}; unit {cell(known.unit)}; "
            f"budget epsilon {found.epsilon:g} at delta {found.delta:g}"
            + (f", policy {escape(str(policy))}" if policy else ""),
            soft_wrap=True,
        )
        out.print(
            "  keep a copy of ledger_key.pub away from the ledger: without it a forged ledger cannot be found",
            soft_wrap=True,
        )


def status(
    target: OptionalTarget = None,
    ledger: LedgerOrDefault = None,
    dataset: DatasetOption = None,
    as_json: AsJson = False,
) -> None:
    """Show what is spent and what is left of each budget."""
    from privacy_pipeline.api.status import status as status_of
    from privacy_pipeline.cli.alerts import tell_alerts

    with errors_as_exit_codes(as_json=as_json):
        found = status_of(target_of(target, dataset), ledger=ledger)
        budgets = found.budgets
        if found.older:
            err.print(
                f"[bold red]not the newest:[/] {escape(found.older)}; more may be spent than is shown here",
                soft_wrap=True,
            )
        if as_json:
            print_json([with_old_keys(dataclasses.asdict(b)) for b in budgets])
            return
        table = Table(title=CAPTION, title_justify="left")
        for column in HEAD:
            table.add_column(column, justify="left" if column in ("dataset", "split", "unit") else "right")
        for b in budgets:
            table.add_row(*map(cell, cells(b)))
        out.print(table)
        out.print(MEANING, soft_wrap=True)
        for b in budgets:
            for warning in _warnings(b):
                err.print(f"[yellow]note:[/] budget {escape(b.budget)}: {escape(warning)}", soft_wrap=True)
        for told in _of_older_versions(budgets):
            err.print(f"[yellow]note:[/] {escape(told)}", soft_wrap=True, highlight=False)
        for share in found.shares:
            size = "a size that the first run fixes" if share.epsilon is None else f"epsilon {share.epsilon:.3f}"
            told = f"{share.budget}: purpose {share.purpose} may use {share.share:.0%}, {size}; {share.used:.3f} used"
            out.print(f"  {escape(told)} (at the filter's Renyi order)", soft_wrap=True, highlight=False)
        for b in budgets:
            if b.closed:
                out.print(f"  {escape(b.budget)}: closed by its policy, grants nothing", soft_wrap=True)
        if found.unsalted:
            note(_UNSALTED.format(", ".join(map(str, found.unsalted))))
        tell_alerts(budgets)


_UNSALTED = (
    "an older version registered data in journal record(s) {} without a salt, and printed plain digests of it: both "
    "allow guesses of rows to be tested. Give nobody those hashes, nor records, reports or exports of that version; "
    "`budget publish` writes what may be handed on"
)


def _warnings(status: BudgetStatus) -> list[str]:
    """Return the reasons why the cap bounds less than it states."""
    found = []
    if status.passed and math.isinf(status.enforced_epsilon):
        found.append("no finite epsilon bounds what was spent, and nothing is granted (budget history shows why)")
    elif status.passed:
        found.append("more is spent than the cap allows: nothing is granted, and the cap does not bound what was done")
    if status.overruns:
        found.append(f"{status.overruns} entries executed more than they had planned; that is charged")
    return found


def _of_older_versions(budgets: Sequence[BudgetStatus]) -> list[str]:
    """Return what no migration can preserve and what to do, in a line for each dataset."""
    told = []
    for dataset in dict.fromkeys(one.dataset for one in budgets):
        mine = [one for one in budgets if one.dataset == dataset]
        factors = [f"{one.split} at {one.delta_factor} times the cap's delta" for one in mine if one.delta_factor > 1]
        what, fix = [], []
        if factors:
            what.append(
                "the filter's order or delta was chosen after results were seen, so what is proven holds for "
                + " and for ".join(factors)
            )
            fix.append("for a cap that holds as stated, register later data with --disjoint")
        if any(one.unbound for one in mine):
            what.append("its rows are not compared with other datasets, and no run must keep its division")
            fix.append("register it again with its config and cap (budget register), which adds both")
        if any(one.older for one in mine):
            what.append("digests of its data in records and reports of that time are plain (SHA-256)")
            fix.append("publish none of those, and make new reports (budget report)")
        if what:
            told.append(f"dataset {dataset} is of version 0.1.0 or older: {'; '.join(what)}. To do: {'; '.join(fix)}")
    return told
