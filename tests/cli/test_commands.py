"""Commands that need no TFX, called as a person calls them."""

from __future__ import annotations

import json
from importlib import metadata
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from privacy_pipeline.cli import doctor, main
from privacy_pipeline.cli.budget import group
from privacy_pipeline.cli.lazy import Listed
from privacy_pipeline.cli.main import app
from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.pipelines.workspace.run_state import NodeState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from tests.cli.test_tables import make_state
from tests.reports.records import dp_record, make_summary, plain_record

REPOSITORY = Path(__file__).parents[2]
COMMANDS = (
    "run",
    "resume",
    "check",
    "runs",
    "show",
    "diff",
    "audit",
    "init",
    "doctor",
    "setup",
    "demo",
    "data",
    "budget",
    "config",
    "encrypted",
    "federated",
    "workspace",
)


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_help_lists_every_command() -> None:
    text = call("--help").stdout
    listed = {line.strip("│ ").split()[0] for line in text.splitlines() if line.startswith("│ ")}
    assert set(COMMANDS) <= listed
    registered = {listed.name for listed in main.COMMANDS if not listed.hidden}
    assert registered == set(COMMANDS), "a new command: add it to the list above"


@pytest.mark.parametrize("listed", [*main.COMMANDS, *group.COMMANDS], ids=lambda listed: f"{listed.home}")
def test_the_list_of_commands_has_the_first_sentence_of_each(listed: Listed) -> None:
    loaded = listed.load()
    assert loaded.help is not None
    told = " ".join(loaded.help.split())
    assert loaded.name == listed.name and told.startswith(listed.help.removesuffix("."))
    assert told[len(listed.help) - 1 : len(listed.help)] in ".;:,"


def test_the_version_is_that_of_the_package() -> None:
    result = call("--version")
    assert result.exit_code == 0 and result.stdout == f"privacy-pipeline {version('privacy-pipeline')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0 and "Usage" in result.stdout


def test_exit_codes_are_told() -> None:
    text = " ".join(call("--help").stdout.split())
    assert "0 done, 1 error, 2 bad input or config, 3 not blessed, 4 budget refused" in text


@pytest.fixture(scope="module")
def config_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(call("config", "schema").stdout)
    return schema


def test_the_config_schema_is_a_json_schema(config_schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(config_schema)
    assert not jsonschema.Draft202012Validator(config_schema).is_valid({"pipeline": 1})


@pytest.mark.parametrize("name", sorted(p.name for p in (REPOSITORY / "configs").glob("*.yaml")))
def test_the_config_schema_accepts_our_own_configs(config_schema: dict[str, Any], name: str) -> None:
    document = yaml.safe_load((REPOSITORY / "configs" / name).read_text())
    errors = [
        f"{e.json_path}: {e.message}" for e in jsonschema.Draft202012Validator(config_schema).iter_errors(document)
    ]
    assert not errors


def test_the_config_schema_accepts_a_model_given_by_its_name(config_schema: dict[str, Any]) -> None:
    document = yaml.safe_load((REPOSITORY / "configs" / "adult_plain.yaml").read_text())
    document["model"] = "tabular"
    document["evaluation"].pop("slices", None)
    assert jsonschema.Draft202012Validator(config_schema).is_valid(document)


@pytest.mark.parametrize("change", [{"surprise": 1}, {"training": {"backend": "magic"}}, {"dataset": {}}], ids=str)
def test_the_config_schema_refuses_what_the_loader_refuses(
    config_schema: dict[str, Any], change: dict[str, Any]
) -> None:
    document = yaml.safe_load((REPOSITORY / "configs" / "adult_plain.yaml").read_text())
    document["evaluation"].pop("slices", None)
    assert jsonschema.Draft202012Validator(config_schema).is_valid(document)
    assert not jsonschema.Draft202012Validator(config_schema).is_valid(document | change)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two finished runs, one failed one and a folder that cannot be read."""
    for run_id, summary in (
        ("20260101-000000-aaaa", make_summary(plain_record(), run_id="20260101-000000-aaaa")),
        ("20260102-000000-bbbb", make_summary(dp_record(), run_id="20260102-000000-bbbb")),
        ("20260103-000000-cccc", None),
    ):
        folder = RunFolder(tmp_path / "runs" / run_id)
        folder.path.mkdir(parents=True)
        status = "done" if summary else "failed"
        backend = summary.backend if summary else "plain"
        nodes = {"Trainer": NodeState(status="done", seconds=1.0, detail="[odd] detail")}
        folder.write_state(make_state(run_id=run_id, status=status, backend=backend, nodes=nodes))
        if summary:
            folder.write_summary(summary)
    return tmp_path


def test_runs_as_json_has_an_epsilon_for_the_dp_run_alone(workspace: Path) -> None:
    plain, private, failed = json.loads(call("runs", "--workspace", str(workspace), "--json").stdout)
    assert private["epsilon"] == pytest.approx(0.634, abs=1e-3)
    assert (private["delta"], private["unit"], private["relation"]) == (1e-5, "row", "zero_out")
    assert plain["epsilon"] is None and plain["delta"] is None
    assert failed["accuracy"] is None and failed["status"] == "failed"


def test_a_broken_folder_does_not_hide_the_others(workspace: Path) -> None:
    (workspace / "runs" / "20260101-000000-aaaa" / "run.json").write_text("{")
    result = call("runs", "--workspace", str(workspace), "--json")
    assert result.exit_code == 0
    assert [row["run_id"][-4:] for row in json.loads(result.stdout)] == ["bbbb", "cccc"]
    assert "left out" in result.stderr and "aaaa" in result.stderr


def test_an_empty_workspace_says_how_to_start(tmp_path: Path) -> None:
    result = call("runs", "--workspace", str(tmp_path))
    # Where the line wraps depends on how long the folder's name is.
    assert result.exit_code == 0 and "privacy-pipeline run CONFIG" in " ".join(result.stdout.split())


def test_show_tells_nodes_metrics_and_privacy(workspace: Path) -> None:
    text = call("show", "20260102", "--workspace", str(workspace)).stdout
    for part in ("Trainer", "[odd] detail", "at delta 1e-05", "blessed", "colour=red", "not covered"):
        assert part in text
    found = json.loads(call("show", "20260102", "--workspace", str(workspace), "--json").stdout)
    assert found["run"]["run_id"] == "20260102-000000-bbbb" and found["summary"]["blessed"] is True


def test_diff_tells_both_sides(workspace: Path) -> None:
    result = call("diff", "20260101", "20260102", "--workspace", str(workspace))
    assert result.exit_code == 0
    assert "at delta 1e-05" in result.stdout and "cannot be compared" not in result.stdout


def test_diff_warns_where_two_epsilons_are_about_different_units(workspace: Path) -> None:
    other = dp_record().model_copy(update={"unit": "person"})
    RunFolder(workspace / "runs" / "20260101-000000-aaaa").write_summary(make_summary(other))
    text = " ".join(call("diff", "20260101", "20260102", "--workspace", str(workspace)).stdout.split())
    assert "the two epsilons cannot be compared" in text


def test_diff_of_a_run_without_metrics_is_bad_input(workspace: Path) -> None:
    result = call("diff", "20260101", "20260103", "--workspace", str(workspace), "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert "no metrics yet (failed)" in found["error"] and found["exit_code"] == 2


@pytest.mark.parametrize("command", [["show", "nothing"], ["diff", "a", "b"], ["resume", "nothing"]], ids=str)
def test_an_unknown_run_is_bad_input(tmp_path: Path, command: list[str]) -> None:
    result = call(*command, "--workspace", str(tmp_path), "--json")
    assert result.exit_code == 2 and "no run" in json.loads(result.stdout)["error"]


def test_a_config_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    for command in (["run"], ["check"], ["budget", "register", "--epsilon", "1"]):
        result = call(*command, str(tmp_path / "none.yaml"), "--json")
        assert result.exit_code == 2, command
        assert "none.yaml" in json.loads(result.stdout)["error"]


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has everything."""
    monkeypatch.setattr(metadata, "version", lambda package: "1.0")
    monkeypatch.setattr(doctor, "_disk", lambda: doctor.Finding("disk", True, "9 GiB"))
    monkeypatch.setattr(doctor, "_memory", lambda: doctor.Finding("memory", True, "9 GiB"))


def test_doctor_is_content_with_a_complete_machine(complete: None, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)  # without demo data and encrypted environment, which are optional
    result = call("doctor")
    assert result.exit_code == 0
    assert "fix: privacy-pipeline data adult" in result.stdout
    assert "fix: make setup-encrypted" in result.stdout


def test_doctor_names_a_missing_package_and_its_fix(complete: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "tfx":
            raise metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    result = call("doctor", "--json")
    assert result.exit_code == 1
    (missing,) = [f for f in json.loads(result.stdout) if f["what"] == "tfx"]
    assert (missing["ok"], missing["fix"]) == (False, "make setup")
    assert "fix: make setup" in call("doctor").stdout


def test_every_finding_that_is_not_ok_has_a_fix() -> None:
    assert all(f.ok or f.fix for f in doctor.diagnose())
