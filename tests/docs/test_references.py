"""What the pages state in numbers and lists is what the code has."""

from __future__ import annotations

import re

import pytest

from benchmarks.five_epsilons import measure, table
from privacy_pipeline.errors import ExitCode
from tests.docs.pages import ROOT
from tools.references.__main__ import PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_is_generated(name: str) -> None:
    held = (ROOT / "docs/reference" / name).read_text()
    assert held == PAGES[name](), "make references"


def test_exit_codes_are_those_of_the_commands() -> None:
    page = (ROOT / "docs/reference/exit_codes.md").read_text()
    listed = re.findall(r"^\| (\d) \| ([a-z ]+) \|", page, re.MULTILINE)
    assert listed == [(str(int(code)), code.name.lower().replace("_", " ")) for code in ExitCode]


def test_the_five_epsilons_are_those_of_the_script() -> None:
    found = measure()
    assert table(found) in (ROOT / "docs/concepts/five_epsilons.md").read_text()
    assert found["pld"] <= found["target"] < found["rdp"] < found["enforced"] < found["cap"]


def test_a_term_of_the_glossary_stands_once() -> None:
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    assert len(terms) > 50 and len({term.lower() for term in terms}) == len(terms)
