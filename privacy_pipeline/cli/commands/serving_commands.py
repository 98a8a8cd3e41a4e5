"""`encrypted serve` and `encrypted predict`: private prediction by the parties of encrypted inference."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from privacy_pipeline.cli.output import err, errors_as_exit_codes, note, out, print_json
from privacy_pipeline.cli.parameters import AsJson, WorkspacePath
from privacy_pipeline.cli.shown import escape
from privacy_pipeline.encrypted.client.client import Client
from privacy_pipeline.encrypted.model import published
from privacy_pipeline.encrypted.server import party
from privacy_pipeline.encrypted.server.share_store import LARGEST_BUCKET
from privacy_pipeline.encrypted.serving import hosting
from privacy_pipeline.encrypted.worker.parties import CLIENT
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.workspace.serving_model import find_model
from privacy_pipeline.text.typed import typed

_BUCKETS = "1,16,128,1024"
Encrypted = Annotated[bool, typer.Option("--encrypted", help="Use the parties of encrypted inference.")]
PartiesFolder = Annotated[Path, typer.Option("--parties", help="Folder from `encrypted init-parties`.")]


def serve(
    model: Annotated[str, typer.Argument(metavar="RUN|FOLDER", help="A run, or a pushed or published model.")],
    parties: PartiesFolder,
    local: Annotated[bool, typer.Option("--local", help="Start all parties on this machine, for a trial.")] = False,
    buckets: Annotated[str, typer.Option(help="Batch sizes with a prepared graph.")] = _BUCKETS,
    batch_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds that one batch may take.")] = 60.0,
    workspace: WorkspacePath = Path("workspace"),
) -> None:
    """Keep the parties ready and run clients' requests, until Ctrl-C.

    Three servers hold shares of the weights and of every query; this process drives them and holds no share.
    """
    with errors_as_exit_codes(as_json=False, resume=lambda: ""):
        hosting.serve(
            model=find_model(model, workspace=workspace),
            parties=parties,
            local=local,
            buckets=_sizes(buckets),
            batch_seconds=batch_seconds,
            report=lambda line: out.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {escape(line)}", soft_wrap=True),
        )


def predict(
    file: Annotated[Path, typer.Argument(help="CSV with the raw columns of the dataset.")],
    parties: PartiesFolder,
    output: Annotated[Path, typer.Option("--out", help="CSV for the predictions.")] = Path("predictions.csv"),
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that any one request may take.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Predict the rows of a file privately: only this process learns rows or predictions.

    The rows are transformed here and leave as secret shares; only the shares of the logits come back.
    """
    with errors_as_exit_codes(as_json=as_json, resume=lambda: f"{typed('encrypted', 'predict', file)} ..."):
        summary = _predict(file, parties, output, timeout=timeout, console=err)
    if as_json:
        print_json(summary)
    else:
        line = f"{summary['rows']:,} rows in {summary['seconds']:.1f} s ({summary['rows_per_second']:,.0f} a second)"
        out.print(f"{line}: [bold]{escape(str(output))}[/]", soft_wrap=True)


def serve_as_before(
    model: Annotated[str, typer.Argument(metavar="RUN|FOLDER")],
    parties: PartiesFolder,
    encrypted: Encrypted = False,
    local: Annotated[bool, typer.Option("--local")] = False,
    buckets: Annotated[str, typer.Option()] = _BUCKETS,
    batch_seconds: Annotated[float, typer.Option(min=0.1)] = 60.0,
    workspace: WorkspacePath = Path("workspace"),
) -> None:
    """Call `encrypted serve`, where this moved."""
    with errors_as_exit_codes(as_json=False):
        _require_encrypted("serve", encrypted)
    serve(model, parties, local, buckets, batch_seconds, workspace)


def predict_as_before(
    file: Annotated[Path, typer.Argument()],
    parties: PartiesFolder,
    encrypted: Encrypted = False,
    output: Annotated[Path, typer.Option("--out")] = Path("predictions.csv"),
    timeout: Annotated[float, typer.Option(min=1)] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Call `encrypted predict`, where this moved."""
    with errors_as_exit_codes(as_json=as_json):
        _require_encrypted("predict", encrypted)
    predict(file, parties, output, timeout, as_json)


def _require_encrypted(command: str, encrypted: bool) -> None:
    if not encrypted:
        raise BadInputError(f"there is no plain `{command}`", fix=f"privacy-pipeline encrypted {command} ...")
    note(f"`{command} --encrypted` is `encrypted {command}` now; the next release drops the old spelling")


def _sizes(buckets: str) -> tuple[int, ...]:
    parts = [part.strip() for part in buckets.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= LARGEST_BUCKET for part in parts):
        raise BadInputError(f"--buckets {buckets}: not numbers of rows", fix=f"for example --buckets {_BUCKETS}")
    return tuple(sorted({int(part) for part in parts}))


def _predict(file: Path, parties: Path, output: Path, *, timeout: float, console: Console) -> dict[str, Any]:
    from privacy_pipeline.encrypted.client import predictions, rows

    found = published.load(parties / published.FOLDER)
    own = party.load(name=CLIENT, folder=parties)
    client = Client(folder=own.folder, addresses=own.addresses, published=found, seconds=timeout)
    with console.status("reading the rows"):
        checked = rows.check(file=file, published=found)
        protection = asyncio.run(client.require_ready())  # check first, because importing TensorFlow takes seconds
    with console.status("transforming the rows"):
        inputs = rows.transform(checked, published=found)
    began = time.perf_counter()
    logits = _with_progress(client, inputs, console)
    seconds = time.perf_counter() - began
    predictions.write(output, logits=logits, lines=checked.lines, features=found.features)
    return {
        "rows": len(checked.lines),
        "seconds": seconds,
        "rows_per_second": len(checked.lines) / seconds,
        "out": str(output),
        "model": found.digest,
        "inference_protection": protection,
    }


def _with_progress(client: Client, inputs: dict[str, Any], console: Console) -> Any:
    columns = (
        TextColumn("predicting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(next(iter(inputs.values()))))
        return asyncio.run(client.predict(inputs, progress=lambda rows: progress.advance(task, rows)))
