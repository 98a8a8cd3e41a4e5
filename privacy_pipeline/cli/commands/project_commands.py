"""`init`, `doctor` and `config schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privacy_pipeline.cli.doctor import diagnose
from privacy_pipeline.cli.output import errors_as_exit_codes, out, print_json
from privacy_pipeline.cli.parameters import AsJson
from privacy_pipeline.cli.shown import escape
from privacy_pipeline.config.loader import config_json_schema
from privacy_pipeline.data.starting.starter import write_starter
from privacy_pipeline.errors import ExitCode
from privacy_pipeline.text.typed import typed

config_app = typer.Typer(help="The config file format.", no_args_is_help=True)


def init(
    csv: Annotated[Path, typer.Argument(metavar="CSV", help="A CSV file with a header.")],
    label: Annotated[str, typer.Option(help="Column to predict: classes, or a number.")],
    name: Annotated[str | None, typer.Option(help="Name of dataset and pipeline (default: the file's name).")] = None,
    folder: Annotated[Path, typer.Option("--to", help="Folder for the config.")] = Path("configs"),
    force: Annotated[bool, typer.Option(help="Overwrite existing files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented starter config and schema for your own CSV."""
    with errors_as_exit_codes(as_json=as_json):
        config, schema, notes = write_starter(csv=csv, folder=folder, label=label, name=name, force=force)
    if as_json:
        print_json({"config": str(config), "schema": str(schema), "notes": list(notes)})
        return
    out.print(f"[green]✓[/] {escape(str(config))}\n[green]✓[/] {escape(str(schema))}", soft_wrap=True)
    for note in notes:
        out.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    out.print(f"next: review the schema, then {escape(typed('run', config))}", soft_wrap=True)


def doctor(as_json: AsJson = False) -> None:
    """Print what is missing on this machine, and the command that fixes it."""
    findings = diagnose()
    if as_json:
        print_json([{"what": f.what, "ok": f.ok, "detail": f.detail, "fix": f.fix} for f in findings])
    else:
        for f in findings:
            mark = "[green]✓[/]" if f.ok else ("[red]✗[/]" if f.required else "[yellow]-[/]")
            out.print(f"{mark} {f.what}: {escape(f.detail)}", soft_wrap=True)
            if not f.ok:
                out.print(f"    fix: {escape(f.fix)}", soft_wrap=True)
    if any(not f.ok and f.required for f in findings):
        raise typer.Exit(int(ExitCode.ERROR))


@config_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of the config file, for editors."""
    print_json(config_json_schema())
