"""`budget export`: the ledger's entries for other tools, or a record for the Deployments Registry."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from privacy_pipeline.api.targets import named
from privacy_pipeline.cli.budget import report_commands
from privacy_pipeline.cli.output import errors_as_exit_codes, out
from privacy_pipeline.cli.parameters import LedgerOrDefault, OptionalTarget
from privacy_pipeline.cli.shown import escape
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.ledger.audit.export import exported, exported_records, to_csv, to_json_lines
from privacy_pipeline.text.shown_text import in_json


class ExportFormat(str, Enum):
    """Formats of the entries."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"


def export(
    target: OptionalTarget = None,
    format_: Annotated[
        ExportFormat | None,
        typer.Option("--format", help="Format of the entries (default: jsonl).", show_default=False),
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: standard output.")] = None,
    registry: Annotated[
        Path | None,
        typer.Option(metavar="FACTS", help="Write a Deployments Registry record instead, with the facts of this YAML."),
    ] = None,
    records: Annotated[
        bool,
        typer.Option("--records", help="Write every record of the journal instead, the oldest first (not as CSV)."),
    ] = False,
    workspace: Annotated[
        list[Path], typer.Option(help="With --registry: workspace with runs on the dataset; may be repeated.")
    ] = [],  # noqa: B006 (typer needs a literal default)
    ledger: LedgerOrDefault = None,
) -> None:
    """Export all entries: what was charged, its event, epsilon alone and composed, and the journal's receipts."""
    if registry is not None:
        with errors_as_exit_codes(as_json=False):
            if target is None:
                raise BadInputError("--registry needs a DATASET or a CONFIG", fix="privacy-pipeline budget status")
            if records or format_ is not None:
                raise BadInputError("--registry writes a record in YAML", fix="leave out --format and --records")
        form = report_commands.ReportFormat.REGISTRY
        report_commands.report(target, form, output or Path("-"), registry, ledger, workspace)
        return

    with errors_as_exit_codes(as_json=False):
        if workspace:
            raise BadInputError("--workspace needs --registry", fix="leave it out: only the ledger holds entries")
        if records and format_ is ExportFormat.CSV:
            raise BadInputError("records of the journal do not form a table", fix="--format jsonl or json")
        asked = named(target, ledger=ledger)
        rows = (exported_records if records else exported)(asked.ledger, dataset=asked.dataset)
        if format_ is ExportFormat.CSV:
            text = to_csv(rows)
        elif format_ is ExportFormat.JSON:
            text = in_json(json.dumps(rows, indent=2, allow_nan=False)) + "\n"
        else:
            text = to_json_lines(rows)
        if output is None:
            sys.stdout.write(text)
            return
        write_atomically(path=output, text=text)
        out.print(
            f"[green]✓[/] {escape(str(output))}: {len(rows):,} {'records' if records else 'entries'}", soft_wrap=True
        )
