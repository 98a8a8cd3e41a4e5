"""A report whose curator, users and columns have hostile names, in each of its formats."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.dataset.schema import to_json
from privacy_pipeline.reports.registry_yaml import to_registry
from privacy_pipeline.reports.render.html import to_html
from privacy_pipeline.reports.render.layout import Heading
from privacy_pipeline.reports.render.pdf import _texts, to_pdf
from privacy_pipeline.reports.render.sections.registry import blocks
from privacy_pipeline.text.shown_text import throughout, visible
from tests.test_shown_text import HOSTILE, unsafe

ALL = " ".join(text for name, text in HOSTILE.items() if name not in ("half", "wide formula", "unseen"))
UNTOUCHED = ("generated", "day", "split", "relation", "state", "accountant", "span", "digest", "unit", "basis")


def hostile(value: Any, name: str = "", *, more: str = ALL) -> Any:
    """The dump of a report in which each quote ends with hostile names."""
    if isinstance(value, dict) and set(value) == {"quote", "source"}:
        known = name in UNTOUCHED or re.match(r"20\d\d-\d\d", value["quote"])  # which the code itself wrote
        return value if known else {**value, "quote": value["quote"] + more}
    if isinstance(value, dict):
        return {key: hostile(below, key, more=more) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [hostile(below, name, more=more) for below in value]
    return value


@pytest.fixture(scope="module")
def bad(several_report: DatasetReport) -> DatasetReport:
    held = hostile(several_report.model_dump())
    for name in ("product", "description", "intended_use", "notes", "sources"):
        held["facts"][name] = ALL
    return DatasetReport.model_validate(held)


def test_a_report_without_them_stays_as_it_is(several_report: DatasetReport, report: DatasetReport) -> None:
    for made in (several_report, report):
        assert made.visible() is made
        assert DatasetReport.model_validate(throughout(made.model_dump())) == made  # as one with them is made


def test_html_holds_the_words_and_no_element_of_theirs(bad: DatasetReport, several_report: DatasetReport) -> None:
    tags: dict[bool, set[tuple[str, ...]]] = {True: set(), False: set()}

    class Reader(HTMLParser):
        of_bad = True

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            tags[self.of_bad].add((tag, *sorted(name for name, _ in attrs)))

    for report in (bad, several_report):
        reader = Reader()
        reader.of_bad = report is bad
        page = to_html(report)
        reader.feed(page)
        assert not unsafe(page)
    assert tags[True] == tags[False]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in to_html(bad) and "\\u202egpj.exe" in to_html(bad)


def test_pdf_and_registry_show_what_cannot_be_seen(bad: DatasetReport, several_report: DatasetReport) -> None:
    short = hostile(several_report.model_dump(), more="\x1b[1m\u202ex\0")
    assert to_pdf(DatasetReport.model_validate(short)).startswith(b"%PDF")
    with pytest.raises(BadInputError, match="cannot be made a PDF"):
        to_pdf(bad)
    for block in blocks(bad.visible()):
        assert not [text for text in _texts(block) if unsafe(text)]
    assert any(isinstance(block, Heading) for block in blocks(bad.visible()))
    record = to_registry(bad)
    assert not unsafe(record) and yaml.safe_load(record)["deployment"]["basic"]["name"] == visible(ALL, lines=True)


def test_json_means_what_was_given(bad: DatasetReport) -> None:
    text = to_json(bad)
    assert not unsafe(text) and json.loads(text)["facts"]["description"] == ALL
    assert DatasetReport.model_validate_json(text) == bad
