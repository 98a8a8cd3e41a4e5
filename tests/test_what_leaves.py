"""The guide says of every command, and of every file that one writes, whether it is meant to leave the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from privacy_pipeline.cli.lazy import LazyCommand
from privacy_pipeline.cli.main import app
from tests.guide import of_commands, unlisted
from tests.reports.report_project import make_project


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Names of all commands below one that the help lists."""
    if isinstance(command, LazyCommand):
        command = command.listed.load()
    below = getattr(command, "commands", None)
    if below is None:
        yield " ".join(path)
        return
    for name, one in below.items():
        if not one.hidden:
            yield from commands(one, (*path, name))


def test_every_command_is_in_the_guide_once() -> None:
    assert sorted(of_commands()) == sorted(commands(typer.main.get_command(app)))


def test_a_file_that_the_guide_does_not_name_is_found(tmp_path: Path) -> None:
    for name in ("workspace/runs/r/times.json", "ledger/ledger_units.key"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert unlisted(tmp_path) == ["workspace/runs/r/times.json"]


def test_the_files_of_ledger_runs_and_publication_are_in_the_guide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    for arguments in (("publish", "things", "out"), ("report", "things")):
        assert CliRunner().invoke(app, ["budget", *arguments]).exit_code == 0
    assert unlisted(tmp_path) == []
