"""Bad input ends with exit code 2 and a line that names it; nothing is pushed, nothing of the user's changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Background, Ended, Project

_FLOAT_HOURS = "float_domain { min: 1 max: 99 disallow_nan: true disallow_inf: true }"


def _user_files(project: Project) -> dict[Path, bytes]:
    roots = (project.root / "data", project.root / "configs")
    return {path: path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def unharmed(project: Project) -> Iterator[Project]:
    """A project in which the test breaks something first; after its commands nothing may be pushed or lost."""
    yield project
    assert project.pushed() == []
    assert project.pushed("adult-dp") == []
    assert project.entries() == []


def _refused(project: Project, *args: str) -> str:
    before = _user_files(project)
    ended = project.cli(*args)
    assert ended.code == 2, ended.text
    assert "Traceback" not in ended.text
    assert _user_files(project) == before
    assert project.runs() == []
    return ended.text


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_misspelt_key_is_named_with_its_line_and_the_nearest_key(unharmed: Project, command: str) -> None:
    unharmed.edit("configs/plain.yaml", "  epochs: 1", "  epoch: 1")
    text = _refused(unharmed, command, "configs/plain.yaml")
    lines = (unharmed.root / "configs/plain.yaml").read_text().splitlines()
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


def test_a_missing_column_is_named(unharmed: Project) -> None:
    unharmed.edit(unharmed.train, "hours_per_week", "hours_a_week")
    text = _refused(unharmed, "run", "configs/plain.yaml")
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
    unharmed: Project, can_mount: bool, on_tmpfs: Callable[[str], list[str]]
) -> None:
    if not can_mount:
        pytest.skip("no user namespaces with mounts here")
    (unharmed.root / "workspace").mkdir()
    ended = unharmed.cli("run", "configs/plain.yaml", prefix=on_tmpfs("ro"))
    assert ended.code == 2, ended.text
    assert "workspace/runs: cannot be written (Read-only file system)" in ended.text
    assert "Traceback" not in ended.text


def test_json_tells_the_same_error(unharmed: Project) -> None:
    unharmed.edit("configs/plain.yaml", "  epochs: 1", "  epochs: 0")
    ended = unharmed.cli("run", "configs/plain.yaml", "--json")
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


# What only a run can see: TFX reads the rows. All runs are started at once, two at a time.


def _text_in_a_number(project: Project) -> None:
    project.set_cell(project.train, 701, "age", "forty")


def _unknown_category(project: Project) -> None:
    project.set_cell(project.eval, 301, "education", "Kindergarten")


def _not_finite(project: Project) -> None:
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
    project.set_cell(project.train, 401, "hours_per_week", "nan")
    project.set_cell(project.eval, 501, "hours_per_week", "inf")


_BROKEN = {"type": _text_in_a_number, "category": _unknown_category, "finite": _not_finite}


@pytest.fixture(scope="module")
def broken_runs(
    new_project: Callable[[], Project],
    in_background: Callable[..., Background],
) -> Background:
    def scenario(harm: Callable[[Project], None]) -> tuple[Project, Ended]:
        project = new_project()
        harm(project)
        return project, project.cli("run", "configs/plain.yaml", timeout=150)

    scenarios = {name: lambda harm=harm: scenario(harm) for name, harm in _BROKEN.items()}  # type: ignore[misc]
    return in_background(scenarios, later=("category", "finite"))


def _stopped(broken_runs: Background, name: str) -> tuple[Project, str]:
    project, ended = broken_runs[name].result()
    assert ended.code == 2, ended.text
    assert "Traceback" not in ended.text
    assert project.pushed() == []
    (run,) = project.runs()
    assert run["status"] == "failed"
    assert project.statuses(run["run_id"])["Trainer"] == "waiting"
    # Corrected data is other data than this run began with, so the next thing to type is a new run.
    assert "then: privacy-pipeline run configs/" in ended.text
    assert f"{run['run_id']}/log.txt" in ended.text
    return project, ended.text


@pytest.mark.slow
def test_a_wrong_type_in_one_row_is_named_by_file_line_and_column(broken_runs: Background) -> None:
    _, text = _stopped(broken_runs, "type")
    assert re.search(r"train/adult\.csv:701: column 'age': 'forty' is not an integer", text)


@pytest.mark.slow
def test_a_category_outside_the_domain_is_named_by_file_line_and_column(broken_runs: Background) -> None:
    _, text = _stopped(broken_runs, "category")
    assert "eval split: education: " in text
    assert re.search(r"eval/adult\.csv:301: column 'education': 'Kindergarten' is not in the schema's domain", text)


@pytest.mark.slow
def test_nan_is_named_by_file_line_and_column(broken_runs: Background) -> None:
    _, text = _stopped(broken_runs, "finite")
    assert "train split: hours_per_week: " in text
    assert re.search(r"train/adult\.csv:401: column 'hours_per_week': 'nan' is not a finite number", text)


@pytest.mark.slow
def test_infinity_is_named_by_file_line_and_column(broken_runs: Background) -> None:
    project, text = _stopped(broken_runs, "finite")
    assert "eval split: hours_per_week: " in text
    assert re.search(r"eval/adult\.csv:501: column 'hours_per_week': 'inf' is not a finite number", text)
    assert project.train.read_text().count("nan") == 1
