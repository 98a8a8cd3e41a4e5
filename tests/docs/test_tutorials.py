"""The commands of each tutorial run from its page, in a folder that has the repository's configs and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, of_page

# What is there when a tutorial is done.
LEAVES = {
    "docs/tutorials/engineer.md": ("workspace/pushed/people-dp", "ledger/ledger.db", "configs/people.yaml"),
    "docs/tutorials/researcher.md": ("cohorts.html", "workspace/federated", "ledger/ledger.db"),
    "docs/tutorials/officer.md": ("privacy-report-adult.html", "adult.pdf", "kept/ledger_key.pub"),
}


def script(page: str) -> str:
    """The commands of a page, in their order."""
    return "\n".join(block.code for block in of_page(page) if block.language == "sh")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", LEAVES)
def test_a_tutorial_runs_from_its_page(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for block in of_page(page):
        if block.language == "yaml":
            (tmp_path / block.title).write_text(block.code + "\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script(page)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    assert not [name for name in LEAVES[page] if not (tmp_path / name).exists()]


def test_there_is_a_tutorial_for_each_reader() -> None:
    assert {path.name for path in (ROOT / "docs/tutorials").glob("*.md")} == {Path(page).name for page in LEAVES}
    assert all("privacy-pipeline" in script(page) for page in LEAVES)
