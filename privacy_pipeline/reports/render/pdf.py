"""The report as PDF, from the same blocks as the HTML. Fonts are embedded; the machine's fonts are not used."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from importlib import resources
from typing import TYPE_CHECKING, Any

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pictures.drawing import Dot, Drawing, Label, Path
from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.figures import Words, plain
from privacy_pipeline.reports.render.layout import Block, Bullets, Heading, Table, Text
from privacy_pipeline.reports.render.sections.registry import blocks

if TYPE_CHECKING:
    from fpdf import FPDF

FONT = "DejaVu"
_INK, _SOFT, _BLUE, _WARN, _UNSURE = (29, 39, 51), (91, 102, 114), (31, 95, 168), (179, 32, 44), (138, 82, 0)
_TAGS = {"answered": (34, 112, 58), "partly": _UNSURE, "not known": _WARN}
_SIZES = {1: 18, 2: 14, 3: 11.5, 4: 10}
_BODY, _SMALL, _LINE = 9.5, 7.2, 4.8


def to_pdf(report: DatasetReport) -> bytes:
    """Return the report as the bytes of a PDF file; the same report gives the same bytes.

    Raises:
        BadInputError: a text holds a character that the embedded font does not have, or is longer than a page.
    """
    from fpdf import FPDF

    report = report.visible()
    made = blocks(report)
    pdf = FPDF(format="A4")
    pdf.set_creation_date(datetime.datetime.fromisoformat(report.generated.quote))
    pdf.set_title(f"Privacy report: {report.dataset.quote}")
    pdf.set_lang("en")
    pdf.set_margins(16, 16, 16)
    pdf.set_auto_page_break(True, margin=18)
    folder = resources.files("privacy_pipeline.reports") / "fonts"
    for style, file in (("", "DejaVuSans.ttf"), ("B", "DejaVuSans-Bold.ttf")):
        with resources.as_file(folder / file) as path:
            pdf.add_font(FONT, style, path)
    _refuse_unknown_characters(pdf, made)
    pdf.add_page()
    for block in made:
        try:
            _draw(pdf, block)
        except ValueError as error:  # a row of a table is longer than a page
            raise BadInputError(f"the report cannot be made a PDF: {error}", fix="ask for --format html") from error
    return bytes(pdf.output())


def _refuse_unknown_characters(pdf: FPDF, made: Iterable[Block]) -> None:
    known = set(pdf.fonts[FONT.lower()].cmap)
    for block in made:
        for text in _texts(block):
            lacking = sorted({c for c in text if ord(c) not in known and c not in "\n\t"})
            if lacking:
                raise BadInputError(
                    f"the PDF's font has no {' '.join(lacking)} (in {text[:60]!r})", fix="ask for --format html"
                )


def _texts(block: Block) -> Iterable[str]:
    if isinstance(block, Heading):
        yield block.text
    elif isinstance(block, Text):
        yield plain(block.words)
    elif isinstance(block, Bullets):
        yield from (plain(statement.words) for statement in block.statements)
    elif isinstance(block, Table):
        yield from (block.caption, *block.head, *(plain(cell) for row in block.rows for cell in row))
    else:
        yield from (item.text for item in block.drawing.items if isinstance(item, Label))


def _draw(pdf: FPDF, block: Block) -> None:
    if isinstance(block, Heading):
        _heading(pdf, block)
    elif isinstance(block, Text):
        _paragraph(pdf, block.words, _UNSURE if block.mark else _INK)
    elif isinstance(block, Bullets):
        for statement in block.statements:
            _paragraph(pdf, ["• ", *statement.words], _INK if statement.known else _UNSURE, indent=3)
        pdf.ln(1)
    elif isinstance(block, Table):
        _table(pdf, block)
    else:
        _picture(pdf, block.drawing)


def _heading(pdf: FPDF, heading: Heading) -> None:
    if heading.new_page or pdf.will_page_break(24):
        pdf.add_page()
    else:
        pdf.ln({1: 0, 2: 6, 3: 2.5, 4: 1.5}[heading.level])
    if heading.level <= 2:
        pdf.start_section(heading.text, level=heading.level - 1)
    size = _SIZES[heading.level]
    pdf.set_font(FONT, "B", size)
    pdf.set_text_color(*(_BLUE if heading.level == 3 else _INK))
    if not heading.tag:
        pdf.multi_cell(0, size * 0.5, heading.text, align="L", new_x="LMARGIN", new_y="NEXT")
    else:
        pdf.write(size * 0.5, heading.text)
        pdf.set_font(FONT, "", _SMALL + 0.5)
        pdf.set_text_color(*_TAGS[heading.tag])
        pdf.write(size * 0.5, f"   {heading.tag}")
        pdf.ln(size * 0.5)
    if heading.level == 2:
        pdf.set_draw_color(*_BLUE)
        pdf.set_line_width(0.5)
        pdf.line(pdf.l_margin, pdf.get_y() + 0.8, pdf.w - pdf.r_margin, pdf.get_y() + 0.8)
        pdf.ln(2)
    pdf.ln(1)


def _paragraph(pdf: FPDF, words: Words, colour: tuple[int, int, int], indent: float = 0) -> None:
    pdf.set_font(FONT, "", _BODY)
    pdf.set_text_color(*colour)
    pdf.set_x(pdf.l_margin + indent)
    pdf.multi_cell(0, _LINE, plain(words), align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(0.6)


def _table(pdf: FPDF, table: Table) -> None:
    from fpdf.enums import TableBordersLayout, VAlign
    from fpdf.fonts import FontFace

    pdf.ln(1.5)
    if pdf.will_page_break(28):
        pdf.add_page()
    pdf.set_font(FONT, "", _SMALL + 0.5)
    pdf.set_text_color(*_SOFT)
    pdf.multi_cell(0, 4, table.caption, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(0.8)
    pdf.set_font(FONT, "", _SMALL)
    pdf.set_text_color(*_INK)
    pdf.set_draw_color(212, 218, 225)
    pdf.set_fill_color(255, 255, 255)  # a table fills its cells with the last used colour
    pdf.set_line_width(0.2)
    layout: Any = TableBordersLayout.HORIZONTAL_LINES
    with pdf.table(
        borders_layout=layout,
        col_widths=tuple(table.widths),
        headings_style=FontFace(emphasis="BOLD"),
        line_height=3.6,
        padding=(0.9, 1.0),
        text_align="LEFT",
        v_align=VAlign.T,
    ) as drawn:
        drawn.row(table.head)
        for index, cells in enumerate(table.rows):
            style = FontFace(color=_WARN) if index in table.warned else None
            drawn.row([plain(cell) for cell in cells], style=style)
    pdf.ln(3)


def _picture(pdf: FPDF, drawing: Drawing) -> None:
    scale = (pdf.w - pdf.l_margin - pdf.r_margin) / drawing.width
    if pdf.will_page_break(drawing.height * scale + 2):
        pdf.add_page()
    left, top = pdf.l_margin, pdf.get_y()
    for item in drawing.items:
        if isinstance(item, Path):
            _path(pdf, item, [(left + x * scale, top + y * scale) for x, y in item.points], scale)
        elif isinstance(item, Dot):
            pdf.set_draw_color(*_rgb(item.colour))
            pdf.set_fill_color(*((255, 255, 255) if item.hollow else _rgb(item.colour)))
            pdf.circle(left + item.x * scale, top + item.y * scale, item.radius * scale, style="DF")
        else:
            _label(pdf, item, left + item.x * scale, top + item.y * scale, scale)
    pdf.set_xy(pdf.l_margin, top + drawing.height * scale + 3)


def _path(pdf: FPDF, path: Path, points: list[tuple[float, float]], scale: float) -> None:
    if path.fill:
        pdf.set_fill_color(*_rgb(path.colour))
        pdf.polygon(points, style="F")
        return
    pdf.set_draw_color(*_rgb(path.colour))
    pdf.set_line_width(path.width * scale)
    if path.dashed:
        pdf.set_dash_pattern(dash=1.4, gap=1.1)
    pdf.polyline(points, style="D")
    pdf.set_dash_pattern()


def _label(pdf: FPDF, label: Label, x: float, y: float, scale: float) -> None:
    pdf.set_font(FONT, "B" if label.bold else "", label.size * scale * 72 / 25.4)
    pdf.set_text_color(*_rgb(label.colour))
    back = {"start": 0.0, "middle": 0.5, "end": 1.0}[label.anchor]
    pdf.text(x - back * pdf.get_string_width(label.text), y, label.text)


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(part, 16) for part in re.findall("..", colour.removeprefix("#")))
    return red, green, blue
