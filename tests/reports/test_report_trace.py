"""Every number of the report, in every format, is what the ledger or a record says."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pypdfium2
import pytest

from privacy_pipeline.reports.dataset_report import DatasetReport
from privacy_pipeline.reports.figures import Figure, Quote, ReportPart, Statement, plain
from privacy_pipeline.reports.html import to_html
from privacy_pipeline.reports.layout import Bullets, Chart, Table, Text, blocks
from privacy_pipeline.reports.pdf import to_pdf
from tests.reports.report_project import FACTS_YAML
from tests.reports.trace import Files, walk

SVG = "{http://www.w3.org/2000/svg}"
NUMBER = re.compile(r"\d[\d.,e+:T-]*\d|\d")


@pytest.fixture(scope="module")
def page(report: DatasetReport) -> Any:
    return ElementTree.fromstring(to_html(report).removeprefix("<!DOCTYPE html>\n"))


def test_every_figure_and_quote_is_what_its_source_says(report: DatasetReport, project: Path) -> None:
    files = Files(project, FACTS_YAML)
    checked = 0
    for part, delta in walk(report):
        if isinstance(part, Quote) and part.source.field == "missing":
            continue
        expected = files.find(part.source, report, delta)
        if isinstance(part, Quote):
            assert part.quote in [str(value) for value in expected], part
        else:
            # PLD rounds to its grid once for each composition, and the trace composes one entry after the other.
            room = 1e-3 if part.source.method.startswith("PLD") else 1e-9
            assert any(part.value == pytest.approx(value, rel=room, abs=1e-12) for value in expected), part
        checked += 1
    assert checked > 400


def test_a_number_from_elsewhere_is_found(report: DatasetReport, project: Path) -> None:
    files = Files(project, FACTS_YAML)
    spent = report.budgets[0].spent
    assert spent.epsilon is not None
    (expected,) = files.find(spent.epsilon.source, report, spent.delta.value)
    assert spent.epsilon.value * 0.999 != pytest.approx(expected, rel=1e-9)


def test_the_reports_own_words_hold_no_numbers(report: DatasetReport) -> None:
    def statements(value: Any) -> list[Statement]:
        if isinstance(value, Statement):
            return [value]
        if isinstance(value, ReportPart):
            return [s for name in type(value).model_fields for s in statements(getattr(value, name))]
        return [s for item in value for s in statements(item)] if isinstance(value, list) else []

    found = statements(report)
    assert len(found) > 60
    for statement in found:
        for part in statement.words:
            assert not (isinstance(part, str) and re.search(r"\d", part)), part


def test_every_number_of_the_page_is_a_traced_figure_or_a_quote(report: DatasetReport, page: Any) -> None:
    figures = {(repr(p.value), p.source.text, p.text) for p, _ in walk(report) if isinstance(p, Figure)}
    quotes = {(p.source.text, p.text) for p, _ in walk(report) if isinstance(p, Quote)}
    quotes |= {(source, source) for _, source, _ in figures}  # the appendix quotes the sources themselves
    data = list(page.iter("data"))
    assert len(data) > 150
    for element in data:
        assert (element.get("value"), element.get("title"), element.text) in figures
    for element in page.iter("span"):
        if element.get("class") == "quote":
            assert (element.get("title"), element.text) in quotes


def test_nothing_else_on_the_page_holds_a_number(report: DatasetReport, page: Any) -> None:
    own = {report.dataset.quote, *(budget.key.quote for budget in report.budgets)}
    for element in page.iter():
        if element.tag.startswith(SVG) or element.tag in ("style", "title", "data", "h1", "h2"):
            text = ""
        elif element.tag == "h4":
            text = re.sub(r"^\d+\. ", "", element.text)
        else:
            text = "" if element.get("class") == "quote" else element.text or ""
        for words in (text, "" if element.tag.startswith(SVG) else element.tail or ""):
            assert not re.search(r"\d", words), words
    headings = [element.text for tag in ("h1", "h2") for element in page.iter(tag)]
    assert all(any(name in heading for name in own) for heading in headings if re.search(r"\d", heading))


def test_numbers_of_the_charts_are_figures_or_quotes(report: DatasetReport, page: Any) -> None:
    known = {part.text for part, _ in walk(report)}
    charts = list(page.iter(f"{SVG}svg"))
    assert len(charts) == 4
    for chart in charts:
        for element in chart.iter():
            if element.get("class") != "scale":
                for number in NUMBER.findall(element.text or ""):
                    assert any(number in text for text in known), (number, element.text)


def test_no_epsilon_is_bare(report: DatasetReport) -> None:
    for block in blocks(report):
        texts: list[str] = []
        if isinstance(block, Bullets):
            texts = [plain(statement.words) for statement in block.statements]
        elif isinstance(block, Table):
            assert all("delta" in head for head in block.head if "epsilon" in head and block.head[0] != "delta")
            texts = [plain(cell) for row in block.rows for cell in row]
        elif isinstance(block, Text):
            texts = [plain(block.words)]
        elif isinstance(block, Chart):
            texts = [block.drawing.description]
        for text in texts:
            for found in re.finditer(r"epsilon [\d.]+", text):
                assert text[found.end() :].startswith(" at delta "), text


def squeezed(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f\ufffe-]", "", text)  # pdfium marks a hyphen at a line's end in its own way


def test_the_pdf_says_what_the_page_says(report: DatasetReport) -> None:
    pdf = pypdfium2.PdfDocument(to_pdf(report))
    said = squeezed("".join(page.get_textpage().get_text_bounded() for page in pdf))
    for block in blocks(report):
        if isinstance(block, Bullets):
            for statement in block.statements:
                assert squeezed(plain(statement.words)) in said
        elif isinstance(block, Table):
            for row in block.rows:
                for cell in row:
                    assert squeezed(plain(cell)) in said
    assert "Łódź" in said


def test_every_page_of_the_pdf_is_drawn_within_its_margins(report: DatasetReport) -> None:
    for page in pypdfium2.PdfDocument(to_pdf(report)):
        image = page.render(scale=0.5).to_numpy()
        dark = (image.min(axis=2) < 200).nonzero()
        assert dark[0].size > 100
        assert dark[1].min() > 15 and dark[1].max() < image.shape[1] - 15
