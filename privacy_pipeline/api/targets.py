"""What DATASET or CONFIG names: the one rule for the command line and for Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy_pipeline.api.configs import Given, load_config
from privacy_pipeline.config.models.pipeline import PipelineConfig

DEFAULT_LEDGER = "sqlite:///ledger/ledger.db"
DEFAULT_WORKSPACE = Path("workspace")


@dataclass(frozen=True, kw_only=True)
class Named:
    """What DATASET or CONFIG names.

    Attributes:
        dataset: name of the dataset; None where nothing was named.
        ledger: URL of the ledger.
        config: the config, where one was named.
    """

    dataset: str | None
    ledger: str
    config: PipelineConfig | None = None

    @property
    def workspace(self) -> Path:
        """Folder of the runs: the config's, or the usual one."""
        return DEFAULT_WORKSPACE if self.config is None else self.config.workspace


def is_config(target: Given) -> bool:
    """Whether DATASET or CONFIG is a config: no dataset's name ends in .yaml or .yml."""
    if isinstance(target, (PipelineConfig, Mapping)):
        return True
    return Path(target).suffix in (".yaml", ".yml")


def named(target: Given | None, *, ledger: str | None = None) -> Named:
    """Return the dataset and the ledger that DATASET or CONFIG names; a given ledger wins over a config's.

    Args:
        target: a dataset's name, a path that ends in .yaml or .yml, a mapping or a config.
        ledger: SQLAlchemy URL of the ledger.

    Raises:
        BadInputError: the config is not there or is not valid.
    """
    if target is None or not is_config(target):
        dataset = None if target is None or isinstance(target, (PipelineConfig, Mapping)) else os.fspath(target)
        return Named(dataset=dataset, ledger=ledger or DEFAULT_LEDGER)
    config = load_config(target)
    return Named(dataset=config.dataset.name, ledger=ledger or config.ledger, config=config)
