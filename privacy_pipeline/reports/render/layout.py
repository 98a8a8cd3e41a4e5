"""What a report is drawn from: blocks, in reading order. HTML and PDF draw the same blocks, so they cannot differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privacy_pipeline.pictures.drawing import Drawing
from privacy_pipeline.reports.figures import Statement, Words


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading; level 1 is the report's title. `new_page` starts a page in paged formats."""

    level: int
    text: str
    tag: str = ""
    new_page: bool = False


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph; `mark` highlights it: something is missing, or a warning."""

    words: Words
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """A list of statements."""

    statements: Sequence[Statement]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; widths are relative. Rows in `warned` stand out."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Words]]
    widths: Sequence[int]
    warned: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture."""

    drawing: Drawing


Block = Heading | Text | Bullets | Table | Chart
