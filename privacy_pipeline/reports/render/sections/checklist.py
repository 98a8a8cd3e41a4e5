"""The checklist, point by point."""

from __future__ import annotations

from collections.abc import Sequence

from privacy_pipeline.reports.dataset.dataset_report import Point
from privacy_pipeline.reports.render.layout import Block, Bullets, Heading
from privacy_pipeline.reports.render.sections.section import Section


def _checklist(points: Sequence[Point]) -> list[Block]:
    made: list[Block] = [Heading(level=2, text="Checklist", new_page=True)]
    group = ""
    for point in points:
        if point.group != group:
            group = point.group
            made.append(Heading(level=3, text=group))
        made += [
            Heading(level=4, text=f"{point.number}. {point.title}", tag=point.status),
            Bullets(statements=point.statements),
        ]
    return made


CHECKLIST = Section(name="checklist", blocks=lambda report: _checklist(report.checklist))
