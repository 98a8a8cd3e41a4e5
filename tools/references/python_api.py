"""The page of what each package exports, from its docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from tools.references.layout import GENERATED, page

# Packages whose `__all__` is what a user may import; one without it exports nothing.
FACES = (
    "privacy_pipeline",
    "privacy_pipeline.api",
    "privacy_pipeline.dp",
    "privacy_pipeline.ledger",
    "privacy_pipeline.releases",
    "privacy_pipeline.encrypted",
    "federated",
)
_LONGEST_DEFAULT = 40
_INTRODUCTION = """\
What may be imported. Whatever is not on this page may move or change without notice."""
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$", re.MULTILINE)
_LIST = {"Args": "Arguments", "Attributes": "Attributes", "Returns": "Returns", "Raises": "Raises", "Yields": "Yields"}


def python_page() -> str:
    """Return the page."""
    parts = [part for face in FACES for part in _face(importlib.import_module(face))]
    return page("# Python", GENERATED, _INTRODUCTION, *parts)


def _face(module: Any) -> Iterator[str]:
    names = getattr(module, "__all__", ())
    if not names:
        return
    yield f"## {module.__name__}"
    for name in sorted(names, key=str.lower):
        found = getattr(module, name)
        yield f"### `{module.__name__}.{name}`"
        if not (inspect.isclass(found) or inspect.isfunction(found)):
            yield "" if inspect.getmodule(found) else "A value."
            continue
        yield "```text\n" + _signature(name, found) + "\n```"
        yield _docstring(found)
        if inspect.isclass(found):
            yield _methods(found)


def _signature(name: str, found: Any) -> str:
    """Return how something is called, an argument a line where one line is too long."""
    try:
        signature = inspect.signature(found)
    except ValueError:  # a class of C, or one that is not called
        return name
    signature = signature.replace(
        parameters=[_short(parameter) for parameter in signature.parameters.values()],
        return_annotation=_bare(signature.return_annotation),
    )
    text = f"{name}{signature}"
    if len(text) <= 100:
        return text
    arguments: list[str] = []
    star = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            arguments.append("*")
            star = True
        arguments.append(str(parameter))
    answer = "" if signature.return_annotation is signature.empty else f" -> {signature.return_annotation}"
    return f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){answer}"


class _Bare:
    """A text that a signature shows without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _bare(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _short(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter without quotes around its annotation, a long default shortened."""
    shown = repr(parameter.default)
    long = len(shown) > _LONGEST_DEFAULT or " at 0x" in shown  # an address differs from process to process
    default = _Bare("...") if long and parameter.default is not parameter.empty else parameter.default
    return parameter.replace(annotation=_bare(parameter.annotation), default=default)


def _docstring(found: Any) -> str:
    """Return a docstring as Markdown: its sections as lists."""
    text = inspect.cleandoc(found.__doc__ or "")
    first, *rest = _SECTION.split(text)
    parts = [_prose(first)]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        parts += [f"{_LIST[title]}:", _items(inspect.cleandoc("\n" + body))]
    return "\n\n".join(part for part in parts if part)


def _prose(text: str) -> str:
    """Return paragraphs; indented ones, and examples of what Python answers, are shown as they are."""
    text = re.sub(r"(?m)^>>> (?:.+\n?)+", lambda block: "```text\n" + block[0].rstrip("\n") + "\n```\n", text)
    shown = re.sub(r"(?m)(?:^ {4}.*\n?)+", lambda block: "```text\n" + inspect.cleandoc(block[0]) + "\n```\n", text)
    return shown.strip()


def _items(body: str) -> str:
    lines = re.split(r"\n(?! )", body.strip())
    items = (re.sub(r"^(\*{0,2}[\w, *]+): ", r"`\1`: ", " ".join(line.split())) for line in lines if line.strip())
    return "\n".join(f"- {item}" for item in items)


def _methods(found: Any) -> str:
    """Return the public methods of a class, each with the first sentence of its docstring."""
    lines = []
    for name, member in inspect.getmembers(found):
        own = any(name in vars(base) for base in found.__mro__ if base.__module__.startswith(("privacy_", "federated")))
        if name.startswith("_") or not own:
            continue
        kind = inspect.getattr_static(found, name)
        if isinstance(kind, property):
            lines.append(f"- `{name}`: {_first_sentence(kind.fget)}")
        elif callable(member):
            lines.append(f"- `{name}{_arguments(member)}`: {_first_sentence(member)}")
    return "Methods and properties:\n\n" + "\n".join(lines) if lines else ""


def _arguments(member: Any) -> str:
    names = [
        str(parameter).split(":")[0].split("=")[0].strip()
        for parameter in inspect.signature(member).parameters.values()
    ]
    return "(" + ", ".join(name for name in names if name != "self") + ")"


def _first_sentence(member: Any) -> str:
    return " ".join(inspect.cleandoc(member.__doc__ or "").partition("\n\n")[0].split())
