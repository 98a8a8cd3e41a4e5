"""Where a dataset came from and what was done to it, as JSON beside the data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from privacy_pipeline.files.atomic import write_atomically

PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file as it was taken."""

    member: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class OutputFile:
    """A file as it was written; `path` is relative to the dataset's folder."""

    path: str
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Origin of a dataset.

    Attributes:
        dataset: name of the dataset.
        package, version: the package of the index that holds the files.
        licence: under which terms the data may be used, and whom to cite.
        sources: files taken from the package.
        outputs: files written.
        changes: what was changed on the way.
    """

    dataset: str
    package: str
    version: str
    licence: str
    sources: tuple[SourceFile, ...]
    outputs: tuple[OutputFile, ...]
    changes: tuple[str, ...]

    def write(self, *, folder: Path) -> Path:
        """Write `provenance.json`; the same provenance gives the same bytes.

        Raises:
            BadInputError: the file cannot be written.
        """
        path = folder / PROVENANCE_FILE
        write_atomically(path=path, text=json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")
        return path


def sha256_of(content: bytes) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()
