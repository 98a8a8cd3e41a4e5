"""`budget publish`: writes what may be published about a dataset, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privacy_pipeline.api.report import evidence_of
from privacy_pipeline.api.targets import named
from privacy_pipeline.cli.budget import report_commands
from privacy_pipeline.cli.budget.report_commands import Facts, LostKeys, Workspaces
from privacy_pipeline.cli.output import errors_as_exit_codes, out, print_json
from privacy_pipeline.cli.parameters import AsJson, LedgerOrDefault, Target
from privacy_pipeline.cli.shown import escape
from privacy_pipeline.pipelines.reporting.publishing import publish as written


def publish(
    target: Target,
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder.")],
    run: Annotated[
        list[str],
        typer.Option(metavar="RUN", help="Write only the record of this run; may be repeated (default: all runs)."),
    ] = [],  # noqa: B006 (typer needs a literal default)
    facts: Facts = None,
    ledger: LedgerOrDefault = None,
    workspace: Workspaces = [],  # noqa: B006
    accept_lost_key: LostKeys = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Write what may be published: the dataset's report, public records of its runs, and the ledger's entries.

    Digests are covered; times of day, exact metrics and secret numbers of units are left out (held_back.json has the
    reasons).
    """
    with errors_as_exit_codes(as_json=as_json):
        found = evidence_of(
            target,
            ledger=ledger,
            workspaces=workspace,
            facts=facts,
            accepted=accept_lost_key,
            left_out=report_commands.tell_left_out,
        )
        files = written(found, ledger=named(target, ledger=ledger).ledger, folder=folder, runs=run)
        if as_json:
            print_json({"files": [str(file) for file in files]})
            return
        out.print(f"[green]✓[/] {escape(str(folder))}: {len(files):,} files, which may be handed on", soft_wrap=True)
