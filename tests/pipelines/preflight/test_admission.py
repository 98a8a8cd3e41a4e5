"""Whether a run may use its data at all, before anything of it starts: pins, policies, and what is journalled."""

from __future__ import annotations

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.components.privacy_gate.ledger_check import pin_reasons
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema.unit_keys import partition_bytes
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.ledger.storage import keys
from privacy_pipeline.ledger.storage.schema import LedgerError
from privacy_pipeline.pipelines.execution import runs
from privacy_pipeline.pipelines.graph.data_secret import data_secret
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.registration.register import register_dataset
from privacy_pipeline.pipelines.reporting import membership
from tests.data.test_counts import record
from tests.data.test_example_keys import example, part
from tests.pipelines.execution.test_runs import Project, copied, project
from tests.pipelines.projects import csv_text, write_project

__all__ = ["copied", "project"]


def registered(project: Project, **more: Any) -> Ledger:
    register_dataset(config=project.config, epsilon=10.0, delta=1e-5, **more)
    return Ledger.open(project.config.ledger)


def with_dataset(config: PipelineConfig, **changes: Any) -> PipelineConfig:
    return config.model_copy(update={"dataset": config.dataset.model_copy(update=changes)})


def apply(ledger: Ledger, **rules: Any) -> None:
    ledger.apply_policy(
        Policy.model_validate({"dataset": "things", "epsilon": 10.0, "delta": 1e-5, "unit": "row", **rules})
    )


def test_a_plain_run_on_registered_data_is_journalled_before_it_starts(project: Project) -> None:
    ledger = registered(project)
    folder, _ = project.start()
    (run,) = ledger.unprotected_runs("things")
    assert (run.run_id, run.backend) == (folder.run_id, "plain")
    assert ledger.status()[0].enforced_epsilon == 0.0 and ledger.verify().ok
    project.start()  # nothing changed: no data is read
    assert len(ledger.unprotected_runs("things")) == 1


def test_so_is_one_under_another_name(project: Project) -> None:
    ledger = registered(project)
    project.start(with_dataset(project.config, name="renamed"))
    assert len(ledger.unprotected_runs("things")) == 1


def edited(project: Project) -> PipelineConfig:
    """The same people's rows elsewhere, under another name, in another order, with one cell edited."""
    folder = project.root / "elsewhere"
    shutil.copytree(project.config.dataset.path, folder, ignore=shutil.ignore_patterns(pins.FILE))
    for file in folder.rglob("*.csv"):
        head, *rows = file.read_text().splitlines()
        file.write_text("\n".join([head, *reversed(rows[1:]), rows[0].replace("0.05", "0.06")]) + "\n")
    return with_dataset(project.config, name="renamed", path=folder)


def test_so_is_one_on_edited_rows_from_another_folder(project: Project) -> None:
    ledger = registered(project)
    project.start(edited(project))
    assert len(ledger.unprotected_runs("things")) == 1
    apply(ledger, require_guarantee=True)
    with pytest.raises(BudgetRefusedError, match="asks for a guarantee"):
        project.start(edited_again(project))
    assert len(project.executed) == 1 and len(ledger.unprotected_runs("things")) == 1


def edited_again(project: Project) -> PipelineConfig:
    shutil.rmtree(project.root / "elsewhere")
    return edited(project).model_copy(update={"pipeline": "again", "workspace": project.root / "second-workspace"})


def as_examples(project: Project) -> PipelineConfig:
    """The same people's rows as TFRecord files, as ExampleGen writes them, under another name."""
    folder = project.root / "examples"
    for file in project.config.dataset.path.rglob("*.csv"):
        target = (folder / file.relative_to(project.config.dataset.path)).with_suffix(".tfrecord")
        target.parent.mkdir(parents=True, exist_ok=True)
        _, *lines = file.read_text().splitlines()
        target.write_bytes(b"".join(record(_example(*line.split(","))) for line in lines))
    return with_dataset(project.config, name="renamed", path=folder, format="tfrecord")


def _example(colour: str, size: str, person: str, bought: str) -> bytes:
    decimal = part(2, part(1, struct.pack("<f", float(size))))
    texts = {"colour": partition_bytes(value=colour), "bought": partition_bytes(value=bought)}
    return example(**texts, size=decimal, person=partition_bytes(value=int(person)))


def test_the_same_rows_in_another_format_are_known(project: Project) -> None:
    ledger = registered(project)
    config = as_examples(project)
    project.start(config)
    assert len(ledger.unprotected_runs("things")) == 1
    elsewhere = config.model_copy(update={"workspace": project.root / "second-workspace"})
    with pytest.raises(BadInputError, match="many rows of this data are registered as things already"):
        register_dataset(config=elsewhere, epsilon=10.0, delta=1e-5)


def test_a_partial_run_that_does_not_train_is_journalled_whatever_it_claims(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is charged nothing, and computes exact statistics."""
    private = write_project(project.root / "private", backend="dp_sgd")
    made = Project(private, project.root / "private")
    monkeypatch.setattr(runs, "execute", made.execute)
    ledger = registered(made)
    before, _ = made.start(to_nodes=["Transform"])
    made.start(to_nodes=["Trainer"])
    made.start()
    after, _ = made.start(from_nodes=["Evaluator"])
    assert [run.run_id for run in ledger.unprotected_runs("things")] == [before.run_id, after.run_id]


@pytest.mark.parametrize("under", ["its name", "another one, edited"])
def test_an_attack_on_a_run_is_held_to_the_policy_and_journalled(
    project: Project, monkeypatch: pytest.MonkeyPatch, under: str
) -> None:
    ledger = registered(project)
    folder, _ = project.start(None if under == "its name" else edited(project))
    examples = project.root / "ingested/Split-train"
    examples.mkdir(parents=True)
    for number, file in enumerate(as_examples(project).dataset.path.rglob("*.tfrecord")):
        (examples / f"data-{number}.gz").write_bytes(gzip.compress(file.read_bytes()))
    monkeypatch.setattr(membership, "examples_behind", lambda *_, **__: examples.parent)
    monkeypatch.setattr(membership, "_losses", lambda *_: {"overall": np.linspace(0, 1, 60)})
    membership.attack(folder)
    assert [run.backend for run in ledger.unprotected_runs("things")] == ["plain", "attack"]
    apply(ledger, require_guarantee=True)
    with pytest.raises(BudgetRefusedError, match="asks for a guarantee"):
        membership.attack(folder)


def test_other_peoples_data_is_not_journalled(project: Project) -> None:
    ledger = registered(project)
    config = edited(project)
    for file in config.dataset.path.rglob("*.csv"):
        file.write_text(csv_text(40, first=9000))
    project.start(config)
    assert ledger.unprotected_runs("things") == [] and len(project.executed) == 1


def test_where_nothing_is_registered_no_ledger_is_needed(project: Project) -> None:
    project.start()
    assert len(project.executed) == 1 and not (project.root / "ledger").exists()


@pytest.mark.parametrize(
    "rule", [{"require_guarantee": True}, {"allowed_backends": ["dp_sgd"]}, {"may_spend": ["somebody-else"]}]
)
@pytest.mark.parametrize("renamed", [False, True])
def test_the_policy_of_the_registration_refuses_a_run(project: Project, rule: dict[str, Any], renamed: bool) -> None:
    ledger = registered(project)
    apply(ledger, **rule)
    config = with_dataset(project.config, name="renamed") if renamed else project.config
    with pytest.raises(BudgetRefusedError, match=r"asks for a guarantee|does not allow backend|may not use"):
        project.start(config)
    assert project.executed == [] and ledger.unprotected_runs("things") == []


def test_where_the_journal_cannot_be_written_nothing_runs(project: Project) -> None:
    ledger = registered(project)
    keys.key_file(ledger._engine.url).unlink()
    with pytest.raises(LedgerError):
        project.start()
    assert project.executed == []


@pytest.mark.parametrize("backend", ["plain", "dp_sgd"])
def test_another_ledger_is_refused_by_check_run_and_gate(tmp_path: Path, backend: str) -> None:
    config = write_project(tmp_path, backend=backend)
    register_dataset(config=config, epsilon=10.0, delta=1e-5)
    other = config.model_copy(update={"ledger": f"sqlite:///{tmp_path}/other/l.db"})
    with pytest.raises(BudgetRefusedError, match="there is none at"):
        preflight.check(other, span=1)
    with pytest.raises(BudgetRefusedError, match="there is none at"):
        register_dataset(config=other, epsilon=10.0, delta=1e-5)
    Ledger.open(other.ledger, create=True)
    with pytest.raises(BudgetRefusedError, match="registered with another ledger"):
        preflight.check(other, span=1)
    with pytest.raises(BudgetRefusedError, match="registered with another ledger"):
        register_dataset(config=other, epsilon=10.0, delta=1e-5)
    (reason,) = pin_reasons(url=other.ledger, data=[other.dataset.path], workspace=other.workspace)
    assert "registered with another ledger" in reason
    assert pin_reasons(url=config.ledger, data=[config.dataset.path], workspace=config.workspace) == []


def by_the_folder_above(config: PipelineConfig) -> dict[str, Any]:
    named = {"train": "data/span-{SPAN}/train/*", "eval": "data/span-{SPAN}/eval/*"}
    return {"path": config.dataset.path.parent, "input": named}


def by_links_to_files(config: PipelineConfig) -> dict[str, Any]:
    links = config.dataset.path.parent / "links"
    for file in config.dataset.path.rglob("*.csv"):
        link = links / file.relative_to(config.dataset.path)
        link.parent.mkdir(parents=True)
        link.symlink_to(file)
    return {"path": links}


def by_a_link_to_a_folder(config: PipelineConfig) -> dict[str, Any]:
    links = config.dataset.path.parent / "links"
    links.mkdir()
    (links / "span-1").symlink_to(config.dataset.path / "span-1")
    return {"path": links}


@pytest.mark.parametrize("way", [by_the_folder_above, by_links_to_files, by_a_link_to_a_folder])
def test_another_ledger_is_refused_whatever_path_leads_to_the_files(
    tmp_path: Path, way: Callable[[PipelineConfig], dict[str, Any]]
) -> None:
    config = write_project(tmp_path, backend="dp_sgd")
    register_dataset(config=config, epsilon=10.0, delta=1e-5)
    elsewhere = {"workspace": tmp_path / "new-workspace", "ledger": f"sqlite:///{tmp_path}/other/l.db"}
    other = with_dataset(config, **way(config)).model_copy(update=elsewhere)
    for refused in (lambda: register_dataset(config=other, epsilon=10.0, delta=1e-5), lambda: data_secret(other)):
        with pytest.raises(BudgetRefusedError, match="there is none at"):
            refused()
    Ledger.open(other.ledger, create=True)
    with pytest.raises(BudgetRefusedError, match="registered with another ledger"):
        preflight.check(other, span=1)


def test_a_run_moves_the_pins_on(project: Project) -> None:
    ledger = registered(project)
    folders = [project.config.workspace, project.config.dataset.path]
    first = {file: pin.seq for file, pin in pins.pinned(folders).items()}
    assert len(first) == 2
    project.start()
    assert {pin.seq for pin in pins.pinned(folders).values()} == {ledger.lineage().seq} != set(first.values())


def test_a_copy_of_the_ledger_gives_no_fresh_cap(project: Project) -> None:
    registered(project)
    shutil.copytree(project.root / "ledger", project.root / "copy")
    project.start()
    copy = project.config.model_copy(update={"ledger": f"sqlite:///{project.root}/copy/ledger.db", "pipeline": "again"})
    with pytest.raises(BudgetRefusedError, match="was rolled back, or is a copy"):
        project.start(copy)


def test_a_folder_that_cannot_be_written_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(pins, "_write", lambda file, _: project.config.dataset.path not in file.parents)
    registered(project, tell=told.append)
    assert told == [
        f"{project.config.dataset.path} cannot be written: nothing there names the ledger that this data is "
        "registered with"
    ]


class TestCommands:
    @pytest.fixture
    def config(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.chdir(tmp_path)
        document = write_project(tmp_path).model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
        Path("c.yaml").write_text(yaml.safe_dump(document))
        assert self.budget("register", "c.yaml", "--epsilon", "3").exit_code == 0
        return "c.yaml"

    def budget(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, ["budget", *arguments])

    def test_move_and_pin(self, config: str) -> None:
        moved = self.budget("move", "sqlite:///there/l.db")
        assert moved.exit_code == 0 and "set `ledger: sqlite:///there/l.db`" in " ".join(moved.output.split())
        assert self.budget("status", "--ledger", "sqlite:///there/l.db").exit_code == 0
        old = self.budget("register", config, "--epsilon", "3", "--set", "dataset.span=2")
        assert old.exit_code != 0
        Path("workspace", pins.FILE).unlink()
        pinned = self.budget("pin", config, "--set", "ledger=sqlite:///there/l.db")
        assert pinned.exit_code == 0 and Path("workspace", pins.FILE).exists()
        assert self.budget("pin", config, "--set", "ledger=sqlite:///none/l.db").exit_code == 4

    def test_a_lost_key_is_accepted_by_name(self, config: str) -> None:
        Path("ledger/ledger_key.pem").unlink()
        assert self.budget("rotate-key", "--lost").exit_code == 0
        refused = self.budget("pin", config)
        assert refused.exit_code == 4 and "--accept-lost-key" in refused.output
        key = " ".join(refused.output.split()).rpartition("--accept-lost-key ")[2].split()[0]
        assert self.budget("pin", config, "--accept-lost-key", key).exit_code == 0
        assert self.budget("pin", config).exit_code == 0

    def test_a_numbering_of_its_own_needs_a_reason(self, config: str) -> None:
        for options in (("--id-space", "hospital"), ("--reason", "because")):
            ended = self.budget("register", config, "--epsilon", "3", *options)
            assert ended.exit_code == 2 and "needs a name and a reason" in " ".join(ended.output.split())
