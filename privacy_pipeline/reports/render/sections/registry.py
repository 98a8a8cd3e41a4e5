"""Which sections the report has, in reading order. A section is added by its module and one line here."""

from __future__ import annotations

import pkgutil

from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.render.layout import Block
from privacy_pipeline.reports.render.sections.section import Section

_FOLDER = "privacy_pipeline.reports.render.sections"
_SECTIONS = (
    "summary:SUMMARY",
    "budgets:BUDGETS",
    "changes:CHANGES",
    "runs:RUNS",
    "audits:AUDITS",
    "not_covered:NOT_COVERED",
    "checklist:CHECKLIST",
    "sources:SOURCES",
)
SECTIONS: tuple[Section, ...] = tuple(pkgutil.resolve_name(f"{_FOLDER}.{place}") for place in _SECTIONS)


def blocks(report: DatasetReport) -> list[Block]:
    """Return all blocks of a report, section by section.

    Args:
        report: what they are made from.
    """
    return [block for section in SECTIONS for block in section.blocks(report)]
