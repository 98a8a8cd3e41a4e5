"""`budget report` and `budget report-schema`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from privacy_pipeline.api.report import SUFFIXES
from privacy_pipeline.api.report import report as composed
from privacy_pipeline.cli.output import err, errors_as_exit_codes, out
from privacy_pipeline.cli.parameters import LedgerOrDefault, Target
from privacy_pipeline.cli.shown import escape
from privacy_pipeline.files.atomic import write_atomically, write_bytes_atomically
from privacy_pipeline.reports.dataset.schema import schema_text


class ReportFormat(str, Enum):
    """Formats of the report."""

    HTML = "html"
    PDF = "pdf"
    JSON = "json"
    REGISTRY = "registry"


Facts = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="YAML of facts that only the curator can give (docs/guides/report.md)."),
]
Workspaces = Annotated[
    list[Path], typer.Option(help="Workspace with runs on the dataset; may be repeated.", show_default=False)
]
LostKeys = Annotated[
    list[str], typer.Option(metavar="ID", help="Key that replaced a lost one and that you have checked.")
]


def report(
    target: Target,
    format_: Annotated[ReportFormat, typer.Option("--format", help="What to write.")] = ReportFormat.HTML,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="File to write; - is standard output.")
    ] = None,
    facts: Facts = None,
    ledger: LedgerOrDefault = None,
    workspace: Workspaces = [],  # noqa: B006 (typer needs a literal default)
    accept_lost_key: LostKeys = [],  # noqa: B006
) -> None:
    """Write a report on a dataset over all its runs: what is protected, how well, what is left, what is not covered."""
    with errors_as_exit_codes(as_json=False):
        found = composed(
            target, ledger=ledger, workspaces=workspace, facts=facts, accepted=accept_lost_key, left_out=tell_left_out
        )
        content = found.content(format_.value)
        path = output or Path(f"privacy-report-{found.dataset}{SUFFIXES[format_.value]}")
        if str(path) == "-":
            sys.stdout.buffer.write(content)
            return

        write_bytes_atomically(path=path, content=content)
        out.print(f"[green]✓[/] {escape(str(path))}", soft_wrap=True)


def report_schema(
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Default: standard output.")] = None,
) -> None:
    """Print the JSON Schema of the report."""
    with errors_as_exit_codes(as_json=False):
        if output is None:
            sys.stdout.write(schema_text())
        else:
            write_atomically(path=output, text=schema_text())


def tell_left_out(why: str) -> None:
    """Print why a run's folder could not be read; the report states that it may lack this run."""
    err.print(f"[yellow]left out:[/] {escape(why)}", soft_wrap=True)
