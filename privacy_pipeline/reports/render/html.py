"""The report as one HTML file, which has no scripts, fetches nothing, and can be printed."""

from __future__ import annotations

from typing import Any

from privacy_pipeline.pictures.drawing import to_svg
from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.figures import Figure, Words, pieces
from privacy_pipeline.reports.render.sections.registry import blocks
from privacy_pipeline.text.shown_text import in_html


def to_html(report: DatasetReport) -> str:
    """Return the page. Each number is a `data` element with its exact value, and with its source as title."""
    report = report.visible()
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("privacy_pipeline.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def words(parts: Words) -> Any:
        return Markup(_words(parts))

    def picture(drawing: Any) -> Any:
        return Markup(to_svg(drawing))

    environment.filters |= {"words": words, "picture": picture, "kind": lambda block: type(block).__name__}
    return environment.get_template("report.html.j2").render(report=report, blocks=blocks(report))


def _words(parts: Words) -> str:
    made = []
    for part in parts:
        for piece in pieces(part):
            if isinstance(piece, str):
                made.append(in_html(piece))
                continue
            source = in_html(piece.source.text)
            if isinstance(piece, Figure):
                value = in_html(repr(piece.value))
                made.append(f'<data value="{value}" title="{source}">{in_html(piece.text)}</data>')
            else:
                made.append(f'<span class="quote" title="{source}">{in_html(piece.text)}</span>')
    return "".join(made)
