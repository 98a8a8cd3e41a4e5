"""`budget export`: the ledger's entries for other tools, or a record for the Deployments Registry."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from privacy_pipeline.cli import report_commands
from privacy_pipeline.cli.ledger_commands import DEFAULT_LEDGER, LedgerUrl
from privacy_pipeline.cli.output import errors_as_exit_codes, out
from privacy_pipeline.errors import BadInputError


class ExportFormat(str, Enum):
    """Formats of the entries."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(export)


def export(
    dataset: Annotated[str | None, typer.Argument(metavar="[DATASET]", help="Only this dataset.")] = None,
    format_: Annotated[ExportFormat, typer.Option("--format", help="Format of the entries.")] = ExportFormat.JSONL,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: standard output.")] = None,
    registry: Annotated[
        Path | None,
        typer.Option(metavar="FACTS", help="Write a Deployments Registry record instead, with the facts of this YAML."),
    ] = None,
    ledger: LedgerUrl = DEFAULT_LEDGER,
) -> None:
    """Export all entries: what was charged, its event, epsilon alone and composed, and the journal's receipts."""
    if registry is not None:
        with errors_as_exit_codes(as_json=False):
            if dataset is None:
                raise BadInputError("--registry needs a DATASET", fix="privacy-pipeline budget status")
        form = report_commands.ReportFormat.REGISTRY
        report_commands.report(dataset, form, output or Path("-"), registry, ledger, [])
        return
    from privacy_pipeline.accounting.export import exported, to_csv, to_json_lines
    from privacy_pipeline.atomic import write_atomically

    with errors_as_exit_codes(as_json=False):
        rows = exported(ledger, dataset=dataset)
        if format_ is ExportFormat.CSV:
            text = to_csv(rows)
        elif format_ is ExportFormat.JSON:
            text = json.dumps(rows, indent=2, allow_nan=False) + "\n"
        else:
            text = to_json_lines(rows)
        if output is None:
            sys.stdout.write(text)
            return
        write_atomically(path=output, text=text)
        out.print(f"[green]✓[/] {escape(str(output))}: {len(rows):,} entries", soft_wrap=True)
