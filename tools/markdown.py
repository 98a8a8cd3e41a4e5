"""Read what matters of a Markdown page here: its headings, its links and its blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"^(`{3,})(.*)$")
_HEADING = re.compile(r"^#{1,6} (.+?)\s*$")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_INLINE_CODE = re.compile(r"``.+?``|`[^`]*`", re.DOTALL)
_LINKED = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.) ")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code.

    Attributes:
        line: where it begins, counted from 1.
        language: first word of the fence's info string; empty where there is none, or where the block is indented.
        title: `title="..."` of the info string; empty where there is none.
        code: its lines.
        fenced: whether a fence encloses it.
    """

    line: int
    language: str
    title: str
    code: str
    fenced: bool


def blocks(page: str) -> list[Block]:
    """Return the blocks of code of a page, fenced and indented, in their order."""
    return [found for found in _parts(page) if isinstance(found, Block)]


def links(page: str) -> list[tuple[int, str]]:
    """Return the targets of a page's links and pictures, with their lines; code is not looked into."""
    text = _INLINE_CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), _without_blocks(page))
    return [(1 + text.count("\n", 0, match.end()), match[1]) for match in _LINK.finditer(text)]


def anchors(page: str) -> set[str]:
    """Return the anchors that a page's headings make, as GitHub and the site's `toc` extension make them."""
    headings = map(_HEADING.match, _without_blocks(page).split("\n"))
    return {anchor(heading[1]) for heading in headings if heading}


def anchor(heading: str) -> str:
    """Return the anchor of a heading."""
    text = _LINKED.sub(r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def _without_blocks(page: str) -> str:
    """Return the page with its blocks of code blanked, line by line."""
    lines = [""] * (page.count("\n") + 1)
    for part in _parts(page):
        if not isinstance(part, Block):
            lines[part[0] - 1] = part[1]
    return "\n".join(lines)


def _parts(page: str) -> Iterator[Block | tuple[int, str]]:
    lines = page.split("\n")
    at, listed = 0, False
    while at < len(lines):
        line = lines[at]
        opened = _FENCE.match(line)
        if opened:
            end = next((n for n in range(at + 1, len(lines)) if lines[n].strip() == opened[1]), len(lines))
            yield _fenced(at, opened[2], lines[at + 1 : end])
            at = end + 1
            continue
        if line.strip() and not line.startswith(" "):
            listed = bool(_ITEM.match(line))
        if line.startswith("    ") and not listed and (at == 0 or not lines[at - 1].strip()):
            end = next((n for n in range(at, len(lines)) if lines[n].strip() and not lines[n].startswith("    ")), at)
            end = end if end > at else len(lines)
            code = "\n".join(text[4:] for text in lines[at:end]).rstrip()
            yield Block(line=at + 1, language="", title="", code=code, fenced=False)
            at = end
            continue
        yield at + 1, line
        at += 1


def _fenced(at: int, info: str, code: list[str]) -> Block:
    title = re.search(r'title="([^"]*)"', info)
    return Block(
        line=at + 1,
        language=info.split()[0] if info.strip() else "",
        title=title[1] if title else "",
        code="\n".join(code),
        fenced=True,
    )
