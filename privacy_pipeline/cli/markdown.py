"""A rich table as Markdown, to be pasted into a report."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text


def to_markdown(table: Table) -> str:
    """The table's header and rows as a GitHub table; styles are dropped.

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


def _plain(cell: object) -> str:
    text = cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
    return " ".join(text.split()).replace("|", "\\|")
