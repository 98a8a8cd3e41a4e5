"""A process of the framework looks for no module in the folder that a command was typed in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from privacy_pipeline.programs import command_of


@pytest.mark.parametrize("framework", [True, False])
def test_a_users_folder_is_not_imported_from(tmp_path: Path, framework: bool) -> None:
    installed, here = tmp_path / "installed", tmp_path / "here"
    installed.mkdir()
    here.mkdir()
    (installed / "program.py").write_text("import sys, optional\nprint(__name__, optional.WHERE, sys.argv[1:])\n")
    (installed / "optional.py").write_text("WHERE = 'installed'\n")
    (here / "optional.py").write_text("WHERE = 'here'\n")
    command = command_of("program") if framework else [sys.executable, "-m", "program"]
    done = subprocess.run(
        [*command, "an argument"],
        cwd=here,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"__main__ {'installed' if framework else 'here'} ['an argument']"
