"""Parts of a page for a notebook's cell: each text in them is escaped, and nothing in them is fetched or run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from privacy_pipeline.pictures.drawing import Drawing, to_svg
from privacy_pipeline.text.shown_text import in_html

_WIDTH = "max-width: 46rem"
_CELL = "text-align: left; vertical-align: top; padding: .2rem .6rem"
_names = itertools.count(1)


def new_name(kind: str) -> str:
    """Return a name that no other picture of this process has: a notebook shows many on one page."""
    return f"privacy-pipeline-{kind}-{next(_names)}"


def fragment(*parts: str) -> str:
    """Return parts of HTML as one; empty ones are left out."""
    return f'<div style="{_WIDTH}">' + "".join(part for part in parts if part) + "</div>"


def paragraph(text: str, *, bold: bool = False) -> str:
    """Return a text as a paragraph."""
    inside = f"<strong>{in_html(text)}</strong>" if bold else in_html(text)
    return f"<p>{inside}</p>"


def table(rows: Iterable[Sequence[str]], *, head: Sequence[str] = (), caption: str = "") -> str:
    """Return a table of plain texts.

    Args:
        rows: cells.
        head: titles of the columns; none for a table whose first column holds the titles.
        caption: above the table.
    """
    titles = "".join(f'<th style="{_CELL}">{in_html(title)}</th>' for title in head)
    lines = []
    for cells in rows:
        kinds = ["td"] * len(cells) if head else ["th", *["td"] * (len(cells) - 1)]
        inside = (f'<{kind} style="{_CELL}">{in_html(cell)}</{kind}>' for kind, cell in zip(kinds, cells, strict=True))
        lines.append(f"<tr>{''.join(inside)}</tr>")
    above = f'<caption style="text-align: left">{in_html(caption)}</caption>' if caption else ""
    first = f"<thead><tr>{titles}</tr></thead>" if titles else ""
    return f"<table>{above}{first}<tbody>{''.join(lines)}</tbody></table>"


def picture(drawing: Drawing) -> str:
    """Return a drawing as SVG."""
    return f'<figure style="margin: .5rem 0">{to_svg(drawing)}</figure>'
