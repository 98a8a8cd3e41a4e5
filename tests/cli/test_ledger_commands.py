"""`budget verify`, `budget rotate-key` and `budget history` end with the right code and say what is wrong."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from privacy_pipeline.cli.alerts import RunAlerts
from privacy_pipeline.cli.main import app
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from tests.ledger.conftest import make_plan, make_registration
from tests.ledger.old_ledgers import make_old_ledger
from tests.ledger.test_ledger import run, spend
from tests.pipelines.projects import write_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a ledger of two runs, and a record of each."""
    monkeypatch.chdir(tmp_path)
    ledger = Ledger.open("sqlite:///ledger/ledger.db", create=True)
    ledger.register(make_registration(), epsilon=3.0, delta=1e-5)
    for number in (1, 2):
        run(ledger, make_plan(), run_id=f"run-{number}")
        composition = ledger.composition(number).model_dump()
        folder = tmp_path / "records" / str(number)
        folder.mkdir(parents=True)
        (folder / "privacy_record.json").write_text(json.dumps({"composition": composition}))
    return tmp_path


def budget(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["budget", *arguments])


def test_verify_with_receipts(project: Path) -> None:
    ended = budget("verify", "--receipt", "records", "--public-key", "ledger/ledger_key.pub", "--json")
    found = json.loads(ended.stdout)
    assert ended.exit_code == 0 and found["ok"] and (found["receipts"], found["entries"]) == (2, 2)
    assert "8 journal records" in budget("verify").output
    with sqlite3.connect("ledger/ledger.db") as connection:
        connection.execute("DELETE FROM journal WHERE seq = 7")
    connection.close()
    ended = budget("verify", "--receipt", "records/2/privacy_record.json")
    assert ended.exit_code == 1 and "journal record 7 is missing" in " ".join(ended.output.split())


@pytest.mark.parametrize("arguments", [("--receipt", "nothing.json"), ("--receipt", "ledger"), ("--public-key", "no")])
def test_verify_with_unusable_files(project: Path, arguments: tuple[str, str]) -> None:
    assert budget("verify", *arguments).exit_code == 2


def test_rotation_and_loss(project: Path) -> None:
    rotated = json.loads(budget("rotate-key", "--json").stdout)
    assert rotated["old"] != rotated["new"] and budget("verify", "--receipt", "records").exit_code == 0
    assert budget("rotate-key", "--lost").exit_code == 1
    (project / "ledger" / "ledger_key.pem").unlink()
    assert budget("rotate-key").exit_code == 1
    lost = json.loads(budget("rotate-key", "--lost", "--json").stdout)
    assert budget("verify").exit_code == 1
    assert budget("verify", "--accept-lost-key", lost["new"]).exit_code == 0


def test_history_is_newest_first_and_paged(project: Path) -> None:
    listed = json.loads(budget("history", "--limit", "1", "--json").stdout)
    assert [entry["run_id"] for entry in listed] == ["run-2"]
    assert "run-1" in budget("history", "adult").output
    assert budget("history", "nosuch", "--json").exit_code == 2


@pytest.mark.parametrize("command", ["status", "history"])
def test_the_older_spelling_of_a_dataset_works_with_a_line(project: Path, command: str) -> None:
    now, before = budget(command, "adult", "--json"), budget(command, "--dataset", "adult", "--json")
    assert before.exit_code == 0 and before.stdout == now.stdout and "--dataset" not in now.stderr
    assert "the next release drops the old spelling" in before.stderr
    assert budget(command, "adult", "--dataset", "adult").exit_code == 2
    assert budget(command, "--dataset", "nosuch", "--json").exit_code == 2


def test_export_tells_every_entry_with_its_event_and_receipts(project: Path) -> None:
    ledger = Ledger.open("sqlite:///ledger/ledger.db")
    with spend(ledger, make_plan(noise=7.0), run_id="expired"):
        pass
    with spend(ledger, make_plan(noise=9.0), run_id="crashed") as grant:
        grant.start()
    lines = [json.loads(line) for line in budget("export", "adult").stdout.splitlines()]
    assert json.loads(budget("export", "--format", "json").stdout) == lines
    assert [line["state"] for line in lines] == ["committed", "committed", "expired", "started"]
    kept = {entry.id: entry for entry in ledger.entries("adult")}
    for line in lines:
        entry = kept[line["entry"]]
        assert (line["run_id"], line["event"], line["plan"]) == (entry.run_id, entry.event, entry.plan)
    first, second, expired, crashed = lines
    assert first["epsilon_alone"] == first["epsilon_composed"] == kept[1].epsilon
    assert second["epsilon_composed"] == ledger.composition(2).epsilon_after
    assert (expired["epsilon_alone"], expired["epsilon_composed"], expired["commit_seq"]) == (None, None, None)
    assert crashed["epsilon_composed"] == ledger.status("adult")[0].spent_epsilon
    with sqlite3.connect("ledger/ledger.db") as connection:
        records = dict(connection.execute("SELECT seq, hash || kind FROM journal"))
    connection.close()
    assert all(records[line["reserve_seq"]] == line["reserve_hash"] + "reserve" for line in lines)
    assert [records[line["commit_seq"]] == line["commit_hash"] + "commit" for line in lines[:2]] == [True, True]


def test_export_as_csv_and_of_nothing(project: Path) -> None:
    said = budget("export", "--format", "csv", "--output", "entries.csv")
    assert said.exit_code == 0 and "2 entries" in said.output
    with Path("entries.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["run_id"] for row in rows] == ["run-1", "run-2"] and rows[0]["span"] == ""
    assert json.loads(rows[0]["event"]) == json.loads(budget("export").stdout.splitlines()[0])["event"]
    assert budget("export", "nosuch").exit_code == 2
    assert budget("export", "--registry", "facts.yaml").exit_code == 2


def test_export_of_a_registry_record_is_that_of_the_report(project: Path) -> None:
    Path("facts.yaml").write_text("report: {}\n")
    ended, same = (
        budget("export", "adult", "--registry", "facts.yaml"),
        budget("report", "adult", "--format", "registry", "--facts", "facts.yaml", "--output", "-"),
    )
    assert (ended.exit_code, ended.output) == (same.exit_code, same.output) and ended.exit_code == 2
    assert "curator" in ended.output


def test_status_tells_what_makes_a_cap_less_than_it_says(project: Path) -> None:
    assert "note:" not in budget("status").output
    ledger = Ledger.open("sqlite:///ledger/ledger.db")
    with spend(ledger, make_plan(), run_id="more") as grant:
        grant.start()
        grant.commit(make_plan(noise=9.0).event)
    ledger.set_cap("adult", epsilon=0.4, delta=1e-5)
    said = " ".join(budget("status").output.split())
    assert "1 entries executed more than they had planned" in said
    assert "more is spent than the cap allows" in said
    (row,) = json.loads(budget("status", "--json").stdout)
    assert (row["overruns"], row["cap_changes"], row["remaining_epsilon"]) == (1, 1, 0.0)
    assert row["held_epsilon"] == row["enforced_epsilon"]  # the name of 0.1
    assert row["enforced_epsilon"] > row["spent_epsilon"] > 0.4


def test_alert_levels_are_told_once_they_are_passed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "alert:" not in budget("status").output
    ledger = Ledger.open("sqlite:///ledger/ledger.db")
    ledger.apply_policy(Policy(dataset="adult", epsilon=3.0, delta=1e-5, unit="row", alerts=(0.02, 0.04, 0.3)))
    said = " ".join(budget("status").output.split())
    assert "alert: budget adult/train/row: the policy's alert level of 4% is passed" in said
    alerts = RunAlerts(write_project(project / "p", backend="dp_sgd", dataset={"name": "adult"}))
    alerts._ledger = "sqlite:///ledger/ledger.db"
    alerts.tell()
    assert capsys.readouterr().err.count("level of 4%") == 1
    alerts.tell()
    assert capsys.readouterr().err == ""  # told at the start of the run
    run(ledger, make_plan(noise=2.5), run_id="large")
    alerts.tell()
    assert capsys.readouterr().err.count("level of 30%") == 1
    RunAlerts(write_project(project / "q")).tell()  # a plain run has no ledger to ask
    assert capsys.readouterr().err == ""


def test_history_all_and_export_records_tell_who_changed_what(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open("sqlite:///ledger/ledger.db")
    monkeypatch.setenv("PRIVACY_PIPELINE_USER", "carol")
    ledger.apply_policy(Policy(dataset="adult", epsilon=5.0, delta=1e-5, unit="row", eval_epsilon=1.0))
    ledger.zero(dataset="adult", run_id="cached", node="Trainer", paid_by=1)
    ledger.rotate_key()
    monkeypatch.setenv("PRIVACY_PIPELINE_USER", "dave")
    ledger.register(make_registration("census", digest="c" * 64), epsilon=3.0, delta=1e-5)
    listed = json.loads(budget("history", "adult", "--all", "--limit", "99", "--json").stdout)
    told = [(record["kind"], record["principal"]) for record in listed[:4]]
    assert told == [("rotate_key", "carol"), ("zero", "carol"), ("policy", "carol"), ("policy", "carol")]
    assert {record["kind"] for record in listed} >= {"genesis", "register", "reserve", "start", "commit"}
    assert all(record["principal"] for record in listed)
    opened, changed = listed[2], listed[3]
    assert changed["details"]["changes"]["epsilon"] == 5.0 and changed["budget"] == "adult/train/row"
    assert opened["details"]["opens"]["epsilon"] == 1.0 and opened["dataset"] == "adult"
    assert (listed[1]["run_id"], listed[1]["details"]["paid_by"]) == ("cached", 1)
    reserved = next(record for record in listed if record["kind"] == "reserve")
    assert (reserved["run_id"], reserved["entry"], reserved["node"]) == ("run-2", 2, "trainer")
    assert all("token" not in json.dumps(record) for record in listed)
    exported = [json.loads(line) for line in budget("export", "adult", "--records").stdout.splitlines()]
    assert [record["seq"] for record in exported] == [record["seq"] for record in reversed(listed)]
    assert json.loads(budget("history", "--all", "--json").stdout)[0]["principal"] == "dave"
    assert "carol" in budget("history", "--all").output
    assert budget("export", "--records", "--format", "csv").exit_code == 2


@pytest.mark.parametrize("command", [("status",), ("history",), ("history", "--all")])
def test_an_unknown_dataset_is_not_an_empty_answer(project: Path, command: tuple[str, ...]) -> None:
    ended = budget(*command, "nosuch")
    assert ended.exit_code == 2 and "dataset nosuch is not registered" in ended.output


def test_expire_gives_back_what_a_dead_run_reserved(project: Path) -> None:
    from tests.ledger.test_ledger import abandon

    ledger = Ledger.open("sqlite:///ledger/ledger.db")
    before = ledger.status()[0].spent_epsilon
    abandon(ledger, make_plan(noise=5.0), run_id="dead")
    abandon(ledger, make_plan(noise=5.0), run_id="started", start=True)
    held = ledger.status()[0].spent_epsilon
    assert json.loads(budget("expire", "dead", "--json").stdout) == {"run": "dead", "expired": 1}
    after = ledger.status()[0].spent_epsilon
    assert before < after < held
    for run_id in ("dead", "started", "nosuch"):
        ended = budget("expire", run_id)
        assert ended.exit_code == 0 and "nothing changed" in ended.output
    assert ledger.status()[0].spent_epsilon == after
    row = next(line for line in budget("history").output.splitlines() if "expired" in line)
    assert row.rstrip(" │").endswith("-")


def test_apply_tells_before_and_after_and_what_follows(project: Path) -> None:
    def apply(epsilon: float, **more: float) -> str:
        lines = [f"{name}: {value}" for name, value in {"epsilon": epsilon, **more}.items()]
        Path("p.yaml").write_text("\n".join(["dataset: adult", "delta: 1.0e-5", "unit: row", *lines]))
        ended = budget("apply", "p.yaml")
        assert ended.exit_code == 0, ended.output
        return " ".join(ended.output.split())

    said = apply(5.0, eval_epsilon=1.0)
    assert "adult/train/row: epsilon 3 at delta 1e-05 before, now epsilon 5 at delta 1e-05" in said
    assert "adult/eval/row: opened with epsilon 1" in said and "warning" not in said
    said = apply(0.1)
    assert "warning: adult/train/row:" in said and "counted already, above" in said
    assert "adult/eval/row: epsilon 1 at delta 1e-05 before, now closed" in said
    assert "before" not in apply(0.1)


@pytest.mark.parametrize("arguments", [("Bad Name!",), ("good", "--unit", ""), ("good", "--unit", "a: b")])
def test_init_writes_no_policy_that_could_not_be_applied(project: Path, arguments: tuple[str, ...]) -> None:
    assert budget("init", *arguments).exit_code == 2
    assert not list(project.glob("*.policy.yaml"))


def test_migrate_accepts_imports_and_verify_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_old_ledger("sqlite:///ledger/ledger.db", runs=["a"], version=2)
    refused = budget("verify")
    assert refused.exit_code == 1 and "not what its writers wrote" not in refused.output
    assert "a person has to accept" in refused.output
    assert budget("migrate").exit_code == 0 and budget("verify").exit_code == 1
    assert "1 entries" in budget("migrate", "--accept").output
    assert budget("verify").exit_code == 0
