"""`data adult`, `data nlswork`, `data randhie` and `data list`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from privacy_pipeline.cli.output import errors_as_exit_codes, out, print_json
from privacy_pipeline.cli.parameters import AsJson
from privacy_pipeline.cli.shown import escape
from privacy_pipeline.data.datasets.adult import write_adult
from privacy_pipeline.data.datasets.catalog import available
from privacy_pipeline.data.datasets.panels import write_nlswork, write_randhie

if TYPE_CHECKING:
    from privacy_pipeline.data.datasets.provenance import Provenance

app = typer.Typer(help="Real data to start with.", no_args_is_help=True)


@app.command()
def adult(
    folder: Annotated[Path, typer.Option("--to", help="Folder that gets the spans.")] = Path("data/adult"),
    as_json: AsJson = False,
) -> None:
    """Write UCI Adult (1994 census, 32,561 + 16,281 rows) as a CSV span with its provenance."""
    _write(write_adult, folder, as_json)


@app.command()
def nlswork(
    folder: Annotated[Path, typer.Option("--to", help="Folder that gets the spans.")] = Path("data/nlswork"),
    as_json: AsJson = False,
) -> None:
    """Write nlswork (4,711 women over 1968-1988, 28,534 rows) as a CSV span with its provenance."""
    _write(write_nlswork, folder, as_json)


@app.command()
def randhie(
    folder: Annotated[Path, typer.Option("--to", help="Folder that gets the spans.")] = Path("data/randhie"),
    as_json: AsJson = False,
) -> None:
    """Write RandHIE (5,912 persons over up to 5 years, 20,190 rows) as a CSV span with its provenance."""
    _write(write_randhie, folder, as_json)


def _write(write: Callable[..., Provenance], folder: Path, as_json: bool) -> None:
    with errors_as_exit_codes(as_json=as_json):
        provenance = write(folder=folder)
        if as_json:
            print_json(dataclasses.asdict(provenance))
            return
        for output in provenance.outputs:
            out.print(f"[green]✓[/] {escape(str(folder / output.path))}: {output.rows:,} rows", soft_wrap=True)
        out.print(f"  [dim]source and licence: {escape(str(folder / 'provenance.json'))}[/]", soft_wrap=True)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the data sets that need no download."""
    entries = available()
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return
    table = Table("name", "what", "rows", "privacy unit", "licence", "command")
    for e in entries:
        table.add_row(e.name, e.what, f"{e.rows:,}", e.unit, e.licence, e.command)
    out.print(table)
