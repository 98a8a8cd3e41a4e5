"""The feature plan: what the model sees of each column, read from the curated public schema."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from privacy_pipeline.config.models.base import without_empty
from privacy_pipeline.tasks import registry as tasks

UNIT_KEY_FEATURE = "privacy_unit_key"  # reserved: carried to the trainer, never an input of the model
SILO_FEATURE = "silo_name"  # reserved, as the former
LABEL_FEATURE = "label"
RESERVED = (UNIT_KEY_FEATURE, SILO_FEATURE, LABEL_FEATURE)


class Column(BaseModel):
    """One input column.

    Attributes:
        name: column name in the source.
        kind: "categorical" (one-hot over `domain`) or "numeric" (scaled by `minimum` and `maximum`).
        dtype: type in the raw tf.Example.
        domain: public list of values of a categorical column; empty where nothing public is known.
        minimum, maximum: public range of a numeric column; None where nothing public is known.
        optional: whether a row may lack the value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["categorical", "numeric"]
    dtype: Literal["int", "float", "bytes"]
    domain: tuple[str, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None
    optional: bool = False

    @property
    def is_unknown(self) -> bool:
        """Whether its domain, or its range, is not known."""
        if self.kind == "categorical":
            return not self.domain
        return self.minimum is None or self.maximum is None


class FeaturePlan(BaseModel):
    """All columns of a dataset, in the order of the schema, JSON-serialisable.

    A label with a range is a number. Else, without a positive class, each value of the label's domain is a class, in
    the order of the schema.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: tuple[Column, ...]
    label: str
    label_domain: tuple[str, ...]
    label_dtype: Literal["int", "float", "bytes"]
    positive_class: str | None
    unit_key: str | None
    unit_key_dtype: Literal["int", "bytes"] | None = None
    silo: str | None = None
    label_range: tuple[int | float, int | float] | None = None

    @property
    def task(self) -> str:
        """Name of the label's task."""
        return tasks.name_of(self.positive_class, is_number=self.label_range is not None)

    @property
    def classes(self) -> int:
        """Number of classes: two with a positive class, else the values of the label's domain; 0 for a number."""
        return len(self.label_domain) if self.positive_class is None else 2

    @property
    def answers(self) -> str:
        """What models of several classes, or of a number, answer, to tell those apart that cannot be compared.

        It is empty for two classes.
        """
        if self.positive_class is not None:
            return ""
        stated = self.label_domain if self.label_range is None else self.label_range
        return hashlib.sha256(json.dumps([self.label, *stated]).encode()).hexdigest()

    @property
    def label_column(self) -> Column:
        """The label as a column: what its cells may hold."""
        if self.label_range is None:
            return Column(name=self.label, kind="categorical", dtype=self.label_dtype, domain=self.label_domain)
        minimum, maximum = self.label_range
        return Column(name=self.label, kind="numeric", dtype=self.label_dtype, minimum=minimum, maximum=maximum)

    @model_serializer(mode="wrap")
    def _without_empty_range(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_empty(write(self), "label_range")

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the columns without a domain or range."""
        return tuple(column.name for column in self.columns if column.is_unknown)
