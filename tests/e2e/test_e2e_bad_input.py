"""Bad input ends with exit code 2 and a line that names it; nothing is pushed, nothing of the user's changes.

One mistake of each kind goes through a command of its own (`by_command`), the others through this process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

_FLOAT_HOURS = "float_domain { min: 1 max: 99 disallow_nan: true disallow_inf: true }"


def _user_files(project: Project) -> dict[Path, bytes]:
    roots = (project.root / "data", project.root / "configs")
    return {path: path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def by_command(project: Project) -> Iterator[Project]:
    """A project in which the test breaks something first; after its commands nothing may be pushed or lost."""
    yield project
    assert project.pushed() == []
    assert project.pushed("adult-dp") == []
    assert project.entries() == []


@pytest.fixture
def unharmed(by_command: Project, in_process: Callable[[Project], Project]) -> Project:
    """The same, whose commands run in this process."""
    return in_process(by_command)


def _refused(project: Project, *args: str) -> str:
    before = _user_files(project)
    ended = project.cli(*args)
    assert ended.code == 2, ended.text
    assert "Traceback" not in ended.text
    assert _user_files(project) == before
    assert project.runs() == []
    return ended.text


@pytest.mark.slow_but("run")
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_misspelt_key_is_named_with_its_line_and_the_nearest_key(by_command: Project, command: str) -> None:
    by_command.edit("configs/plain.yaml", "  epochs: 1", "  epoch: 1")
    text = _refused(by_command, command, "configs/plain.yaml")
    lines = (by_command.root / "configs/plain.yaml").read_text().splitlines()
    assert f"configs/plain.yaml:{lines.index('  epoch: 1') + 1}" in text
    assert "unknown key 'epoch'" in text
    assert "did you mean 'epochs'?" in text


def test_a_misspelt_override_is_named(unharmed: Project) -> None:
    text = _refused(unharmed, "run", "configs/plain.yaml", "--set", "training.epoch=1")
    assert "unknown key 'epoch'" in text
    assert "epochs" in text


def test_a_negative_epsilon_is_named_with_its_line(unharmed: Project) -> None:
    unharmed.edit("configs/dp.yaml", "target_epsilon: 3.0", "target_epsilon: -3.0")
    text = _refused(unharmed, "run", "configs/dp.yaml")
    assert "target_epsilon: must be greater than 0 (got -3.0)" in text
    assert re.search(r"configs/dp\.yaml:\d+: training\.dp_sgd\.target_epsilon", text)


def test_a_negative_budget_is_refused(unharmed: Project) -> None:
    text = _refused(unharmed, "budget", "register", "configs/dp.yaml", "--epsilon", "-1")
    assert "epsilon" in text
    assert not (unharmed.root / "ledger").exists()


def test_a_missing_column_is_named(by_command: Project) -> None:
    by_command.edit(by_command.train, "hours_per_week", "hours_a_week")
    text = _refused(by_command, "run", "configs/plain.yaml")
    assert "train/adult.csv: column 'hours_per_week' is missing" in text
    assert "hours_a_week" in text


def test_an_empty_eval_split_is_refused(unharmed: Project) -> None:
    unharmed.eval.write_text(unharmed.eval.read_text().splitlines(keepends=True)[0])
    text = _refused(unharmed, "run", "configs/plain.yaml")
    assert "(eval) has no rows" in text


def test_an_empty_eval_file_is_refused(unharmed: Project) -> None:
    unharmed.eval.write_text("")
    assert "eval/adult.csv: is empty (0 bytes)" in _refused(unharmed, "run", "configs/plain.yaml")


def test_a_folder_in_place_of_a_file_is_named(unharmed: Project) -> None:
    unharmed.train.unlink()
    unharmed.train.mkdir()
    assert "train/adult.csv: is a folder, not a file" in _refused(unharmed, "run", "configs/plain.yaml")


def test_a_file_that_cannot_be_read_is_named(unharmed: Project) -> None:
    unharmed.train.unlink()
    unharmed.train.symlink_to("gone.csv")
    text = _refused(unharmed, "run", "configs/plain.yaml")
    assert "train/adult.csv: cannot be read (No such file or directory)" in text


def test_a_config_that_is_not_there_is_named(unharmed: Project) -> None:
    assert "configs/gone.yaml" in _refused(unharmed, "run", "configs/gone.yaml")


def test_a_schema_that_does_not_parse_is_named_with_its_line(unharmed: Project) -> None:
    unharmed.edit(unharmed.schema, "type: INT", "type: NUMBER")
    assert re.search(r"adult\.pbtxt:\d+: ", _refused(unharmed, "run", "configs/plain.yaml"))


def test_a_workspace_that_nobody_can_write_is_named(unharmed: Project) -> None:
    text = _refused(unharmed, "run", "configs/plain.yaml", "--set", "workspace=/proc/1/workspace")
    assert "/proc/1/workspace" in text
    assert "cannot be written" in text
    assert "set another `workspace`" in text


def test_a_workspace_without_write_permission_is_named(
    by_command: Project, can_mount: bool, on_tmpfs: Callable[[str], list[str]]
) -> None:
    if not can_mount:
        pytest.skip("no user namespaces with mounts here")
    (by_command.root / "workspace").mkdir()
    ended = by_command.cli("run", "configs/plain.yaml", prefix=on_tmpfs("ro"))
    assert ended.code == 2, ended.text
    assert "workspace/runs: cannot be written (Read-only file system)" in ended.text
    assert "Traceback" not in ended.text


def test_json_tells_the_same_error(by_command: Project) -> None:
    by_command.edit("configs/plain.yaml", "  epochs: 1", "  epochs: 0")
    ended = by_command.cli("run", "configs/plain.yaml", "--json")
    assert ended.code == 2
    assert ended.json["exit_code"] == 2
    assert "training.epochs: must be at least 1 (got 0)" in ended.json["error"]


def test_an_unknown_node_suggests_the_nearest(unharmed: Project) -> None:
    for option in ("--from", "--to"):
        text = _refused(unharmed, "run", "configs/plain.yaml", option, "Evaluater")
        assert "no node 'Evaluater' in the pipeline" in text
        assert "did you mean Evaluator?" in text


def test_unknown_runs_are_named(unharmed: Project) -> None:
    for command in (["show", "nothing"], ["diff", "nothing", "nothing"], ["resume", "nothing"]):
        text = _refused(unharmed, *command)
        assert "no run 'nothing'" in text
        assert "privacy-pipeline runs" in text


# What the rows hold is looked at before TFX is started.


def _text_in_a_number(project: Project) -> None:
    project.set_cell(project.train, 701, "age", "forty")


def _unknown_category(project: Project) -> None:
    project.set_cell(project.eval, 301, "education", "Kindergarten")


def _fractions(project: Project) -> None:
    project.edit(project.schema, "int_domain { min: 1 max: 99 }", _FLOAT_HOURS)
    text = project.schema.read_text()
    start = text.index('name: "hours_per_week"')
    project.schema.write_text(text[:start] + text[start:].replace("type: INT", "type: FLOAT", 1))
    for file in (project.train, project.eval):
        lines = file.read_text().splitlines()
        column = lines[0].split(",").index("hours_per_week")
        for number, line in enumerate(lines[1:], start=1):
            cells = line.split(",")
            cells[column] += ".5"
            lines[number] = ",".join(cells)
        file.write_text("\n".join(lines).replace("99.5", "99.0") + "\n")


def _nan(project: Project) -> None:
    _fractions(project)
    project.set_cell(project.train, 401, "hours_per_week", "nan")


def _infinity(project: Project) -> None:
    _fractions(project)
    project.set_cell(project.eval, 501, "hours_per_week", "inf")


def _blank(project: Project) -> None:
    project.set_cell(project.train, 601, "education", "Bachelors ")


_BROKEN = [
    (_text_in_a_number, r"train/adult\.csv:701: column 'age': 'forty' is not an integer"),
    (_unknown_category, r"eval/adult\.csv:301: column 'education': 'Kindergarten' is not in the schema's domain"),
    (_blank, r"train/adult\.csv:601: column 'education': 'Bachelors ' is not in the schema's domain"),
    (_nan, r"train/adult\.csv:401: column 'hours_per_week': the value is missing \('nan' is a missing value\)"),
    (_infinity, r"eval/adult\.csv:501: column 'hours_per_week': 'inf' is not a finite number"),
]


@pytest.mark.parametrize(("harm", "says"), _BROKEN)
def test_a_bad_cell_is_named_by_file_line_and_column(
    unharmed: Project, harm: Callable[[Project], None], says: str
) -> None:
    harm(unharmed)
    for command in (["check"], ["run"], ["budget", "register", "--epsilon", "3"]):
        assert re.search(says, _refused(unharmed, *command, "configs/plain.yaml"))
