"""The HTML page as a reader sees it: drawn by a browser, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pypdfium2
import pytest
from numpy.typing import NDArray

from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.render.html import to_html

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no browser to draw the page with")


@pytest.fixture(scope="module")
def printed(report: DatasetReport, tmp_path_factory: pytest.TempPathFactory) -> pypdfium2.PdfDocument:
    """The page as the browser prints it; a screen as high as the page would show the same, in one picture."""
    folder = tmp_path_factory.mktemp("page")
    page, out = folder / "report.html", folder / "printed.pdf"
    page.write_text(to_html(report), encoding="utf-8")
    browse(folder, f"--print-to-pdf={out}", "--no-pdf-header-footer", page.as_uri())
    return pypdfium2.PdfDocument(out)


def browse(folder: Path, *arguments: str) -> None:
    own = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}")
    subprocess.run([BROWSER, *own, *arguments], check=True, timeout=120, capture_output=True)


def picture(page: pypdfium2.PdfPage) -> NDArray[np.uint8]:
    return np.asarray(page.render(scale=0.6).to_numpy())


def test_every_printed_page_has_something_on_it_within_its_margins(printed: pypdfium2.PdfDocument) -> None:
    assert len(printed) > 4
    for page in printed:
        dark = (picture(page).min(axis=2) < 200).nonzero()
        assert dark[0].size > 100
        assert dark[1].min() > 5 and dark[1].max() < picture(page).shape[1] - 5, "something is cut off at the side"


def test_the_whole_page_is_drawn_with_its_charts(report: DatasetReport, printed: pypdfium2.PdfDocument) -> None:
    said = " ".join("".join(page.get_textpage().get_text_bounded() for page in printed).split())
    (budget,) = report.budgets
    assert budget.proven.epsilon and budget.spent.epsilon
    for words in ("How strongly", budget.proven.epsilon.text, budget.spent.epsilon.text, "Where the numbers come from"):
        assert words in said
    blue = sum(int((abs(picture(page).astype(int) - (168, 95, 31)).max(axis=2) < 30).sum()) for page in printed)
    assert blue > 200, "the charts' lines and bars are not there"


def test_a_narrow_screen_cuts_nothing_off(report: DatasetReport, tmp_path: Path) -> None:
    page, shot = tmp_path / "report.html", tmp_path / "shot.png"
    page.write_text(to_html(report), encoding="utf-8")
    browse(tmp_path, f"--screenshot={shot}", "--window-size=900,1400", page.as_uri())
    assert shot.read_bytes().startswith(b"\x89PNG") and shot.stat().st_size > 20_000
