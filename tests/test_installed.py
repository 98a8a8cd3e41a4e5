"""Another package with the name `federated`: found by name, before anything is bound to the code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from privacy_pipeline.processes.installed import require_own_packages

ROOT = Path(__file__).parents[1]
ASK = "from privacy_pipeline.processes.installed import hash_of_framework; print(hash_of_framework())"


def ask(*folders: Path, where: Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    return subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, env=variables, cwd=where, check=False
    )


def test_the_packages_of_this_checkout_are_the_ones_that_are_imported(tmp_path: Path) -> None:
    require_own_packages()
    assert len(ask(ROOT, where=tmp_path).stdout.strip()) == 64


def test_a_folder_with_another_federated_before_ours_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "federated").mkdir(parents=True)
    (other / "federated" / "__init__.py").write_text("")
    done = ask(other, ROOT, where=tmp_path)
    assert done.returncode != 0 and not done.stdout
    assert f"Python finds the package federated in {other}/federated, not in {ROOT}" in done.stderr


@pytest.mark.parametrize("listed", ["top_level.txt", "RECORD"])
def test_a_distribution_that_installed_a_federated_is_named(tmp_path: Path, listed: str) -> None:
    info = tmp_path / "learning_kit-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: learning-kit\nVersion: 2.0\n")
    (info / listed).write_text("federated\n" if listed == "top_level.txt" else "federated/__init__.py,,\n")
    done = ask(ROOT, tmp_path, where=tmp_path)
    assert done.returncode != 0 and "the distribution learning-kit has a package federated too" in done.stderr
