"""Where the numbers of the first page and the checklist come from."""

from __future__ import annotations

from collections.abc import Iterable

from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.figures import Figure, Quote, Statement, Words, pieces
from privacy_pipeline.reports.render.layout import Block, Heading, Table
from privacy_pipeline.reports.render.sections.section import Section


def _sources(report: DatasetReport) -> list[Block]:
    statements = [s for passage in report.first_page for s in passage.statements]
    statements += [s for point in report.checklist for s in point.statements]
    found = {(figure.text, figure.source.text): figure for figure in _figures(statements)}
    rows: list[list[Words]] = [
        [[figure], [Quote(quote=figure.source.text, source=figure.source)]] for figure in found.values()
    ]
    caption = (
        "Numbers of the first page and the checklist. Numbers of a table come from the entry or the run in their row."
    )
    heading = Heading(level=2, text="Where the numbers come from", new_page=True)
    return [heading, Table(caption=caption, head=("number", "source"), rows=rows, widths=(1, 4))]


def _figures(statements: Iterable[Statement]) -> Iterable[Figure]:
    for statement in statements:
        for part in statement.words:
            yield from (piece for piece in pieces(part) if isinstance(piece, Figure))


SOURCES = Section(name="sources", blocks=_sources)
