"""The page of all keys that the project's YAML files may hold, from their pydantic models."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from federated.experiments.config import ExperimentConfig
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.reports.dataset.facts import FactsFile
from tools.markdown import anchor
from tools.references.layout import GENERATED, page, table
from tools.references.values import default_text, models_of, type_text

_INTRODUCTION = """\
Every key of the YAML files. A key that is not here is refused, and the message names its line. `--set a.b=c` of `run`,
`check` and the other commands that take a config overrides one of them. An empty default means that the key may be left
out. `privacy-pipeline config schema` prints the same as a JSON Schema, for editors."""


@dataclass(frozen=True)
class _File:
    title: str
    root: type[BaseModel]
    prefix: str
    text: str


_FILES = (
    _File("The config of a pipeline", PipelineConfig, "", "`privacy-pipeline init` writes a commented one."),
    _File(
        "An experiment",
        ExperimentConfig,
        "Experiment: ",
        "The file of the commands `privacy-pipeline federated`; see [Federated training](../guides/federated.md).",
    ),
    _File(
        "A policy",
        Policy,
        "Policy: ",
        "What a dataset's budget may be spent on; `privacy-pipeline budget init` writes a commented one.",
    ),
    _File(
        "Facts for a report",
        FactsFile,
        "Facts: ",
        "What stands in no record, for `privacy-pipeline budget report --facts FILE`.",
    ),
)


def configuration_page() -> str:
    """Return the page."""
    told: dict[type[BaseModel], str] = {}
    parts: list[str] = []
    for file in _FILES:
        parts += [f"## {file.title}", file.text, *_block(file.root, prefix=file.prefix, path="", told=told)]
    return page("# Configuration", GENERATED, _INTRODUCTION, *parts)


def _block(model: type[BaseModel], *, prefix: str, path: str, told: dict[type[BaseModel], str]) -> Iterator[str]:
    """Yield the parts of a block and of the blocks in it; one that another heading shows is linked."""
    title = f"{prefix}`{path}`"
    if path:
        yield f"### {title}"
    if model in told:
        yield f"As [{told[model]}](#{anchor(told[model])})."
        return
    if path:
        told[model] = title
    yield _summary(model)
    attributes = _attributes(model)
    fields = {field.alias or name: (name, field) for name, field in model.model_fields.items()}
    yield table(
        ("key", "value", "default", "meaning"),
        [
            (
                f"`{key}`",
                _linked(field, prefix=prefix, path=_below(path, key)),
                default_text(field),
                field.description or attributes.get(name) or _of_block(field),
            )
            for key, (name, field) in fields.items()
        ],
    )
    for key, (_, field) in fields.items():
        for inner in models_of(field.annotation):
            several = len(list(models_of(field.annotation))) > 1
            below = _below(path, key)
            yield from _block(inner, prefix=prefix, path=f"{below}: {inner.__name__}" if several else below, told=told)


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _linked(field: FieldInfo, *, prefix: str, path: str) -> str:
    text = type_text(field.annotation, field.metadata)
    models = list(models_of(field.annotation))
    if len(models) == 1:
        return text.replace("block", f"[block](#{anchor(f'{prefix}`{path}`')})")
    for model in models:
        title = f"{prefix}`{path}: {model.__name__}`"
        text = text.replace("block", f"[{model.__name__}](#{anchor(title)})", 1)
    return text


def _of_block(field: FieldInfo) -> str:
    """Return the first sentence about a block; of several kinds of block, about each."""
    sentences = (re.split(r"(?<=\.)\s", _summary(model))[0] for model in models_of(field.annotation))
    return " Or: ".join(sentences)


def _summary(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").partition("\nAttributes:")[0]


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """Return what the docstring's `Attributes:` section states of each field."""
    section = inspect.cleandoc(model.__doc__ or "").partition("\nAttributes:")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
