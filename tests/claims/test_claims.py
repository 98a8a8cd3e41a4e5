"""The page of claims is complete, and its checker finds what is wrong with one."""

import shutil

import pytest

from tests.claims import attacks
from tests.claims.check import PAGE, missing, problems
from tests.claims.page import NO_CLAIMS, groups
from tests.claims.statements import ROOT, statements

SAID = "a claim that somebody added today"


@pytest.fixture
def page():
    return (ROOT / PAGE).read_text()


def test_the_page_is_complete(page):
    assert list(problems(page)) == []


def test_a_statement_that_is_not_on_the_page_is_found(page, tmp_path):
    for package in ("privacy_pipeline", "federated", "docs", "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "fixtures"))
    shutil.copy(ROOT / "README.md", tmp_path)
    module = tmp_path / "privacy_pipeline/reports/record/build.py"
    module.write_text(f'{module.read_text()}\n\ndef added() -> str:\n    return "{SAID}"\n')
    (line,) = problems(page, root=tmp_path)
    assert SAID in line and line.startswith("privacy_pipeline/reports/record/build.py")


def test_a_module_that_begins_to_make_statements_is_read(tmp_path):
    (tmp_path / "privacy_pipeline").mkdir()
    (tmp_path / "federated").mkdir()
    module = tmp_path / "privacy_pipeline/new.py"
    module.write_text(
        f'"""Docstrings claim nothing here."""\nx = DataAccess(what="{SAID}", detail=f"it read {{n}} rows")\n'
    )
    assert statements(tmp_path) == {"privacy_pipeline/new.py": {SAID, "it read … rows"}}


def test_errors_and_markup_are_no_statements(tmp_path):
    (tmp_path / "federated").mkdir()
    reports = tmp_path / "privacy_pipeline/reports"
    reports.mkdir(parents=True)
    (reports / "a.py").write_text(
        'def f():\n    raise BadInputError("this is an error")\n\nG = "<p>words of a page</p>"\nH = "two words"\n'
    )
    assert statements(tmp_path) == {}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("- README.md: ", "- README.md: it never fails and ", "does not say"),
        ("- record: batches are Poisson samples\n", "- record: batches are drawn\n", "no module says"),
        ("::test_poisson_sampler_is_one`", "::test_that_was_deleted`", "there is no test"),
        ("(`dp/sampling/sampler.py`)", "(`dp/old_sampler.py`)", "which is not there"),
        ("True because:", "Because:", "names no mechanism"),
        ("Tests: ", "See: ", "has no test"),
        ("- docs/guides/ledger.md: ", "- docs/guides/gone.md: ", "there is no file"),
        (f"## {NO_CLAIMS}", f"## Nothing is claimed\n\n## {NO_CLAIMS}", "lists no claim"),
    ],
)
def test_what_is_wrong_is_named(page, old, new, found):
    assert old in page
    assert any(found in line for line in problems(page.replace(old, new, 1)))


def test_the_attacks_are_there():
    named = attacks.named((ROOT / attacks.PAGE).read_text())
    assert len(named) > 40 and list(missing(named)) == []
    assert list(missing(["tests/claims/test_claims.py::test_gone"])) == ["tests/claims/test_claims.py::test_gone"]


def test_each_group_but_the_words_has_mechanism_and_tests(page):
    read = groups(page)
    assert [group.title for group in read if not group.tests] == [NO_CLAIMS]
    assert len(read) > 30
