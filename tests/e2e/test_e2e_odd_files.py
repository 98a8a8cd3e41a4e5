"""Whole runs over odd files: what `init` writes, `check` takes and `register` counts, a run reads to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.data.odd_files import HEAD, ODD

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

_NAMES = (
    "empty cells",
    "NaN among numbers",
    "NaN among texts",
    "blanks around categories",
    "leading zeros",
    "quoted newline",
    "non-ASCII",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", _NAMES)
def test_a_run_reads_what_the_other_commands_read(project: Project, name: str) -> None:
    body = ODD[name].removeprefix(HEAD.encode())
    (project.root / "odd.csv").write_bytes(HEAD.encode() + body * 40)
    project.done("init", "odd.csv", "--label", "late")
    project.done("check", "configs/odd.yaml")
    ended = project.cli("run", "configs/odd.yaml", "--set", "training.epochs=1", "--set", "training.batch_size=50")
    assert ended.code in (0, 3), ended.text  # 3: a model of one epoch that is not blessed
    assert [run["status"] for run in project.runs()] in (["done"], ["not_blessed"])
