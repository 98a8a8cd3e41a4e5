"""`privacy-pipeline encrypted`: the parties of encrypted inference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privacy_pipeline.cli.commands import serving_commands
from privacy_pipeline.cli.output import errors_as_exit_codes, print_json, print_line
from privacy_pipeline.cli.parameters import AsJson, WorkspacePath
from privacy_pipeline.encrypted.server import party as parties
from privacy_pipeline.encrypted.serving import hosting
from privacy_pipeline.encrypted.transport import certificates, clients
from privacy_pipeline.encrypted.transport.pace import Speed
from privacy_pipeline.pipelines.workspace.serving_model import find_model
from privacy_pipeline.processes.die_with_parent import die_with_parent

PartiesFolder = Annotated[
    Path, typer.Option("--parties", "--folder", help="Folder from `init-parties`, or the part of it on this host.")
]
Parent = Annotated[int, typer.Option(hidden=True, help="Process whose end also ends this one.")]

app = typer.Typer(
    help="Encrypted inference: parties, the service, private predictions.",
    no_args_is_help=True,
)
app.command()(serving_commands.serve)
app.command()(serving_commands.predict)


@app.command("init-parties")
def init_parties(
    folder: Annotated[Path, typer.Argument(help="A new folder for the keys and certificates.")],
    hosts: Annotated[str, typer.Option(help="Addresses, comma-separated, one for each party.")] = "",
    days: Annotated[int, typer.Option(min=1, max=36_500, help="How long the certificates are valid.")] = 90,
) -> None:
    """Make a key and a certificate for each party, and parties.yaml with their addresses."""
    with errors_as_exit_codes(as_json=False):
        certificates.init_parties(folder=folder, hosts=tuple(hosts.split(",")) if hosts else (), days=days)
    print_line(f"{folder}: each party needs parties.yaml and its own folder; keep ca/key.pem off their hosts")


@app.command("add-client")
def add_client(
    name: Annotated[str, typer.Argument(help="Name of the client: lower-case letters, digits, `.`, `_`, `-`.")],
    folder: PartiesFolder,
    days: Annotated[int, typer.Option(min=1, max=36_500, help="How long its certificate is valid.")] = 90,
) -> None:
    """Make a key and a certificate for one more client, which has its own limits and can be revoked."""
    with errors_as_exit_codes(as_json=False):
        own = clients.add_client(folder=folder, name=name, days=days)
    print_line(f"{own}: hand it to the client, for `encrypted predict --parties`; keep no copy of its key.pem")


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the client or party.")],
    folder: PartiesFolder,
) -> None:
    """Revoke the certificate of a client or a party; running parties refuse it from its next connection on."""
    with errors_as_exit_codes(as_json=False):
        lists = clients.revoke(folder=folder, name=name)
    print_line(f"{name}: revoked in {len(lists)} folders of {folder}; copy revoked.pem to parties on other hosts")


@app.command("clients")
def list_clients(folder: PartiesFolder, as_json: AsJson = False) -> None:
    """List the certificates of parties and clients: when each expires, and which are revoked."""
    with errors_as_exit_codes(as_json=as_json):
        found = clients.issued(folder=folder)
    if as_json:
        listed = [{"name": one.name, "ends": one.ends.isoformat(), "revoked": one.revoked} for one in found]
        print_json({"certificates": listed})
        return
    for one in found:
        print_line(f"{one.name}: {'revoked' if one.revoked else f'valid until {one.ends:%Y-%m-%d}'}")


@app.command("party")
def party(
    name: Annotated[str, typer.Argument(help="server0, server1 or server2.")],
    folder: PartiesFolder,
    delay_ms: Annotated[float, typer.Option(min=0, help="For benchmarks: delay of what it sends and receives.")] = 0,
    rate_mbps: Annotated[float, typer.Option(min=0, help="For benchmarks: megabits a second to each peer.")] = 0,
    parent: Parent = 0,
) -> None:
    """Run one server until Ctrl-C or SIGTERM."""
    import asyncio

    speed = Speed(delay_ms=delay_ms, rate_mbps=rate_mbps) if delay_ms or rate_mbps else None
    if parent:
        die_with_parent(parent)
    with errors_as_exit_codes(as_json=False):
        loaded = parties.load(name=name, folder=folder, speed=speed)
        asyncio.run(parties.until_told_to_end(loaded, report=lambda line: print_line(f"{name}: {line}")))


@app.command("provide-weights")
def provide_weights(
    model: Annotated[str, typer.Argument(metavar="RUN|FOLDER", help="A run, or a pushed model.")],
    folder: PartiesFolder,
    workspace: WorkspacePath = Path("workspace"),
    parent: Parent = 0,
) -> None:
    """Send shares of the weights to the servers whenever the driver asks, until Ctrl-C or SIGTERM."""
    if parent:
        die_with_parent(parent)
    with errors_as_exit_codes(as_json=False):
        found = find_model(model, workspace=workspace)
        hosting.provide_weights(
            model=found, parties=folder, report=lambda line: print_line(f"weights-provider: {line}")
        )
