"""What a section of the report is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.render.layout import Block


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of the report.

    Attributes:
        name: unique among the sections.
        blocks: makes its blocks from the report; none where it has nothing to show.
    """

    name: str
    blocks: Callable[[DatasetReport], list[Block]]
