"""What the result of a run comes from, beside its settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_WORDS = {"data": "the data", "schema": "the schema", "code": "the code", "packages": "the installed packages"}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Digests of all that a run reads or is made by. Equal inputs and settings give the same run.

    Attributes:
        data: of the files of all splits, covered (`privacy_pipeline.covered_digests`).
        schema: of the curated schema, which is public.
        code: of the framework.
        packages: of the installed packages and Python.
    """

    data: str
    schema: str
    code: str
    packages: str

    def digest(self) -> str:
        """Return the SHA-256 over all of them; what it holds of the data is covered."""
        return hashlib.sha256("\n".join(asdict(self).values()).encode()).hexdigest()

    def changed_since(self, earlier: Inputs) -> list[str]:
        """Return what differs from earlier inputs, in words."""
        before = asdict(earlier)
        return [_WORDS[name] for name, value in asdict(self).items() if before[name] != value]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Inputs:
        """Return inputs from the JSON of `dataclasses.asdict`.

        Raises:
            ValueError: a digest is missing, unknown or no text.
        """
        if set(found) != set(_WORDS) or not all(isinstance(value, str) for value in found.values()):
            raise ValueError("`inputs` are not those of a run")
        return cls(**found)
