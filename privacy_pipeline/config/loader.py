"""Reads a YAML file, or a mapping, with overrides into a `PipelineConfig`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from privacy_pipeline.config.given import document_of
from privacy_pipeline.config.messages import explain
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.config.source import Document, apply_overrides, read_document


def load_config(path: Path, *, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Load a config; the same content gives an equal config, whatever the comments and layout.

    Args:
        path: the YAML file.
        overrides: `section.key=value` each, applied in order; the value is YAML.

    Raises:
        BadInputError: the file, an override or a value is not usable; one line for each error, each naming the line
            of the file or the override.
    """
    return _validated(read_document(path=path), overrides)


def config_of(given: Mapping[str, object], *, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Return the config that a mapping holds, as `load_config` does for a file; equal content gives an equal config.

    Args:
        given: what the YAML file would hold.
        overrides: as for `load_config`.

    Raises:
        BadInputError: a value is not usable; one line for each error, each naming the key.
    """
    return _validated(document_of(given), overrides)


def _validated(document: Document, overrides: Sequence[str]) -> PipelineConfig:
    apply_overrides(document=document, overrides=overrides)
    try:
        # Through JSON, strict mode still takes texts as paths and whole numbers as floats, and refuses the rest:
        # `true` is not taken for 1, nor "5" for 5.
        return PipelineConfig.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        raise explain(error=error, document=document) from None


def config_json_schema() -> dict[str, object]:
    """Return the JSON schema of the YAML file, for editors and documentation."""
    return PipelineConfig.model_json_schema(by_alias=True)
