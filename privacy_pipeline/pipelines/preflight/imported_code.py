"""The files of code that a run would import or start beside the installed packages; found without an import."""

from __future__ import annotations

import importlib.machinery
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from privacy_pipeline.backends.models.code_hash import sources_of
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.encrypted.sandbox import environment

_AT_START = ("sitecustomize", "usercustomize")  # Python imports them by itself wherever it finds them


@dataclass(frozen=True, kw_only=True)
class ImportedFile:
    """A file of code that belongs neither to the framework nor to an installed package.

    Attributes:
        file: its path.
        why: what names it.
        apart: whether it runs in a place without data and network.
    """

    file: Path
    why: str
    apart: bool = False

    def to_json(self) -> dict[str, object]:
        """Return plain values for scripts."""
        return {"file": str(self.file), "why": self.why, "apart": self.apart}


def code_of_run(config: PipelineConfig) -> list[ImportedFile]:
    """Return all of them, in the order in which they are found.

    Args:
        config: the config.

    Raises:
        BadInputError: a module has no source, does not parse, or has the name of an installed one.
    """
    found = []
    for name in _AT_START:
        spec = importlib.machinery.PathFinder.find_spec(name)
        if spec is not None and spec.origin is not None and not _is_installed(Path(spec.origin)):
            found.append(ImportedFile(file=Path(spec.origin), why="PYTHONPATH leads to it, at the start of Python"))
    if config.model.use != "tabular":
        apart = config.model.is_built_apart
        for name, source in sorted(sources_of(config.model.use, root=Path.cwd()).items()):
            found.append(ImportedFile(file=source.path, why=f"model.use: module {name}", apart=apart))
    if config.training.encrypted is not None:
        found.append(ImportedFile(file=environment.interpreter(), why="training.encrypted: its interpreter"))
    return found


def _is_installed(file: Path) -> bool:
    installed = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, "/usr/lib", "/etc"}
    return any(file.resolve().is_relative_to(Path(path).resolve()) for path in installed)
