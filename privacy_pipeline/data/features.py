"""The feature plan: what the model sees of each column, read from the curated public schema."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

UNIT_KEY_FEATURE = "privacy_unit_key"  # reserved: carried to the trainer, never an input of the model
LABEL_FEATURE = "label"


class Column(BaseModel):
    """One input column.

    Attributes:
        name: column name in the source.
        kind: "categorical" (one-hot over `domain`) or "numeric" (scaled by `minimum` and `maximum`).
        dtype: type in the raw tf.Example.
        domain: public list of values of a categorical column.
        minimum, maximum: public range of a numeric column.
        optional: whether a row may lack the value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["categorical", "numeric"]
    dtype: Literal["int", "float", "bytes"]
    domain: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    optional: bool = False


class FeaturePlan(BaseModel):
    """All columns of a dataset, in the order of the schema, JSON-serialisable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: tuple[Column, ...]
    label: str
    label_domain: tuple[str, ...]
    label_dtype: Literal["int", "float", "bytes"]
    positive_class: str
    unit_key: str | None
    unit_key_dtype: Literal["int", "bytes"] | None = None
