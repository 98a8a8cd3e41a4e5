"""The config's blocks on the data: where it is, whose it is, and what preprocessing may learn from it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from privacy_pipeline.config.extensions import TaskName
from privacy_pipeline.config.models.base import Name, Section, without_empty
from privacy_pipeline.config.models.dp import Delta, PositiveFloat
from privacy_pipeline.spans import Span
from privacy_pipeline.tasks import registry as tasks


class KeyedUnit(Section):
    """A privacy unit that owns several rows, named by a key column."""

    key: Annotated[str, Field(min_length=1, description="Column that names the unit; it never enters the model.")]
    contribution_bound: Annotated[
        int, Field(ge=1, description="At most this many rows of one unit are trained on.")
    ] = 1


PrivacyUnit = Literal["row"] | KeyedUnit
_Number = Annotated[int, Field(ge=0)]


class DatasetConfig(Section):
    """Where the data is, how it is split, and whose privacy is at stake."""

    name: Annotated[Name, Field(description="Name of the dataset in the ledger.")]
    path: Annotated[Path, Field(description="Folder that holds the spans.")]
    format: Annotated[Literal["csv", "tfrecord"], Field(description="Of the files.")] = "csv"
    input: Annotated[
        str | dict[Literal["train", "eval"], str],
        Field(
            description="Glob below `path`, with {SPAN} and {VERSION} where wanted: one pattern for each split, or a "
            "single pattern that `hash_split` divides."
        ),
    ] = {"train": "span-{SPAN}/train/*", "eval": "span-{SPAN}/eval/*"}
    hash_split: Annotated[
        dict[Literal["train", "eval"], Annotated[int, Field(ge=1)]] | None,
        Field(description="Buckets for each split of a single source, by hash of the privacy unit's key."),
    ] = None
    span: Annotated[
        Literal["latest"] | _Number | Annotated[tuple[_Number, ...], Field(min_length=1)],
        Field(description="Span to train on; or a list of several that are read together, as one data set."),
    ] = "latest"
    version: Annotated[
        Literal["latest"] | Annotated[int, Field(ge=0)], Field(description="Version of the span to train on.")
    ] = "latest"
    schema_path: Annotated[
        Path | Literal["infer"],
        Field(
            alias="schema",
            description="Curated public schema (TFDV text format), or `infer` for runs that claim no privacy.",
        ),
    ]
    label: Annotated[str, Field(min_length=1, description="Column to predict.")]
    positive_class: Annotated[
        str | int | None,
        Field(description="Value of the label that counts as positive; of task `binary` alone."),
    ] = None
    stated_task: Annotated[
        Annotated[str, TaskName] | None,
        Field(
            alias="task",
            description="What the model answers. Default: `binary` with `positive_class`, else `multiclass`. "
            "`regression` predicts a number, which needs a public range in the schema.",
        ),
    ] = None
    privacy_unit: PrivacyUnit = "row"

    @field_validator("stated_task")
    @classmethod
    def _a_task_that_fits_its_positive_class(cls, stated: str | None, info: ValidationInfo) -> str | None:
        """Forget a task that is inferred anyway, so that stating it neither trains nor charges again."""
        if stated is None or "positive_class" not in info.data:
            return stated
        positive = info.data["positive_class"]
        if tasks.REGISTRY[stated].has_positive_class and positive is None:
            raise ValueError(f"task {stated} needs `positive_class`, the value of the label that counts as positive")
        if positive is not None and not tasks.REGISTRY[stated].has_positive_class:
            raise ValueError(f"task {stated} has no `positive_class`; drop it, or drop `task`")
        return None if stated == tasks.name_of(positive) else stated

    @field_validator("span")
    @classmethod
    def _one_form_of_several_spans(cls, span: str | int | tuple[int, ...]) -> str | int | tuple[int, ...]:
        if not isinstance(span, tuple):
            return span
        twice = sorted(number for number, times in Counter(span).items() if times > 1)
        if twice:
            raise ValueError(f"span {twice[0]} is named twice: its rows would be read twice")
        return tuple(sorted(span)) if len(span) > 1 else span[0]

    @property
    def task(self) -> str:
        """Name of the label's task."""
        return self.stated_task or tasks.name_of(self.positive_class)

    @property
    def named_span(self) -> Span:
        """The span or spans that the config names; None for `latest`, and so for data without spans."""
        return None if isinstance(self.span, str) else self.span

    @model_serializer(mode="wrap")
    def _without_inferred_task(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        return without_empty(write(self), "task" if info.by_alias else "stated_task")

    @model_validator(mode="after")
    def _public_label(self) -> DatasetConfig:
        if self.positive_class is None and self.schema_path == "infer":
            raise ValueError(
                "`positive_class` is missing: name the value of the label that counts as positive; for several classes "
                "or a number write a schema with the label's domain or range, which `schema: infer` lacks"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_split(self) -> DatasetConfig:
        if isinstance(self.input, str) and self.hash_split is None:
            raise ValueError("a single `input` pattern needs `hash_split`, for example {train: 4, eval: 1}")
        if not isinstance(self.input, str) and self.hash_split is not None:
            raise ValueError("`hash_split` divides a single `input` pattern; give one pattern, or drop `hash_split`")
        if not isinstance(self.input, str) and set(self.input) != {"train", "eval"}:
            raise ValueError("`input` needs a pattern for `train` and one for `eval`")
        if self.hash_split is not None and set(self.hash_split) != {"train", "eval"}:
            raise ValueError("`hash_split` needs buckets for `train` and for `eval`")
        return self


class DpStatisticsSection(Section):
    """Noisy ranges and domains of the columns for which the schema has none, charged to the train split's units."""

    epsilon: Annotated[PositiveFloat, Field(description="Epsilon of one release: all such columns share it evenly.")]
    delta: Delta


class PreprocessingSection(Section):
    """What preprocessing may learn from the data. Without a block: nothing, the schema states it all."""

    dp: Annotated[
        DpStatisticsSection | None,
        Field(description="Release the ranges and domains that the schema leaves out, with differential privacy."),
    ] = None
