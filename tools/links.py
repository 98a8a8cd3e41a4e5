"""Check the links between the project's Markdown files: each names a file that is there, and a heading of it.

python -m tools.links [PATH...]

Links to other sites are not followed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tools.markdown import anchors, links

ROOT = Path(__file__).resolve().parents[1]
READ = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "docs")
_ELSEWHERE = ("https://", "http://", "mailto:")


def main(arguments: list[str]) -> int:
    """Return exit code 1 where a link leads nowhere."""
    found = 0
    for page in pages([Path(name) for name in arguments] or [ROOT / name for name in READ]):
        for line, target, reason in problems(page):
            sys.stdout.write(f"{page}:{line}: {target}: {reason}\n")
            found += 1
    sys.stdout.write(f"{found} to mend\n" if found else "links: nothing to mend\n")
    return 1 if found else 0


def pages(given: list[Path]) -> Iterator[Path]:
    """Yield the Markdown files that are named, or lie below a named folder."""
    for path in given:
        if path.is_dir():
            yield from sorted(path.rglob("*.md"))
        else:
            yield path


def problems(page: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, target and reason of each link of a page that leads nowhere."""
    for line, target in links(page.read_text(encoding="utf-8")):
        if target.startswith(_ELSEWHERE):
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists():
            yield line, target, "there is no such file"
        elif heading and file.suffix == ".md" and heading not in anchors(file.read_text(encoding="utf-8")):
            yield line, target, f"{file.name} lacks a heading with this anchor"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
