"""`budget init`, `apply`, `history`, `expire`, `verify`, `rotate-key` and `budget migrate`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from privacy_pipeline.api.targets import DEFAULT_LEDGER, named
from privacy_pipeline.cli.output import err, errors_as_exit_codes, note, out, print_json
from privacy_pipeline.cli.parameters import (
    AsJson,
    ConfigPath,
    DatasetOption,
    LedgerOrDefault,
    LedgerUrl,
    OptionalTarget,
    Overrides,
    target_of,
)
from privacy_pipeline.cli.shown import cell, escape
from privacy_pipeline.config.loader import load_config
from privacy_pipeline.errors import BadInputError, ExitCode
from privacy_pipeline.ledger.audit.receipts import read_receipts
from privacy_pipeline.ledger.copies.moving import move as moved
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.pins import not_left
from privacy_pipeline.ledger.state.policy import STARTER, load_policy
from privacy_pipeline.ledger.state.registration import check_name
from privacy_pipeline.ledger.storage.keys import read_public
from privacy_pipeline.spans import span_words
from privacy_pipeline.text.typed import typed

if TYPE_CHECKING:
    from privacy_pipeline.ledger.audit.records import JournalRecord
    from privacy_pipeline.ledger.audit.verify import Verification
    from privacy_pipeline.ledger.state.entries import BudgetStatus

_CHARGES = ("reserve", "takeover", "start", "commit", "expire")


def init(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")],
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: DATASET.policy.yaml.")] = None,
    unit: Annotated[str, typer.Option(help="Privacy unit: row, or the key column.")] = "row",
) -> None:
    """Write a starter policy for a dataset's budget; an existing file is never overwritten."""
    with errors_as_exit_codes(as_json=False):
        check_name(dataset)
        if not unit or unit != unit.strip() or set(unit) & set(":#{}[]\n\"'"):
            raise BadInputError(f"--unit {unit!r} names no key column", fix="--unit row, or the name of the key column")
        path = output or Path(f"{dataset}.policy.yaml")
        try:
            with path.open("x") as stream:
                stream.write(STARTER.format(dataset=dataset, unit=unit))
        except FileExistsError as error:
            raise BadInputError(f"{path} exists", fix="edit it, or give another --output") from error
        apply = escape(typed("budget", "apply", path))
        out.print(f"[green]✓[/] {escape(str(path))}; edit it, then: {apply}", soft_wrap=True)


def apply(
    policy: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of the policy.")],
    ledger: LedgerUrl = DEFAULT_LEDGER,
    as_json: AsJson = False,
) -> None:
    """Apply a policy to the budget of a registered dataset. Later changes are counted and recorded."""
    with errors_as_exit_codes(as_json=as_json):
        loaded, opened = load_policy(policy), Ledger.open(ledger)
        before = {status.budget: status for status in opened.status(loaded.dataset)}
        opened.apply_policy(loaded)
        if as_json:
            print_json([dataclasses.asdict(status) for status in opened.status(loaded.dataset)])
            return
        out.print(f"[green]✓[/] dataset {cell(loaded.dataset)}: epsilon {loaded.epsilon:g} at delta {loaded.delta:g}")
        for status in opened.status(loaded.dataset):
            _tell_change(before.get(status.budget), status)


def _tell_change(before: BudgetStatus | None, now: BudgetStatus) -> None:
    """Print what a policy changed in a budget, and what follows from it."""
    if before == now:
        return
    cap = f"epsilon {now.cap_epsilon:g} at delta {now.cap_delta:g}"
    if before is None:
        out.print(f"  {escape(now.budget)}: opened with {cap}", soft_wrap=True)
        return
    told = f"epsilon {before.cap_epsilon:g} at delta {before.cap_delta:g} before, now " + (
        "closed" if now.closed else cap
    )
    out.print(f"  {escape(now.budget)}: {told}", soft_wrap=True)
    if now.passed:
        err.print(
            f"[yellow]warning:[/] {escape(now.budget)}: {now.enforced_epsilon:.3f} is counted already, above the new "
            "cap: nothing more is granted",
            soft_wrap=True,
        )


def history(
    target: OptionalTarget = None,
    ledger: LedgerOrDefault = None,
    dataset: DatasetOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of entries.")] = 50,
    all_: Annotated[
        bool, typer.Option("--all", help="Show every record of the journal, also changes of caps, policies and keys.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List what was charged, the newest first."""
    with errors_as_exit_codes(as_json=as_json):
        asked = named(target_of(target, dataset), ledger=ledger)
        opened = Ledger.open(asked.ledger)
        opened.require_registered(asked.dataset)
        if all_:
            _print_records(opened.records(dataset=asked.dataset, limit=limit), as_json=as_json)
            return
        entries = opened.history(dataset=asked.dataset, limit=limit)
        if as_json:
            print_json([dataclasses.asdict(entry) for entry in entries])
            return
        table = Table(title="entries, newest first (epsilon alone, by RDP at the cap's delta)", title_justify="left")
        for column in ("entry", "reserved", "budget", "run", "node", "purpose", "who", "state", "epsilon"):
            table.add_column(column, justify="right" if column in ("entry", "epsilon") else "left")
        for entry in entries:
            several = f" (one of those of {span_words(entry.span)})" if isinstance(entry.span, tuple) else ""
            texts = (
                entry.budget + several,
                entry.run_id,
                entry.node,
                entry.purpose,
                entry.principal,
                entry.state.value,
            )
            epsilon = f"{entry.epsilon:.4f}" + (" (overrun)" if entry.overrun else "")
            epsilon = "-" if entry.state.value == "expired" else epsilon
            table.add_row(str(entry.id), entry.reserved_at, *map(cell, texts), epsilon)
        out.print(table)


def _print_records(records: list[JournalRecord], *, as_json: bool) -> None:
    if as_json:
        print_json([dataclasses.asdict(record) for record in records])
        return
    table = Table(title="records of the journal, newest first", title_justify="left")
    for column in ("record", "at", "who", "what", "dataset or budget", "entry", "run", "details"):
        table.add_column(column, justify="right" if column in ("record", "entry") else "left", overflow="fold")
    for record in records:
        entry = "" if record.entry is None else str(record.entry)
        details = json.dumps(record.details, sort_keys=True) if record.kind not in _CHARGES else ""
        about = record.budget or record.dataset or "the ledger"
        texts = (record.principal or "not known", record.kind, about, entry, record.run_id or "", details)
        table.add_row(str(record.seq), record.at, *map(cell, texts))
    out.print(table)


def expire(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a dead run.")],
    ledger: LedgerUrl = DEFAULT_LEDGER,
    as_json: AsJson = False,
) -> None:
    """Give back what a dead run reserved and never started. What was started counts for ever.

    If the run is still alive after all, it is refused before it reads any data.
    """
    with errors_as_exit_codes(as_json=as_json):
        opened = Ledger.open(ledger)
        expired = opened.expire_reserved(run)
        if as_json:
            print_json({"run": run, "expired": expired})
        elif expired:
            out.print(f"[green]✓[/] {expired} reservation(s) of run {escape(run)} given back")
        else:
            out.print(f"run {escape(run)} has nothing reserved that was never started; nothing changed")


def verify(
    ledger: LedgerUrl = DEFAULT_LEDGER,
    receipt: Annotated[
        list[Path],
        typer.Option(metavar="FILE|FOLDER", help="Privacy record whose receipt must hold, or a folder of records."),
    ] = [],  # noqa: B006 (typer needs a literal default)
    public_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Public key kept apart (default: ledger_key.pub).")
    ] = None,
    accept_lost_key: Annotated[
        list[str], typer.Option(metavar="ID", help="Key that replaced a lost one and that you have checked.")
    ] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Verify the ledger: find and name any edit, deletion, reordering or cut. Exit code 1 if there is one."""
    with errors_as_exit_codes(as_json=as_json):
        pinned = read_public(public_key) if public_key else None
        found = Ledger.open(ledger).verify(receipts=read_receipts(receipt), public_key=pinned, accepted=accept_lost_key)
    if as_json:
        print_json({"ok": found.ok, **dataclasses.asdict(found)})
    else:
        _print(found)
    if not found.ok:
        raise typer.Exit(int(ExitCode.ERROR))


def rotate_key(
    ledger: LedgerUrl = DEFAULT_LEDGER,
    lost: Annotated[bool, typer.Option("--lost", help="The present key is lost; `verify` will report it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give the ledger a new signing key; the old one signs the change."""
    with errors_as_exit_codes(as_json=as_json):
        old, new = Ledger.open(ledger).rotate_key(lost=lost)
        if as_json:
            print_json({"old": old, "new": new, "lost": lost})
            return
        out.print(f"[green]✓[/] key {new} signs from here on, in place of {old}; keep a copy of its ledger_key.pub")
        if lost:
            out.print(f"  verify fails from now on, unless you give it --accept-lost-key {new}")


def migrate(
    ledger: LedgerUrl = DEFAULT_LEDGER,
    accept: Annotated[
        bool, typer.Option("--accept", help="You have checked what was imported from format 1 or 2.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring an older ledger to the present format now; `verify` fails on an import until it is accepted."""
    with errors_as_exit_codes(as_json=as_json):
        budgets = Ledger.migrate(ledger, accept=accept).status()
        if as_json:
            print_json([dataclasses.asdict(status) for status in budgets])
            return
        for status in budgets:
            told = f"{status.spent_epsilon:.4f} of {status.cap_epsilon:g} spent, {sum(status.entries.values())} entries"
            out.print(f"[green]✓[/] {escape(status.budget)}: {told}", soft_wrap=True)


def move(
    to: Annotated[str, typer.Argument(metavar="URL", help="Database that the ledger moves to; it holds none yet.")],
    ledger: LedgerUrl = DEFAULT_LEDGER,
    as_json: AsJson = False,
) -> None:
    """Move a ledger to another database, under the same key; both journals record it; the old one grants no more."""
    with errors_as_exit_codes(as_json=as_json):
        moved(ledger, to)
        if as_json:
            print_json({"from": ledger, "to": to})
            return
        out.print(
            f"[green]✓[/] the ledger is at {escape(to)}; set `ledger: {escape(to)}` in each config", soft_wrap=True
        )
        out.print("  a key that lies beside the database was copied too; keep a copy of its .pub elsewhere")


def pin(
    config: ConfigPath,
    accept_lost_key: Annotated[
        list[str], typer.Option(metavar="ID", help="Key that replaced a lost one and that you have checked.")
    ] = [],  # noqa: B006
    set_: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Note in the data's folder and in the workspace which ledger they belong to, as `register` does."""
    from privacy_pipeline.pipelines.preflight.admission import pin as pinned

    with errors_as_exit_codes(as_json=as_json):
        parsed = load_config(config, overrides=set_)
        folders, failed = pinned(parsed, accept=accept_lost_key)
        if as_json:
            print_json({"pinned": [str(folder) for folder in folders], "not_writable": [str(one) for one in failed]})
            return
        for folder in folders:
            out.print(f"[green]✓[/] {escape(str(folder))} belongs to {escape(parsed.ledger)}", soft_wrap=True)
        for folder in failed:
            note(not_left(folder))


def _print(found: Verification) -> None:
    read = f"{found.records:,} journal records, {found.entries:,} entries, {found.receipts:,} receipts"
    for problem in found.problems:
        err.print(f"[bold red]wrong:[/] {escape(problem)}", soft_wrap=True)
    for told in found.notes:
        out.print(f"[yellow]note:[/] {escape(told)}", soft_wrap=True)
    if found.ok and found.head is not None:
        keys = ", ".join(found.keys)
        out.print(f"[green]✓[/] {read}; head {found.head.seq} {found.head.hash}; keys {keys}", soft_wrap=True)
    elif set(found.problems) <= set(found.unaccepted):
        err.print(f"[bold red]nothing was tampered with, but a person has to accept the above[/] ({read})")
    else:
        err.print(f"[bold red]the ledger is not what its writers wrote[/] ({read})", soft_wrap=True)
