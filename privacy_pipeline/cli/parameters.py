"""Arguments and options that several commands take, and what an argument DATASET|CONFIG names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from privacy_pipeline.config.models.pipeline import PipelineConfig

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
DEFAULT_LEDGER = "sqlite:///ledger/ledger.db"

_TARGET_HELP = "Registered dataset, or a pipeline's YAML."
Target = Annotated[str, typer.Argument(metavar="DATASET|CONFIG", help=_TARGET_HELP)]
OptionalTarget = Annotated[
    str | None, typer.Argument(metavar="[DATASET|CONFIG]", help=f"{_TARGET_HELP} Default: all datasets.")
]
DatasetOption = Annotated[str | None, typer.Option("--dataset", hidden=True, help="As DATASET; for one release.")]


@dataclass(frozen=True, kw_only=True)
class Named:
    """What DATASET|CONFIG names.

    Attributes:
        dataset: name of the dataset; None where no argument was given.
        ledger: URL of the ledger.
        config: the config, where one was named.
    """

    dataset: str | None
    ledger: str
    config: PipelineConfig | None = None


def is_config(target: str) -> bool:
    """Whether DATASET|CONFIG names a config: no dataset's name ends in .yaml or .yml."""
    return Path(target).suffix in (".yaml", ".yml")


def named(target: str | None, *, ledger: str | None) -> Named:
    """Return the dataset and the ledger that an argument names; the option `--ledger` wins over a config.

    Args:
        target: a dataset's name, or a path that ends in .yaml or .yml.
        ledger: the option.

    Raises:
        BadInputError: the config is not there or is not valid.
    """
    if target is None or not is_config(target):
        return Named(dataset=target, ledger=ledger or DEFAULT_LEDGER)
    from privacy_pipeline.config.loader import load_config

    config = load_config(Path(target))
    return Named(dataset=config.dataset.name, ledger=ledger or config.ledger, config=config)
