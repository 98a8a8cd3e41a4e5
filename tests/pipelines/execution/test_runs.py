"""Starting, skipping and resuming runs; `execute` is a stand-in, so no TFX is started."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.config.models.evaluation import DpEvaluationSection, PolicySection, Threshold
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.pipelines.execution import execute as execute_module
from privacy_pipeline.pipelines.execution import runs
from privacy_pipeline.pipelines.nodes import NODES, nodes_of
from privacy_pipeline.pipelines.preflight import spending
from privacy_pipeline.pipelines.registration.register import register_dataset
from privacy_pipeline.pipelines.workspace import metadata
from privacy_pipeline.pipelines.workspace.run_state import NodeState, RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder, Workspace
from privacy_pipeline.reports.record.summary import RunSummary
from tests.pipelines.projects import write_project
from tests.reports.records import make_summary, plain_record


class Project:
    """A project whose runs end as the test says."""

    def __init__(self, config: PipelineConfig, root: Path) -> None:
        self.config = config
        self.root = root
        self.executed: list[str] = []
        self.ending: dict[str, Any] = {"status": "done"}
        self.nodes = dict.fromkeys(NODES, "done")
        self.summary: dict[str, Any] | None = {}

    def execute(self, *, folder: RunFolder, state: RunState, on_event: Any) -> RunState:
        """Stands in for the worker."""
        self.executed.append(folder.run_id)
        ended = state.model_copy(update={**self.ending, "ended": execute_module.now()})
        ended.nodes = {name: NodeState(status=status) for name, status in self.nodes.items()}
        if self.summary is not None:
            model = self.root / "models" / folder.run_id
            model.mkdir(parents=True)
            (model / "saved_model.pb").touch()
            values = {"run_id": folder.run_id, "training_run": folder.run_id, "model_uri": str(model)}
            folder.write_summary(make_summary(plain_record(), **(values | self.summary)))
        folder.write_state(ended)
        return ended

    def start(self, config: PipelineConfig | None = None, **ends: list[str]) -> tuple[RunFolder, RunState]:
        return runs.start(
            config=config or self.config,
            config_path=Path("things.yaml"),
            from_nodes=ends.get("from_nodes", []),
            to_nodes=ends.get("to_nodes", []),
            on_start=lambda folder: None,
            on_event=lambda event, state: None,
        )

    def again(self, config: PipelineConfig | None = None) -> bool:
        """Whether a run now executes anything."""
        before = len(self.executed)
        self.start(config)
        return len(self.executed) > before


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was published to ML Metadata for runs that executed nothing."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(metadata, "copy_run_metrics", lambda connection, **given: calls.append(given))
    return calls


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: list[dict[str, Any]]) -> Project:
    made = Project(write_project(tmp_path), tmp_path)
    monkeypatch.setattr(runs, "execute", made.execute)
    return made


def with_policy(config: PipelineConfig, **policy: float) -> PipelineConfig:
    return config.model_copy(update={"policy": PolicySection(**policy)})


def test_the_same_again_executes_nothing(project: Project, copied: list[dict[str, Any]]) -> None:
    first, _ = project.start()
    second, state = project.start()
    assert project.executed == [first.run_id]
    assert (state.status, state.cached_from) == ("done", first.run_id)
    assert {name: node.status for name, node in state.nodes.items()} == {
        name: "done" if name == "PrivacyGate" else "cached" for name in NODES
    }
    assert second.read_state() == state
    summary = second.read_summary()
    assert summary is not None and (summary.run_id, summary.training_run) == (second.run_id, first.run_id)
    assert [call["run_id"] for call in copied] == [second.run_id]
    assert copied[0]["properties"]["cached_training"] == 1 and "epsilon" not in copied[0]["properties"]


def test_a_copy_is_never_copied_again(project: Project) -> None:
    first, _ = project.start()
    project.start()
    assert project.start()[1].cached_from == first.run_id


def test_changed_data_executes_again(project: Project) -> None:
    project.start()
    rows = project.root / "data" / "span-1" / "train" / "rows.csv"
    rows.write_text(rows.read_text() + "red,1.5,999,yes\n")
    assert project.again()


def test_a_changed_schema_executes_again(project: Project) -> None:
    project.start()
    schema = project.root / "schema.pbtxt"
    schema.write_text(schema.read_text().replace("max: 10", "max: 20"))
    assert project.again()


def test_a_changed_policy_executes_again(project: Project) -> None:
    project.start()
    assert project.again(with_policy(project.config, max_epsilon=3.0))


def test_no_cache_executes_again(project: Project) -> None:
    project.start()
    assert project.again(project.config.model_copy(update={"cache": False}))


def test_a_model_that_was_removed_is_trained_again(project: Project) -> None:
    folder, _ = project.start()
    summary = folder.read_summary()
    assert summary is not None
    Path(summary.model_uri, "saved_model.pb").unlink()
    assert project.again()


def test_an_older_run_serves_where_the_newest_lost_its_model(project: Project) -> None:
    first, _ = project.start()
    second, _ = project.start(project.config.model_copy(update={"cache": False}))
    del second
    assert project.start()[1].cached_from == first.run_id


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_did_not_finish_serves_nobody(project: Project, status: str) -> None:
    project.ending = {"status": status}
    project.start()
    assert project.again()


def test_a_model_that_was_not_blessed_is_told_again_without_a_run(project: Project) -> None:
    project.ending = {"status": "not_blessed"}
    project.summary = {"blessed": False, "evaluation_reasons": ["too weak"], "reasons": ["too weak"]}
    project.start()
    _, state = project.start()
    assert len(project.executed) == 1 and state.status == "not_blessed"


@pytest.mark.parametrize(
    ("recorded", "reasons"), [(True, ["too weak"]), (False, [])], ids=["would be refused now", "would be blessed now"]
)
def test_a_verdict_that_would_differ_today_runs_the_pipeline(
    project: Project, recorded: bool, reasons: list[str]
) -> None:
    project.summary = {"blessed": recorded, "evaluation_reasons": reasons}
    project.start()
    assert project.again()


def test_a_partial_run_serves_nobody(project: Project) -> None:
    project.start(to_nodes=["Trainer"])
    assert project.again()


def test_from_a_node_needs_a_whole_run_over_the_same_data(project: Project) -> None:
    with pytest.raises(BadInputError, match="whole run"):
        project.start(from_nodes=["Trainer"])
    whole, _ = project.start()
    partial, _ = project.start(from_nodes=["Trainer"])
    assert partial.read_spec().base_run == whole.run_id
    rows = project.root / "data" / "span-1" / "train" / "rows.csv"
    rows.write_text(rows.read_text() + "red,1.5,999,yes\n")
    with pytest.raises(BadInputError, match="other data"):
        project.start(from_nodes=["Trainer"])


def test_an_unknown_node_is_refused_with_the_nearest_name(project: Project) -> None:
    with pytest.raises(BadInputError, match="no node 'trainer'") as caught:
        project.start(to_nodes=["trainer"])
    assert "did you mean Trainer?" in caught.value.fix
    assert not project.executed


def test_a_broken_run_folder_does_not_stop_new_runs(project: Project) -> None:
    folder, _ = project.start()
    (folder.path / "run.json").write_text("{")
    assert project.again()


def state_of(project: Project, config: PipelineConfig) -> RunState:
    from privacy_pipeline.pipelines.preflight import preflight

    features = preflight.read_features(config)
    return runs._state(runs._spec(config, preflight.check_source(config, features), features), Path("c.yaml"))


def trained_before(project: Project, config: PipelineConfig) -> bool:
    return spending.executed_before(Workspace(config), state_of(project, config), "Trainer")


def test_trained_before_looks_at_what_shapes_the_model_alone(project: Project) -> None:
    assert not trained_before(project, project.config)
    project.start()
    assert trained_before(project, project.config)
    assert trained_before(project, with_policy(project.config, max_epsilon=1.0))
    longer = project.config.training.model_copy(update={"epochs": 9})
    assert not trained_before(project, project.config.model_copy(update={"training": longer}))


@pytest.mark.parametrize(("trainer", "expected"), [("failed", False), ("waiting", False), ("cached", True)])
def test_trained_before_needs_a_finished_trainer(project: Project, trainer: str, expected: bool) -> None:
    project.nodes["Trainer"] = trainer
    project.ending, project.summary = {"status": "failed"}, None
    project.start()
    assert trained_before(project, project.config) is expected


def private(project: Project, root: Path, *, cap: float) -> PipelineConfig:
    config = write_project(root, backend="dp_sgd")
    register_dataset(config=config, epsilon=cap, delta=1e-5)
    return config


def test_a_run_over_budget_never_starts(project: Project, tmp_path: Path) -> None:
    config = private(project, tmp_path / "dp", cap=0.1)
    with pytest.raises(BudgetRefusedError, match=r"cap is 0\.100"):
        project.start(config)
    assert not project.executed and not list(Workspace(config).runs.iterdir())


def test_over_budget_but_trained_before_runs_from_the_cache(project: Project, tmp_path: Path) -> None:
    config = private(project, tmp_path / "dp", cap=1.0)
    project.ending = {"status": "failed"}
    project.summary = None
    project.start(config)
    with_policy_now = with_policy(config, max_epsilon=5.0)
    Ledger.open(config.ledger).set_cap("things", epsilon=0.1, delta=1e-5)
    assert project.again(with_policy_now)


def test_over_budget_and_trained_before_is_refused_without_the_cache(project: Project, tmp_path: Path) -> None:
    config = private(project, tmp_path / "dp", cap=1.0)
    project.ending, project.summary = {"status": "failed"}, None
    project.start(config)
    Ledger.open(config.ledger).set_cap("things", epsilon=0.1, delta=1e-5)
    with pytest.raises(BudgetRefusedError, match=r"cap is 0\.100"):
        project.start(config.model_copy(update={"cache": False}))


def evaluated(project: Project, root: Path, *, eval_cap: float) -> PipelineConfig:
    config = private(project, root, cap=10.0)
    policy = Policy(dataset="things", epsilon=10.0, delta=1e-5, unit="row", eval_epsilon=eval_cap)
    Ledger.open(config.ledger).apply_policy(policy)
    section = DpEvaluationSection(epsilon=1.0, delta=1e-5)
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"dp": section})})


def at_threshold(config: PipelineConfig, least: float) -> PipelineConfig:
    changed = {"thresholds": {"accuracy": Threshold(min=least)}}
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changed)})


def test_an_evaluation_over_budget_never_starts(project: Project, tmp_path: Path) -> None:
    config = evaluated(project, tmp_path / "dp", eval_cap=0.5)
    with pytest.raises(BudgetRefusedError, match="its DP evaluation costs epsilon 1"):
        project.start(config)
    assert not project.executed and not Ledger.open(config.ledger).entries("things")


def test_another_threshold_is_within_the_budget_that_is_used_up(project: Project, tmp_path: Path) -> None:
    config = evaluated(project, tmp_path / "dp", eval_cap=1.2)
    project.nodes = dict.fromkeys(nodes_of(config), "done")
    project.ending, project.summary = {"status": "failed"}, None
    project.start(config)
    Ledger.open(config.ledger).apply_policy(
        Policy(dataset="things", epsilon=10.0, delta=1e-5, unit="row", eval_epsilon=0.5)
    )
    assert project.again(at_threshold(config, 0.9))
    others = {"slices": [["colour"]]}
    sliced = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=others)})
    with pytest.raises(BudgetRefusedError, match="eval split, refused"):
        project.start(sliced)


def test_what_the_cache_served_is_told_to_the_ledger(project: Project, tmp_path: Path) -> None:
    config = evaluated(project, tmp_path / "dp", eval_cap=1.2)
    project.nodes = dict.fromkeys(nodes_of(config), "cached")
    folder, _ = project.start(config)
    with sqlite3.connect(tmp_path / "dp" / "ledger" / "ledger.db") as connection:
        bodies = [json.loads(row[0]) for row in connection.execute("SELECT body FROM journal WHERE kind = 'zero'")]
    assert [(body["run_id"], body["node"]) for body in bodies] == [
        (folder.run_id, "Trainer"),
        (folder.run_id, "DpEvaluator"),
    ]


def test_what_was_cut_short_is_charged_again(project: Project, tmp_path: Path) -> None:
    config = evaluated(project, tmp_path / "dp", eval_cap=1.2)
    project.nodes = {**dict.fromkeys(nodes_of(config), "done"), "DpEvaluator": "failed"}
    project.ending, project.summary = {"status": "failed"}, None
    folder, _ = project.start(config)
    assert spending.charged_again(folder) == ["DpEvaluator"]
    Ledger.open(config.ledger).apply_policy(
        Policy(dataset="things", epsilon=10.0, delta=1e-5, unit="row", eval_epsilon=0.5)
    )
    with pytest.raises(BudgetRefusedError, match="eval split, refused"):
        resume(folder)


def test_other_files_than_the_registered_ones_never_start(project: Project, tmp_path: Path) -> None:
    config = private(project, tmp_path / "dp", cap=10.0)
    rows = tmp_path / "dp" / "data" / "span-1" / "train" / "rows.csv"
    rows.write_text(rows.read_text() + "red,1.5,999,yes\n")
    with pytest.raises(BudgetRefusedError, match="not the ones that were registered"):
        project.start(config)
    assert not project.executed


def resume(folder: RunFolder) -> RunState:
    return runs.resume(folder=folder, on_start=lambda folder: None, on_event=lambda event, state: None)


@pytest.mark.parametrize("status", ["done", "not_blessed"])
def test_a_finished_run_is_not_resumed(project: Project, status: str) -> None:
    project.ending = {"status": status}
    folder, _ = project.start()
    with pytest.raises(BadInputError, match="is finished"):
        resume(folder)


def test_a_failed_run_is_resumed_under_its_own_name(project: Project) -> None:
    project.ending, project.summary = {"status": "failed"}, None
    folder, _ = project.start()
    project.ending, project.summary = {"status": "done"}, {}
    assert resume(folder).status == "done"
    assert project.executed == [folder.run_id] * 2


def test_a_run_over_other_data_is_not_resumed(project: Project) -> None:
    project.ending, project.summary = {"status": "failed"}, None
    folder, _ = project.start()
    rows = project.root / "data" / "span-1" / "train" / "rows.csv"
    rows.write_text(rows.read_text() + "red,1.5,999,yes\n")
    with pytest.raises(BadInputError, match="data, or the ledger that it belongs to, changed since"):
        resume(folder)


def test_a_run_with_another_schema_is_not_resumed(project: Project) -> None:
    """Its nodes that are done read the old one, and the spec's feature plan is the old one too."""
    project.ending, project.summary = {"status": "failed"}, None
    folder, _ = project.start()
    schema = project.root / "schema.pbtxt"
    schema.write_text(schema.read_text().replace("max: 10", "max: 20"))
    with pytest.raises(BadInputError, match="schema"):
        resume(folder)


def test_the_summary_of_a_copy_is_a_summary(project: Project) -> None:
    project.start()
    folder, _ = project.start()
    assert isinstance(folder.read_summary(), RunSummary)
