"""Which keys the config accepts at a place, read off the models."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from privacy_pipeline.config.extensions import ListedName
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.config.source import KeyPath


def keys_at(*, path: KeyPath, data: object, root: type[BaseModel] = PipelineConfig) -> list[str]:
    """Return valid keys of the mapping at `path`.

    Args:
        path: keys that lead to the mapping; () is the top level.
        data: the whole config as written, to tell the branches of a union apart.
        root: model of the whole document.
    """
    annotations: list[Any] = [root]
    for key in path:
        annotations = [below for annotation in annotations for below in _below(annotation, key)]
        data = item(data=data, key=key)
    return list(dict.fromkeys(name for branch in _branches(annotations, data) for name in _keys(branch)))


def holds(*, data: object, key: str | int) -> bool:
    """Whether `data` is a mapping with that key, or a list with that index."""
    if isinstance(data, list):
        return isinstance(key, int) and key < len(data)
    return isinstance(data, dict) and key in data


def item(*, data: object, key: str | int) -> object:
    """Return the value that `data` holds under `key`, or None."""
    if isinstance(data, dict):
        return data.get(key)
    if isinstance(data, list) and isinstance(key, int):
        return data[key]
    return None


def _plain(annotation: Any) -> Iterator[Any]:
    """Yield the alternatives of an annotation without `Annotated` and unions."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _plain(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _plain(member)
    else:
        yield annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _below(annotation: Any, key: str | int) -> Iterator[Any]:
    for plain in _plain(annotation):
        if _is_section(plain):
            for name, field in plain.model_fields.items():
                if key in (name, field.alias):
                    # Validators in `field.metadata` do not matter here, only the type does.
                    yield field.annotation
        elif get_origin(plain) in (dict, list):
            yield get_args(plain)[-1]


def _branches(annotations: list[Any], data: object) -> list[Any]:
    plain = [branch for annotation in annotations for branch in _plain(annotation)]
    fitting = [branch for branch in plain if not _is_section(branch) or _agrees(branch, data)]
    return fitting or plain


def _agrees(section: type[BaseModel], data: object) -> bool:
    """Whether the literal fields of `section` (its discriminator) allow what is written."""
    written = data if isinstance(data, dict) else {}
    return all(
        written[name] in get_args(field.annotation)
        for name, field in section.model_fields.items()
        if name in written and get_origin(field.annotation) is Literal
    )


def _keys(branch: Any) -> list[str]:
    if _is_section(branch):
        return [field.alias or name for name, field in branch.model_fields.items()]
    if get_origin(branch) is dict:
        key = get_args(branch)[0]
        listed = [how.names() for how in get_args(key) if isinstance(how, type) and issubclass(how, ListedName)]
        return listed[0] if listed else [str(value) for value in get_args(key)]
    return []
