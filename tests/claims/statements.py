"""The statement strings of record and report, read off the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("privacy_pipeline", "federated")
LEAST_WORDS = 3
NAMED_MODULES = (
    "privacy_pipeline/accounting/record.py",
    "privacy_pipeline/dp/mechanism/listed.py",
    "privacy_pipeline/encrypted/model/threat_model.py",
    "federated/privacy/listed.py",
)
"""Modules that make statements without a call that shows it: properties in words, default texts, titles."""

_MARKUP = re.compile(r"<[a-z!/]|\{ ")
_MAKERS = {"Assumption", "DataAccess", "say", "unknown"}
_NO_STATEMENTS = {"BadInputError", "PolicyError", "Field", "TypeError", "ValueError", "compile", "escape", "Template"}


@cache
def statements(root: Path = ROOT) -> dict[str, set[str]]:
    """The statements of each module that makes some, by its path relative to the root.

    A statement is a string of at least `LEAST_WORDS` words that is not a docstring, markup or the text of an error.
    What a program fills in is written `…`.
    """
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            source = path.read_text()
            tree = ast.parse(source)
            if _makes_statements(name, tree):
                found[name] = {text for text in _strings(tree) if _is_statement(text)}
    return {name: texts for name, texts in found.items() if texts}


def _is_statement(text: str) -> bool:
    return len(text.split()) >= LEAST_WORDS and not _MARKUP.search(text)


def _makes_statements(name: str, tree: ast.Module) -> bool:
    if name in NAMED_MODULES or name.startswith("privacy_pipeline/reports/"):
        return True
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(
        (isinstance(call.func, ast.Name) and call.func.id in _MAKERS)
        or any(keyword.arg == "statement" for keyword in call.keywords)
        for call in calls
    )


def _strings(tree: ast.Module) -> Iterator[str]:
    left_out = {id(part) for node in ast.walk(tree) for part in _left_out(node)}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.JoinedStr):
            yield _flat("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield _flat(node.value)


def _left_out(node: ast.AST) -> Iterator[ast.AST]:
    """Docstrings, texts of errors and of patterns, and the parts of a string that is taken whole."""
    body = getattr(node, "body", None)
    if isinstance(body, list):
        yield from (line.value for line in body if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
    if isinstance(node, ast.Raise):
        yield from ast.walk(node)
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in _NO_STATEMENTS:
            yield from ast.walk(node)
    if isinstance(node, ast.JoinedStr):
        yield from (part for part in node.values if isinstance(part, ast.Constant))


def _flat(text: str) -> str:
    return " ".join(text.split())
