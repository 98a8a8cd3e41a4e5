"""Repeats what docs/attacking.md tells: runs each test that the page names.

python -m tests.claims.attacks [pytest's arguments]
"""

from __future__ import annotations

import ast
import re
import sys

import pytest

from tests.claims.statements import ROOT

PAGE = "docs/attacking.md"


def named(page: str) -> list[str]:
    """`path::function` of each test that a page names, in its order."""
    return list(dict.fromkeys(re.findall(r"`(tests/[\w/]+\.py::\w+)`", page)))


def node(test: str) -> str:
    """The name under which pytest finds a test, which may be a method of a class."""
    path, _, function = test.partition("::")
    for item in ast.parse((ROOT / path).read_text()).body:
        if isinstance(item, ast.ClassDef) and any(getattr(each, "name", "") == function for each in item.body):
            return f"{path}::{item.name}::{function}"
    return test


if __name__ == "__main__":
    sys.exit(pytest.main([*sys.argv[1:], *map(node, named((ROOT / PAGE).read_text()))]))
