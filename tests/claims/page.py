"""Reads docs/claims.md: groups of claims, each with a mechanism and its tests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

NO_CLAIMS = "Words that claim nothing"
_BECAUSE, _TESTS = "True because:", "Tests:"
_CLAIM = re.compile(r"- (?P<place>[\w./-]+): (?P<text>.+)")


@dataclass(kw_only=True)
class Group:
    """Claims that one mechanism makes true.

    Attributes:
        title: its heading.
        because: the mechanism, in words.
        tests: `path::function` of each test that fails where a claim is not true.
        claims: (place, text); a place is `record` (a string of record or report) or a file.
    """

    title: str
    because: str = ""
    tests: list[str] = field(default_factory=list)
    claims: list[tuple[str, str]] = field(default_factory=list)


def groups(text: str) -> list[Group]:
    """The groups of the page, in its order; what stands before the first heading is its introduction."""
    found: list[Group] = []
    for block in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, rest = block.partition("\n")
        group = Group(title=title.strip())
        for part in _parts(rest):
            claim = _CLAIM.fullmatch(part)
            if claim:
                group.claims.append((claim["place"], claim["text"]))
            elif part.startswith(_BECAUSE):
                group.because = part.removeprefix(_BECAUSE).strip()
            elif part.startswith(_TESTS):
                group.tests = re.findall(r"`([^`]+::\w+)`", part)
        found.append(group)
    return found


def _parts(text: str) -> list[str]:
    """Paragraphs and bullets, each on one line with single spaces."""
    marked = re.sub(r"^- ", "\n- ", text, flags=re.MULTILINE)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", marked) if part.strip()]
