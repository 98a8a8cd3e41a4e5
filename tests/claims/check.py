"""Checks docs/claims.md: each statement of record and report stands there, and each claim has a test.

The tests that docs/attacking.md names have to be there too.

python -m tests.claims.check
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from tests.claims import attacks
from tests.claims.page import NO_CLAIMS, Group, groups
from tests.claims.statements import ROOT, statements

PAGE = "docs/claims.md"
STATEMENT = "record"


def problems(page: str, *, root: Path = ROOT) -> Iterator[str]:
    """One line for each thing that is wrong with the page."""
    made = statements(root)
    known = {text: name for name, texts in made.items() for text in texts}
    found = groups(page)
    listed = {text for group in found for place, text in group.claims if place == STATEMENT}
    for text in sorted(set(known) - listed, key=lambda text: (known[text], text)):
        yield f"{known[text]}: `{text}` is not on the page; add it with its mechanism and its test"
    for group in found:
        yield from _problems_of(group, known=set(known), root=root)


def _problems_of(group: Group, *, known: set[str], root: Path) -> Iterator[str]:
    if not group.claims:
        yield f"'{group.title}' lists no claim"
    for place, text in group.claims:
        if place == STATEMENT:
            if text not in known:
                yield f"'{group.title}': no module says `{text}` any more; take it off the page"
        elif not (root / place).is_file():
            yield f"'{group.title}': there is no file {place}"
        elif text not in _flat(root / place):
            yield f"'{group.title}': {place} does not say `{text}` any more"
    if group.title == NO_CLAIMS:
        return
    if not group.because:
        yield f"'{group.title}' names no mechanism; add a paragraph that starts with 'True because:'"
    for path in _named_files(group.because):
        if not (root / path).exists() and not (root / "privacy_pipeline" / path).exists():
            yield f"'{group.title}': its mechanism names {path}, which is not there"
    if not group.tests:
        yield f"'{group.title}' has no test; add a paragraph that starts with 'Tests:'"
    for test in missing(group.tests, root=root):
        yield f"'{group.title}': there is no test {test}"


def missing(tests: Iterable[str], *, root: Path = ROOT) -> Iterator[str]:
    """Those of some tests, `path::function`, that are not there."""
    for test in tests:
        path, _, function = test.partition("::")
        if function not in _functions(root / path):
            yield test


def _named_files(because: str) -> list[str]:
    """Paths between backquotes, written from the root or from the framework's package."""
    return re.findall(r"`((?:\w+/)+\w+(?:\.py)?)`", because)


@cache
def _flat(path: Path) -> str:
    """The text of a page, or all strings of a module, with single spaces."""
    if path.suffix != ".py":
        return " ".join(path.read_text().split())
    strings = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    return "\n".join(" ".join(text.split()) for text in strings if isinstance(text, str))


@cache
def _functions(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def main() -> int:
    """Print each problem; exit with 1 if there is one."""
    found = [f"{PAGE}: {line}" for line in problems((ROOT / PAGE).read_text())]
    for test in missing(attacks.named((ROOT / attacks.PAGE).read_text())):
        found.append(f"{attacks.PAGE}: there is no test {test}")
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
