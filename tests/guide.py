"""Reads the tables of docs/guides/what_leaves.md."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

GUIDE = Path(__file__).parents[1] / "docs/guides/what_leaves.md"
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def of_commands() -> list[str]:
    """Commands that the guide names."""
    return [name for name, _, _ in _ROW.findall(_section("Commands"))]


def unlisted(root: Path) -> list[str]:
    """Files below a folder that none of the guide's patterns names."""
    patterns = [name for name, _, _ in _ROW.findall(_section("Files"))]
    files = sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
    return [file for file in files if not any(_fits(file, pattern) for pattern in patterns)]


def _fits(file: str, pattern: str) -> bool:
    if pattern.endswith("/**"):
        return file.startswith(pattern.removesuffix("**"))
    same = file.count("/") == pattern.count("/")  # a star does not stand for a slash
    return same and fnmatch.fnmatchcase(file, pattern)


def _section(title: str) -> str:
    return GUIDE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
