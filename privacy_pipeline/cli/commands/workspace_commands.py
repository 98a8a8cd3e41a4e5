"""`workspace prune`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from privacy_pipeline.cli.output import errors_as_exit_codes, note, out, print_json
from privacy_pipeline.cli.parameters import AsJson, WorkspacePath
from privacy_pipeline.cli.shown import escape
from privacy_pipeline.pipelines.pruning import pruning, pruning_plan

if TYPE_CHECKING:
    from privacy_pipeline.pipelines.pruning.pruning_plan import Plan

app = typer.Typer(help="What runs leave on the disk.", no_args_is_help=True)
_STAYS = (
    "what stays: state, record, metrics over the whole split and report of each run, and the ledger: "
    "spent budget stays spent"
)


@app.callback()
def _group() -> None:
    """Group the commands for what runs leave on the disk."""


@app.command()
def prune(
    run: Annotated[list[str], typer.Option(metavar="RUN", help="Only this run; may be repeated.")] = [],  # noqa: B006
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs on this dataset.")] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Only runs that ended at least this many days ago.")
    ] = None,
    keep_pushed: Annotated[bool, typer.Option("--keep-pushed", help="Leave pushed models where they are.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this, nothing is removed.")] = False,
    workspace: WorkspacePath = Path("workspace"),
    as_json: AsJson = False,
) -> None:
    """Remove everything of runs that holds rows, or values of rows: copies, examples, models, logs, caches.

    Record, report and charges of a run stay. The dataset's own files, outside the workspace, are not touched.
    """
    with errors_as_exit_codes(as_json=as_json, resume=lambda: "type the same again"):
        criteria = pruning_plan.Criteria(
            runs=tuple(run), dataset=dataset, older_than=older_than, keep_pushed=keep_pushed
        )
        do = pruning.remove if yes else pruning.plan
        found = do(workspace.absolute(), criteria)
    if as_json:
        _print_json(found, removed=yes)
    else:
        _print(found, removed=yes)


def _print_json(found: Plan, *, removed: bool) -> None:
    import dataclasses

    print_json(
        {
            "removed": removed,
            "bytes": found.size,
            "runs": [dataclasses.asdict(one) for one in found.runs],
            "paths": [os.fspath(path) for path in found.paths],
            "shared": {os.fspath(path): list(names) for path, names in found.shared.items()},
            "left": list(found.left),
        }
    )


def _print(found: Plan, *, removed: bool) -> None:
    if not found.runs and not found.paths:
        out.print("nothing to remove: no chosen run has anything left")
    else:
        table = Table(title="runs", title_justify="left")
        for column in ("run", "pipeline", "dataset", "status"):
            table.add_column(column, overflow="fold")
        for one in found.runs:
            table.add_row(*map(escape, (one.run_id, one.pipeline, one.dataset, one.status)))
        out.print(table)
        for path in found.paths:
            out.print(f"  {escape(os.fspath(path))}", soft_wrap=True)
        size = f"{len(found.paths):,} files and folders, {found.size:,} bytes"
        told = f"[green]✓[/] removed {size}" if removed else f"would remove {size}; nothing was removed: add --yes"
        out.print(told, soft_wrap=True)
        out.print(f"[dim]{_STAYS}[/]", soft_wrap=True)
    users = sorted({name for names in found.shared.values() for name in names})
    if users:
        note(
            f"{len(found.shared)} folders stay, because runs that were not chosen use them too: {', '.join(users)}; "
            "choose those runs too to remove them"
        )
    for told in found.left:
        note(f"stays: {told}")
