"""A rich table as Markdown or as a picture, for a report."""

from __future__ import annotations

import io
import re

from rich.table import Table
from rich.text import Text

from privacy_pipeline.cli.shown import PlainConsole
from privacy_pipeline.text.shown_text import in_markdown


def to_markdown(table: Table) -> str:
    """Return the table's header and rows as a GitHub table; styles are dropped.

    Args:
        table: a table whose cells are markup strings.
    """
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    headers = [_plain(column.header) for column in table.columns]
    if not table.show_header:
        headers = [""] * len(columns)
    rule = ["---:" if column.justify == "right" else "---" for column in table.columns]
    rows = [headers, rule, *(list(row) for row in zip(*columns, strict=True))]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def to_svg(table: Table, *, width: int = 110) -> str:
    """Return the table as a self-contained SVG picture, which fetches no font.

    Args:
        table: any table.
        width: width of the picture, in characters.
    """
    console = PlainConsole(record=True, width=width, file=io.StringIO())
    console.print(table)
    picture = console.export_svg(title=str(table.title or ""))
    # Rich's picture fetches a web font from another host; the viewer's own monospace font is enough.
    return re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)


def _plain(cell: object) -> str:
    text = cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
    return in_markdown(text)
