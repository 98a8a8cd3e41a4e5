"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privacy_pipeline.cli.output import note
from privacy_pipeline.errors import BadInputError

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the pipeline.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="a.b=c", help="Override one value of the config; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print tables as Markdown, to paste into a report.")]
WorkspacePath = Annotated[Path, typer.Option("--workspace", help="Workspace folder, as in the config.")]
LedgerUrl = Annotated[str, typer.Option("--ledger", help="SQLAlchemy URL of the ledger, as in the config.")]
LedgerOrDefault = Annotated[
    str | None,
    typer.Option("--ledger", help="SQLAlchemy URL of the ledger (default: as in the config).", show_default=False),
]

_TARGET_HELP = "Registered dataset, or a pipeline's YAML."
Target = Annotated[str, typer.Argument(metavar="DATASET|CONFIG", help=_TARGET_HELP)]
OptionalTarget = Annotated[
    str | None, typer.Argument(metavar="[DATASET|CONFIG]", help=f"{_TARGET_HELP} Default: all datasets.")
]
DatasetOption = Annotated[str | None, typer.Option("--dataset", hidden=True, help="As DATASET; for one release.")]


def target_of(target: str | None, dataset: str | None) -> str | None:
    """Return what a command is about, where `--dataset`, the older spelling of its argument, still works.

    Raises:
        BadInputError: both are given.
    """
    if dataset is None:
        return target
    if target is not None:
        raise BadInputError("DATASET and --dataset are both given", fix="leave out --dataset, the older spelling")
    note("`--dataset` is the argument DATASET now; the next release drops the old spelling")
    return dataset
