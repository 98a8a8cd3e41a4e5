"""`privacy-pipeline encrypted`: the parties of encrypted inference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privacy_pipeline.cli.output import errors_as_exit_codes

app = typer.Typer(help="Parties of encrypted inference.", no_args_is_help=True)


@app.command("init-parties")
def init_parties(
    folder: Annotated[Path, typer.Argument(help="A new folder for the keys and certificates.")],
    hosts: Annotated[str, typer.Option(help="Addresses, comma-separated, one for each party.")] = "",
    days: Annotated[int, typer.Option(min=1, help="How long the certificates are valid.")] = 90,
) -> None:
    """Makes a key and a certificate for each party, and parties.yaml with their addresses."""
    from privacy_pipeline.encrypted import certificates

    with errors_as_exit_codes(as_json=False):
        certificates.init_parties(folder=folder, hosts=tuple(hosts.split(",")) if hosts else (), days=days)
    typer.echo(f"{folder}: each party needs parties.yaml and its own folder; keep ca/key.pem off their hosts")
