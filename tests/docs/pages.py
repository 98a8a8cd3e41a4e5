"""The pages of the documentation, and their blocks of code."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tools.markdown import Block, blocks

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))

# Pages whose blocks a test of their own runs.
RUN_BY = {
    "docs/extending.md": "tests/docs/test_extending.py",
    "docs/guides/python.md": "tests/test_from_python.py",
}

_SHELL = ("|", "||", "&&", ">", ";")


def of_page(page: str) -> list[Block]:
    """The blocks of one page."""
    return blocks((ROOT / page).read_text(encoding="utf-8"))


def all_blocks() -> Iterator[tuple[str, Block]]:
    """The blocks of all pages."""
    for page in PAGES:
        for block in of_page(page):
            yield page, block


def commands(block: Block) -> Iterator[list[str]]:
    """The command lines of a block, split into words; output and what is not a command are left out."""
    if block.language not in ("", "sh"):
        return
    for line in re.sub(r"\\\n\s*", " ", block.code).splitlines():
        if re.match(r"(privacy-pipeline|make|\S*python) ", line):
            words = shlex.split(line, comments=True)
            yield list(itertools.takewhile(lambda word: word not in _SHELL, words))
