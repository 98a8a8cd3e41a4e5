"""A config from a file, from a mapping or as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from privacy_pipeline.config import loader
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError

Given = PipelineConfig | Mapping[str, object] | str | os.PathLike[str]
NO_FILE = Path("CONFIG")  # in messages, where a program gave the values


def load_config(config: Given, *, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Return a config, validated; relative paths in it are relative to the working folder.

    >>> import privacy_pipeline as pp
    >>> config = pp.load_config("config.yaml", overrides=["training.epochs=3"])
    >>> config.training.epochs
    3
    >>> pp.load_config({"pipeline": "things", "trainin": {}})
    Traceback (most recent call last):
    ...
    privacy_pipeline.errors.BadInputError: config: unknown key 'trainin' at the top level (did you mean 'training'?)
    config: the config lacks the required key 'dataset'
    config: the config lacks the required key 'evaluation'

    Args:
        config: path of a YAML file; or a mapping that holds what the file would, in which paths may be `Path` objects;
            or a config, which is returned with the overrides.
        overrides: `section.key=value` each, applied in order; the value is YAML.

    Raises:
        BadInputError: the file, an override or a value is not usable; one line for each error. Each names the line of
            the file, the override, or the key of the mapping.
    """
    if isinstance(config, PipelineConfig):
        if not overrides:
            return config
        return loader.config_of(config.model_dump(mode="json", by_alias=True, exclude_unset=True), overrides=overrides)
    if isinstance(config, Mapping):
        return loader.config_of(config, overrides=overrides)
    return loader.load_config(file_of(config), overrides=overrides)


def file_of(config: Given) -> Path:
    """Return the file that a config is read from, for messages; `NO_FILE` where there is none.

    Raises:
        BadInputError: it is neither a file's path nor a config.
    """
    if isinstance(config, (PipelineConfig, Mapping)):
        return NO_FILE
    given: object = config
    if not isinstance(given, (str, os.PathLike)):
        fix = "give the path of a YAML file, a dict, or what load_config returned"
        raise BadInputError(f"config: {type(given).__name__} is not a config", fix=fix)
    return Path(config)
