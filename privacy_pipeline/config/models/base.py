"""What the models of a config's sections share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
DottedName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def without_empty(written: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a model as it is written: where a field that came later is empty, names and digests are what they were.

    Args:
        written: all fields of the model.
        key: the later field.
    """
    return {name: value for name, value in written.items() if name != key or value}
