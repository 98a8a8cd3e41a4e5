"""Pydantic's errors as lines that a person can act on."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.config.sections import holds, item, keys_at
from privacy_pipeline.config.source import Document, KeyPath
from privacy_pipeline.errors import BadInputError, brief

_MOST_PROBLEMS = 30  # that are looked at; a person mends a few at a time
_LONGEST_VALUE = 100  # bytes

_EXPECTED_TYPE = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "a text",
    "path_type": "a path",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_TEMPLATES = {
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a finite number",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must match {pattern}",
}


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """One pydantic error, its location translated to the YAML's keys.

    Attributes:
        path: keys in the YAML.
        branch: (depth, tag) of the union branch that it comes from, if any.
        detail: pydantic's error.
    """

    path: KeyPath
    branch: tuple[int, str] | None
    detail: ErrorDetails

    @property
    def type(self) -> str:
        return self.detail["type"]

    @property
    def expected(self) -> str | None:
        """What the branch expects, where the error is that the value is something else altogether."""
        if self.type == "literal_error":
            return str(self.detail.get("ctx", {}).get("expected"))
        return _EXPECTED_TYPE.get(self.type)


@dataclass(frozen=True, kw_only=True)
class _Line:
    path: KeyPath
    text: str
    hint: str = ""
    missing: bool = False


def explain(*, error: ValidationError, document: Document, root: type[BaseModel] = PipelineConfig) -> BadInputError:
    """Return one error with a line for each thing that is wrong, in the order of the file.

    Args:
        error: what pydantic found.
        document: the values and where they were written.
        root: model of the whole document.
    """
    problems = _fold_unions(_problem(detail, document.data) for detail in error.errors(include_url=False))
    problems.sort(key=lambda problem: document.origin(problem.path).line)
    lines = [_line(problem, document, root) for problem in problems[:_MOST_PROBLEMS]]
    lines = _drop_missing_that_are_misspelt(lines)
    lines.sort(key=lambda line: document.origin(line.path).line)
    if len(lines) == 1 and len(problems) <= _MOST_PROBLEMS:
        return BadInputError(lines[0].text, fix=lines[0].hint)
    texts = [f"{line.text} ({line.hint})" if line.hint else line.text for line in lines]
    if len(problems) > _MOST_PROBLEMS:
        texts.append(f"and {len(problems) - _MOST_PROBLEMS} more problems")
    return BadInputError("\n".join(dict.fromkeys(texts)))


def _problem(detail: ErrorDetails, data: object) -> _Problem:
    """Walk the data along pydantic's location; what is neither a key nor an index is the tag of a union branch."""
    path: list[str | int] = []
    branch: tuple[int, str] | None = None
    location = list(detail["loc"])
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if holds(data=data, key=part):
            data = item(data=data, key=part)
            path.append(part)
        elif last and detail["type"] == "missing":
            path.append(part)
        elif part != "[key]":
            branch = (len(path), str(part))
    return _Problem(path=tuple(path), branch=branch, detail=detail)


def _fold_unions(problems: Iterable[_Problem]) -> list[_Problem]:
    """Keep, of each union, the branch that the value was meant for; see `_meant`."""
    kept: list[_Problem] = []
    unions: dict[KeyPath, list[_Problem]] = defaultdict(list)
    for problem in problems:
        if problem.branch is None:
            kept.append(problem)
        else:
            unions[problem.path[: problem.branch[0]]].append(problem)
    for path, members in unions.items():
        kept.extend(_meant(members, path))
    return kept


def _meant(members: list[_Problem], path: KeyPath) -> list[_Problem]:
    """Return the branch whose shape the value has; where it has none's, one error that names what all branches
    expect.
    """
    branches: dict[str, list[_Problem]] = defaultdict(list)
    for member in members:
        branches[member.branch[1] if member.branch else ""].append(member)
    fitting = [group for group in branches.values() if not any(_wrong_shape(member, path) for member in group)]
    if fitting:
        return fitting[0]
    expected = " or ".join(dict.fromkeys(member.expected or "" for member in members))
    detail = members[0].detail
    folded: ErrorDetails = {
        "type": "literal_error",
        "loc": detail["loc"],
        "msg": "",
        "input": detail["input"],
        "ctx": {"expected": expected},
    }
    return [_Problem(path=path, branch=None, detail=folded)]


def _wrong_shape(problem: _Problem, path: KeyPath) -> bool:
    return problem.path == path and problem.expected is not None


def _line(problem: _Problem, document: Document, root: type[BaseModel]) -> _Line:
    where = document.where(problem.path)
    if problem.type == "extra_forbidden" or problem.detail["loc"][-1:] == ("[key]",):
        return _unknown_key(problem, document, root)
    if problem.type in ("missing", "union_tag_not_found"):
        return _missing_key(problem, document)
    if problem.type == "union_tag_invalid":
        return _wrong_tag(problem, document)
    text = f"{where}: {_dotted(problem.path)}{_message(problem)}"
    if problem.type == "value_error":
        text += _overrides_below(problem.path, document)
    return _Line(path=problem.path, text=text, hint=_value_hint(problem))


def _message(problem: _Problem) -> str:
    context = problem.detail.get("ctx", {})
    got = f" (got {_shown(problem.detail['input'])})"
    if problem.type == "value_error":
        return str(context.get("error", problem.detail["msg"]))
    if problem.type == "too_short":
        return f"needs at least {context['min_length']} item"
    if problem.expected is not None:
        return f"must be {problem.expected}{got}"
    template = _TEMPLATES.get(problem.type)
    if template is not None:
        return template.format(**context) + got
    return problem.detail["msg"][:1].lower() + problem.detail["msg"][1:] + got


def _value_hint(problem: _Problem) -> str:
    value, expected = problem.detail["input"], problem.expected or ""
    if isinstance(value, str):
        near = difflib.get_close_matches(value, re.findall(r"'([^']*)'", expected), n=1)
        if near:
            return f"did you mean '{near[0]}'?"
        if "integer" in expected or "number" in expected:
            return "remove the quotes" if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value, re.IGNORECASE) else ""
    if isinstance(value, (bool, int, float)) and "a text" in expected:
        return "put the value in quotes if it is a text"
    return ""


def _unknown_key(problem: _Problem, document: Document, root: type[BaseModel]) -> _Line:
    key, section = str(problem.path[-1]), problem.path[:-1]
    where = f"in `{_joined(section)}`" if section else "at the top level"
    valid = [name for name in keys_at(path=section, data=document.data, root=root) if name != key]
    near = difflib.get_close_matches(key, valid, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(valid)}"
    text = f"{document.where(problem.path)}: unknown key '{_short(key)}' {where}"
    return _Line(path=problem.path, text=text, hint=hint)


def _missing_key(problem: _Problem, document: Document) -> _Line:
    path = problem.path
    if problem.type == "union_tag_not_found":
        path = (*path, str(problem.detail.get("ctx", {}).get("discriminator", "")).strip("'"))
    section = path[:-1]
    lacking = f"`{_joined(section)}` lacks" if section else "the config lacks"
    text = f"{document.where(section)}: {lacking} the required key '{path[-1]}'"
    return _Line(path=path, text=text + _overrides_below(section, document), missing=True)


def _wrong_tag(problem: _Problem, document: Document) -> _Line:
    context: Mapping[str, object] = problem.detail.get("ctx", {})
    path = (*problem.path, str(context.get("discriminator", "")).strip("'"))
    text = f"{_dotted(path)}must be one of {context.get('expected_tags')} (got {_shown(context.get('tag'))})"
    near = difflib.get_close_matches(str(context.get("tag")), re.findall(r"'([^']*)'", str(context)), n=2, cutoff=0.5)
    near = [name for name in near if name != context.get("tag")]
    hint = f"did you mean '{near[0]}'?" if near else ""
    return _Line(path=path, text=f"{document.where(path)}: {text}", hint=hint)


def _drop_missing_that_are_misspelt(lines: list[_Line]) -> list[_Line]:
    """Drop a missing key that was misspelt, which is one mistake: the line on the unknown key already proposes it."""
    proposed = {(line.path[:-1], line.hint) for line in lines if line.path and line.hint.startswith("did you mean")}
    return [
        line
        for line in lines
        if not line.missing or (line.path[:-1], f"did you mean '{line.path[-1]}'?") not in proposed
    ]


def _overrides_below(path: KeyPath, document: Document) -> str:
    """Name the overrides inside a section: an error of the whole section may well be theirs."""
    if document.origin(path).override:
        return ""
    texts = [f"'{text}'" for changed, text in document.overrides if changed[: len(path)] == path]
    return f" (with override {', '.join(texts)})" if texts else ""


def _joined(path: KeyPath) -> str:
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return brief(text.lstrip("."), most=2 * _LONGEST_VALUE)


def _dotted(path: KeyPath) -> str:
    return f"{_joined(path)}: " if path else ""


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return _short(repr(value))


def _short(text: object) -> str:
    return brief(str(text), most=_LONGEST_VALUE)
