"""`budget report` and `budget report-schema`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_pipeline.cli.output import err, errors_as_exit_codes, out
from privacy_pipeline.cli.parameters import LedgerOrDefault, Target, named
from privacy_pipeline.cli.shown import escape
from privacy_pipeline.files.atomic import write_atomically, write_bytes_atomically
from privacy_pipeline.pipelines.reporting.reporting import evidence
from privacy_pipeline.reports.dataset.compose import dataset_report
from privacy_pipeline.reports.dataset.facts import load_facts
from privacy_pipeline.reports.dataset.schema import schema_text, to_json
from privacy_pipeline.reports.registry_yaml import to_registry
from privacy_pipeline.reports.render.html import to_html
from privacy_pipeline.reports.render.pdf import to_pdf

if TYPE_CHECKING:
    from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
    from privacy_pipeline.reports.dataset.evidence import Evidence


class ReportFormat(str, Enum):
    """Formats of the report."""

    HTML = "html"
    PDF = "pdf"
    JSON = "json"
    REGISTRY = "registry"


_SUFFIX = {
    ReportFormat.HTML: ".html",
    ReportFormat.PDF: ".pdf",
    ReportFormat.JSON: ".json",
    ReportFormat.REGISTRY: ".yaml",
}


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
        found = evidence_of(target, facts=facts, ledger=ledger, workspaces=workspace, accepted=accept_lost_key)

        content = _render(dataset_report(found), format_)
        path = output or Path(f"privacy-report-{found.dataset}{_SUFFIX[format_]}")
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


def evidence_of(
    target: str, *, facts: Path | None, ledger: str | None, workspaces: list[Path], accepted: list[str]
) -> Evidence:
    """Return what a report on a dataset, or on that of a config, is made from; runs that cannot be read are named."""
    dataset, url, roots = where(target, ledger, workspaces)

    def left_out(why: str) -> None:  # the report states that it may lack this run
        err.print(f"[yellow]left out:[/] {escape(why)}", soft_wrap=True)

    told = load_facts(facts) if facts else None
    return evidence(dataset, ledger=url, workspaces=roots, facts=told, accepted=accepted, left_out=left_out)


def where(target: str, ledger: str | None, workspaces: list[Path]) -> tuple[str, str, list[Path]]:
    """Return dataset, ledger and workspaces; options take precedence over the config."""
    found = named(target, ledger=ledger)
    workspace = Path("workspace") if found.config is None else found.config.workspace
    return str(found.dataset), found.ledger, workspaces or [workspace]


def _render(made: DatasetReport, format_: ReportFormat) -> bytes:
    if format_ is ReportFormat.PDF:
        return to_pdf(made)
    if format_ is ReportFormat.JSON:
        return to_json(made).encode()
    if format_ is ReportFormat.REGISTRY:
        return to_registry(made).encode()

    return to_html(made).encode()
