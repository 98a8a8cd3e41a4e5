"""The layout shows the architecture: small folders of small modules, each with a name that says what is in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("privacy_pipeline", "federated", "tools")
SCRIPTS = ("benchmarks",)  # a list of programs by name, not a package: its folder may have any number of them
MOST_MODULES, MOST_LINES = 15, 300

# Names that say nothing of what is in a module.
NAMELESS = ("common", "helper", "helpers", "misc", "part2", "util", "utils")


def modules(root: Path, *folders: str) -> list[Path]:
    found = [path.relative_to(root) for folder in folders for path in (root / folder).rglob("*.py")]
    return sorted(found)


def crowded(root: Path) -> dict[str, int]:
    counts = Counter(str(path.parent) for path in modules(root, *PACKAGES) if path.name != "__init__.py")
    return {folder: count for folder, count in counts.items() if count > MOST_MODULES}


def longer(root: Path) -> dict[str, int]:
    lines = {str(path): len((root / path).read_text().splitlines()) for path in modules(root, *PACKAGES, *SCRIPTS)}
    return {name: count for name, count in lines.items() if count > MOST_LINES}


def test_no_folder_has_more_than_15_modules() -> None:
    assert crowded(ROOT) == {}, "move a part of the work into a sub-package"


def test_no_module_has_more_than_300_lines() -> None:
    assert longer(ROOT) == {}, "move what has a responsibility of its own into a module of its own"


def test_a_module_is_named_by_what_is_in_it() -> None:
    assert [str(path) for path in modules(ROOT, *PACKAGES, *SCRIPTS) if path.stem in NAMELESS] == []


@pytest.mark.parametrize(("lines", "files"), [(301, 1), (1, 16)])
def test_what_is_too_long_or_too_many_is_found(lines: int, files: int, tmp_path: Path) -> None:
    for folder in (*PACKAGES, *SCRIPTS):
        (tmp_path / folder / "part").mkdir(parents=True)
    for number in range(files):
        (tmp_path / "federated" / "part" / f"module_{number}.py").write_text("x = 1\n" * lines)
    (tmp_path / "federated" / "part" / "__init__.py").touch()
    assert longer(tmp_path) == ({"federated/part/module_0.py": 301} if lines > MOST_LINES else {})
    assert crowded(tmp_path) == ({"federated/part": 16} if files > MOST_MODULES else {})
