"""Write the pages below docs/reference, or, with `--check`, name those that are out of date."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.references.commands import commands_page
from tools.references.configuration import configuration_page
from tools.references.python_api import python_page

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGES = {"configuration.md": configuration_page, "cli.md": commands_page, "api.md": python_page}


def main(arguments: list[str]) -> int:
    """Return exit code 1 where a page that is checked is out of date."""
    stale = [name for name, page in PAGES.items() if _held(name) != page()]
    if "--check" in arguments:
        for name in stale:
            sys.stdout.write(f"docs/reference/{name} is out of date: make references\n")
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for name in stale:
        (FOLDER / name).write_text(PAGES[name](), encoding="utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")
    return 0


def _held(name: str) -> str | None:
    path = FOLDER / name
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
