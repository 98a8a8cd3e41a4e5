"""What a field of a pydantic model takes, in words: its type, its range and its default."""

from __future__ import annotations

import datetime
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import AfterValidator, BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typing_extensions import TypeAliasType

from privacy_pipeline.config.models.ranges import Range

_PLAIN: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Path: "path",
    datetime.date: "date",
    Any: "any value",
    type(None): "",
}


def type_text(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """Return what values of an annotation are.

    Args:
        annotation: of a field, or a part of one.
        metadata: what pydantic took out of its `Annotated`.
    """
    named = _names(annotation, metadata)
    if named:
        return " or ".join(f"`{name}`" for name in named)
    found = list(_limits(metadata))
    # A range is narrower than the bound that comes with it.
    limits = ", ".join([limit for limit in found if limit.startswith("from ")] or found)
    text = _type(annotation)
    return f"{text}, {limits}" if limits else text


def _names(annotation: Any, metadata: list[Any] | tuple[Any, ...]) -> list[str]:
    """Return the values that an annotation with a schema of its own takes, such as the names of a registry."""
    own = [one for one in metadata if isinstance(one, type) and hasattr(one, "__get_pydantic_core_schema__")]
    return list(TypeAdapter(Annotated[annotation, own[0]]).json_schema().get("enum", ())) if own else []


def _type(annotation: Any) -> str:
    if isinstance(annotation, TypeAliasType):
        return "any value" if annotation.__name__ == "JsonValue" else type_text(annotation.__value__)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], arguments[1:])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(text for text in map(type_text, arguments) if text)
    if origin is dict:
        return f"mapping of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if origin in (list, tuple):
        return f"list of {type_text(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "block"
    return _PLAIN[annotation]


def _limits(metadata: list[Any] | tuple[Any, ...]) -> Iterator[str]:
    for one in metadata:
        if isinstance(one, FieldInfo):
            yield from _limits(one.metadata)
        elif isinstance(one, AfterValidator) and isinstance(getattr(one.func, "__self__", None), Range):
            limits = one.func.__self__
            yield f"from {limits.low:g} to {limits.high:g}"
        elif isinstance(one, annotated_types.MinLen):
            yield "not empty" if one.min_length == 1 else f"at least {one.min_length} long"
        elif getattr(one, "pattern", None):
            yield f"as `{one.pattern}`"
        else:
            yield from _bound(one)


def _bound(one: Any) -> Iterator[str]:
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    for name, word in words.items():
        if hasattr(one, name):
            yield f"{word} {getattr(one, name):g}"


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation: the blocks that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif not isinstance(annotation, TypeAliasType):
        for argument in get_args(annotation):
            if get_origin(annotation) is not Literal:
                yield from models_of(argument)


def default_text(field: FieldInfo) -> str:
    """Return a field's default; `required` where there is none, and nothing where it is an empty or absent value."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or isinstance(value, BaseModel) or value in ([], {}, (), ""):
        return ""
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
