"""`data adult` and `data list`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from privacy_pipeline.cli.output import errors_as_exit_codes, out, print_json
from privacy_pipeline.cli.run_commands import AsJson

app = typer.Typer(help="Real data to start with.", no_args_is_help=True)


@app.command()
def adult(
    folder: Annotated[Path, typer.Option("--to", help="Folder that gets the spans.")] = Path("data/adult"),
    as_json: AsJson = False,
) -> None:
    """Write UCI Adult (1994 census, 32,561 + 16,281 rows) as a CSV span with its provenance."""
    from privacy_pipeline.data.adult import write_adult

    with errors_as_exit_codes(as_json=as_json):
        provenance = write_adult(folder=folder)
        if as_json:
            print_json(dataclasses.asdict(provenance))
            return
        for output in provenance.outputs:
            out.print(f"[green]✓[/] {folder / output.path}: {output.rows:,} rows", soft_wrap=True)
        out.print(f"  [dim]source and licence: {folder / 'provenance.json'}[/]", soft_wrap=True)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the data sets that need no download."""
    from privacy_pipeline.data.catalog import available

    entries = available()
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return
    table = Table("name", "what", "rows", "privacy unit", "licence", "command")
    for e in entries:
        table.add_row(e.name, e.what, f"{e.rows:,}", e.unit, e.licence, e.command)
    out.print(table)
