"""The code of both packages as syntax trees, for tests of which module may call what."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("privacy_pipeline", "federated")


@cache
def dotted_names(package: str) -> Mapping[str, frozenset[str]]:
    """Every dotted name that a package writes, and every one that it imports by `from`, with the files that do.

    Args:
        package: of `PACKAGES`.

    Returns:
        files, relative to the package, by `a.b.c` as written, `from a.b.c` for `from a.b import c`, and `import a.b`.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for file in (ROOT / package).rglob("*.py"):
        path = str(file.relative_to(ROOT / package))
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                found[ast.unparse(node)].add(path)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[f"from {node.module}.{alias.name}"].add(path)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    found[f"import {alias.name}"].add(path)
    return {name: frozenset(files) for name, files in found.items()}
