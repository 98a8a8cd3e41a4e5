"""`budget backup` and `budget restore`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_pipeline.api.targets import DEFAULT_LEDGER
from privacy_pipeline.cli.output import err, errors_as_exit_codes, out, print_json
from privacy_pipeline.cli.parameters import AsJson, LedgerUrl
from privacy_pipeline.cli.shown import escape
from privacy_pipeline.ledger.copies.backup import backup as copied

if TYPE_CHECKING:
    from privacy_pipeline.ledger.copies.restoring import Restoring


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="New file for the copy.")],
    ledger: LedgerUrl = DEFAULT_LEDGER,
    as_json: AsJson = False,
) -> None:
    """Copy the ledger while it is in use: SQLite's own backup, or `pg_dump`. The keys are not in it."""
    with errors_as_exit_codes(as_json=as_json):
        head = copied(ledger, file)
        if as_json:
            print_json({"file": str(file), "record": head.seq, "hash": head.hash, "key_id": head.key_id})
            return
        out.print(
            f"[green]✓[/] {escape(str(file))}: up to record {head.seq}, signed by key {head.key_id}", soft_wrap=True
        )
        out.print(
            "  keep ledger_key.pem and ledger_units.key too, in another place: the copy cannot be used without them"
        )


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File from `budget backup`.")],
    ledger: LedgerUrl = DEFAULT_LEDGER,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, nothing is written.")] = False,
    as_json: AsJson = False,
) -> None:
    """Restore the ledger from a backup, and print what would be lost; nothing that was spent is given back.

    Later records of the present ledger are carried over if they can be read. If they are not known, every budget is
    charged without limit, so that it grants nothing any more.
    """
    from privacy_pipeline.ledger.copies.restoring import restore as restored

    with errors_as_exit_codes(as_json=as_json):
        found = restored(ledger, file, write=yes)
    if as_json:
        print_json({"restored": yes, **dataclasses.asdict(found)})
    else:
        _print(found, restored=yes)


def _print(found: Restoring, *, restored: bool) -> None:
    present = "none that can be read" if found.present is None else f"record {found.present}"
    seen = "nothing" if found.seen is None else f"record {found.seen}"
    out.print(
        f"backup: up to record {found.backup}; present ledger: {present}; this host has seen: {seen}", soft_wrap=True
    )
    if found.carried:
        kinds = ", ".join(f"{number} {kind}" for kind, number in found.carried.items())
        out.print(f"carried over from the present ledger: {kinds}", soft_wrap=True)
    for told in found.lost:
        err.print(f"[yellow]lost:[/] {escape(told)}", soft_wrap=True)
    if found.charged:
        err.print(
            f"charged without limit, because it is not known what was spent: {escape(', '.join(found.charged))}; "
            "these budgets grant nothing any more",
            soft_wrap=True,
        )
    if not found.lost:
        out.print("nothing is lost")
    if found.aside is not None:
        out.print(f"the damaged database is kept as {escape(str(found.aside))}", soft_wrap=True)
    out.print("[green]✓[/] restored" if restored else "nothing was written: add --yes")
