"""Every number of the report, in every format, is what the ledger or a record says."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pypdfium2
import pytest

from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.dataset.run_views import run_view
from privacy_pipeline.reports.figures import Figure, Quote, ReportPart, Statement, plain
from privacy_pipeline.reports.render.html import to_html
from privacy_pipeline.reports.render.layout import Bullets, Chart, Table, Text
from privacy_pipeline.reports.render.pdf import to_pdf
from privacy_pipeline.reports.render.sections.registry import blocks
from tests.reports import several_budgets
from tests.reports.report_project import FACTS_YAML, summaries
from tests.reports.trace import COUNTS, FURTHER, Files, untraced, walk

SVG = "{http://www.w3.org/2000/svg}"
NUMBER = re.compile(r"\d[\d.,e+:T-]*\d|\d")


@pytest.fixture(scope="module", params=["one budget", "several budgets"])
def which(request: pytest.FixtureRequest) -> str:
    """The project that is traced."""
    return str(request.param)


@pytest.fixture(scope="module")
def report(which: str, request: pytest.FixtureRequest) -> DatasetReport:
    """Its report; that of `conftest`, or the other one."""
    found = request.getfixturevalue("one_report" if which == "one budget" else "several_report")
    assert isinstance(found, DatasetReport)
    return found


@pytest.fixture(scope="module")
def files(which: str, project: Path, several: Path) -> Files:
    """Its raw material."""
    if which == "one budget":
        return Files(project, FACTS_YAML, counts=COUNTS, further=FURTHER)
    return Files(several, FACTS_YAML, counts=several_budgets.COUNTS, further=several_budgets.FURTHER)


@pytest.fixture(scope="module")
def page(report: DatasetReport) -> Any:
    return ElementTree.fromstring(to_html(report).removeprefix("<!DOCTYPE html>\n"))


def test_every_figure_and_quote_is_what_its_source_says(report: DatasetReport, files: Files) -> None:
    assert untraced(report, files) == []


def test_a_number_from_elsewhere_is_found(report: DatasetReport, files: Files) -> None:
    first, *others = report.budgets
    assert first.spent.epsilon is not None
    wrong = first.spent.epsilon.model_copy(update={"value": first.spent.epsilon.value * 0.999})
    changed = first.model_copy(update={"spent": first.spent.model_copy(update={"epsilon": wrong})})
    found = untraced(report.model_copy(update={"budgets": [changed, *others]}), files)
    assert [part for part, _ in found] == [wrong]


def test_a_number_of_another_budget_is_found(several_report: DatasetReport, several: Path) -> None:
    """Each is right for its own budget; beside the other one's source it is not."""
    train, evaluation, *others = several_report.budgets
    assert train.left.value != evaluation.left.value
    swapped = train.left.model_copy(update={"value": evaluation.left.value})
    broken = several_report.model_copy(
        update={"budgets": [train.model_copy(update={"left": swapped}), evaluation, *others]}
    )
    found = untraced(broken, Files(several, FACTS_YAML, counts=several_budgets.COUNTS, further=several_budgets.FURTHER))
    assert [part for part, _ in found] == [swapped]


def test_the_second_project_has_what_the_first_has_not(several_report: DatasetReport) -> None:
    keys = ["things/train/person", "things/eval/person", "things/train/person/span-2", "things/train/person/span-3"]
    assert [budget.key.quote for budget in several_report.budgets] == keys
    assert [budget.counted.value for budget in several_report.budgets] == [4, 3, 2, 0]
    nodes = {entry.node.quote for budget in several_report.budgets for entry in budget.entries}
    assert nodes == {"DpStatistics", "Trainer", "DpEvaluator"}
    assert several_report.budgets[0].cap_changes.value == 1
    together = several_report.runs[-1]  # over two spans: an entry at each of their budgets
    assert [span.quote for span in together.spans] == ["1", "2"] and together.receipt == "agrees"
    assert together.entry is not None and len(together.further_entries) == 1
    assert {"things/train/person", "things/train/person/span-2"} == {
        budget.key.quote
        for budget in several_report.budgets
        for entry in budget.entries
        if entry.number.value in (together.entry.value, together.further_entries[0].value)
    }
    said = [plain(s.words) for passage in several_report.first_page for s in passage.statements]
    assert not any("left no record" in text for text in said)  # one run trained nothing, and paid for its evaluation
    points = [plain(s.words) for point in several_report.checklist for s in point.statements]
    sizes = [text.split(" has ")[1].split(" units")[0] for text in points if "that pays from it" in text]
    assert sizes == ["1,000", "200", "700", "700"]


def test_each_entry_of_a_run_over_several_spans_has_to_agree(several: Path) -> None:
    (summary,) = summaries(several, several_budgets.RUNS[-1:])
    entries = {entry.id: entry for entry in Ledger.open(f"sqlite:///{several}/ledger/ledger.db").entries("things")}
    numbers = [made.ledger_entry for made in summary.record.compositions]
    assert run_view(summary, entries).receipt == "agrees"
    for number in numbers:
        other = dataclasses.replace(entries[number], run_id="another")
        assert run_view(summary, {**entries, number: other}).receipt == "differs"
        assert run_view(summary, {key: entry for key, entry in entries.items() if key != number}).receipt == "missing"


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
    # For each budget a bar and the runs; where something was spent also its burn-down and its curve.
    assert len(charts) == sum(4 if budget.counted.value else 2 for budget in report.budgets)
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
