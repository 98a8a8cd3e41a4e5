"""DpEvaluator: what it reads off the rows, what it is charged, and what PrivacyGate makes of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that
from tfx.types import standard_artifacts

from privacy_pipeline.components.artifacts import bind_to_data
from privacy_pipeline.components.dp_evaluator import executor
from privacy_pipeline.components.dp_evaluator.charged import (
    evaluate_charged,
    read_evaluation,
    release_of,
)
from privacy_pipeline.components.dp_evaluator.executor import MODEL_ID, predicted_rows
from privacy_pipeline.components.dp_evaluator.predictions import PredictedRows
from privacy_pipeline.components.noisy_answers import from_text, to_text, write_noisy
from privacy_pipeline.components.privacy_gate import executor as gate
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import Entry, State
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.pipelines.preflight.planned_charges import slice_domains
from privacy_pipeline.releases.beam_sums import ExactSums
from privacy_pipeline.releases.evaluation import DpEvaluation
from privacy_pipeline.releases.queries import Row, cell_name
from privacy_pipeline.releases.release import Noisy, Release
from tests.ledger.conftest import DIGEST, make_registration
from tests.pipelines.projects import write_project

UNITS = 200  # of the eval split, as registered
Raw = Mapping[str, Any]


class Model(tf.Module):
    """The positive class where `size` is above 5; the label is `bought`. Both as a served model gives them."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(self, examples: Any) -> Any:
        size = tf.io.parse_example(examples, {"size": tf.io.FixedLenFeature([1], tf.float32)})["size"]
        return {"probability": tf.sigmoid(size - 5.0)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def transform(self, examples: Any) -> Any:
        spec = {"bought": tf.io.FixedLenFeature([1], tf.string, default_value=b"")}
        bought = tf.io.parse_example(examples, spec)["bought"]
        return {"label": tf.where(bought == b"yes", 1, tf.where(bought == b"no", 0, -1))}


class Nosy(Model):
    """Predicts every row of a batch by the largest one in it, which no plan of a release foresees."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(self, examples: Any) -> Any:
        size = tf.io.parse_example(examples, {"size": tf.io.FixedLenFeature([1], tf.float32)})["size"]
        return {"probability": tf.sigmoid(tf.zeros_like(size) + tf.reduce_max(size) - 5.0)}


class Rounding(Model):
    """A network whose kernels round by the place in the batch."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(self, examples: Any) -> Any:
        size = tf.io.parse_example(examples, {"size": tf.io.FixedLenFeature([1], tf.float32)})["size"]
        return {"probability": tf.sigmoid(tf.math.log1p(size) - 1.0)}


class Counting(Model):
    """Predicts by how many batches it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(self, examples: Any) -> Any:
        return {"probability": tf.fill([tf.shape(examples)[0], 1], self.seen.assign_add(0.1))}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = {}
    for model in (Model(), Nosy(), Rounding(), Counting()):
        path = str(tmp_path_factory.mktemp("models") / type(model).__name__)
        tf.saved_model.save(model, path, {"serving_default": model.serve, "transform_features": model.transform})
        found[type(model).__name__] = path
    return found


def example(row: Raw) -> bytes:
    made = tf.train.Example()
    for name, value in row.items():
        feature = made.features.feature[name]
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str):
                feature.bytes_list.value.append(one.encode())
            elif isinstance(one, float):
                feature.float_list.value.append(one)
            else:
                feature.int64_list.value.append(one)
    return bytes(made.SerializeToString())


def write(path: Path, rows: list[Raw]) -> str:
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for row in rows:
            writer.write(example(row))
    return str(path)


RAW: list[Raw] = [
    {"colour": "red", "size": 9.0, "person": 1, "bought": "yes"},
    {"colour": "red", "size": 1.0, "person": 1, "bought": "yes"},
    {"colour": "green", "size": 8.0, "person": 2, "bought": "no"},
    {"colour": "blue", "size": 2.0, "person": 3, "bought": "no"},
    {"colour": "mauve", "size": 9.0, "person": 4, "bought": "yes"},  # outside the public domain
    {"size": 9.0, "person": 5, "bought": "yes"},  # no colour
    {"colour": ["red", "green"], "size": 9.0, "person": 6, "bought": "yes"},  # two
    {"colour": "red", "size": 9.0, "person": 7, "bought": "perhaps"},  # no label
    {"colour": "red", "size": 9.0, "bought": "yes"},  # nobody's
]


def dp_config(root: Path, **changes: Any) -> PipelineConfig:
    evaluation = {"slices": ["colour"], "dp": {"epsilon": 1.0, "delta": 1e-5}}
    return write_project(root, backend="dp_sgd", **{"evaluation": evaluation, **changes})


def release_for(config: PipelineConfig, **facts: Any) -> Release:
    registration = dataclasses.replace(make_registration("things"), **facts)
    return release_of(config, domains=slice_domains(config), registration=registration)


def rows_of(config: PipelineConfig, model: str) -> PredictedRows:
    assert config.evaluation.dp is not None
    return predicted_rows(config, config.evaluation.dp, model_dir=model)


def predict(rows: PredictedRows, path: str) -> list[tuple[str | None, Row]]:
    rows.setup()
    return list(rows.process(path))


def counts(query: str, found: Mapping[Any, int]) -> dict[str, int]:
    return {cell: value for (number, cell), value in found.items() if str(number) == query}


def test_rows_are_read_as_they_are_counted(tmp_path: Path, models: dict[str, str]) -> None:
    path = write(tmp_path / "rows.gz", RAW)
    found = predict(rows_of(dp_config(tmp_path, dataset={"privacy_unit": {"key": "person"}}), models["Model"]), path)
    assert [unit for unit, _ in found] == ["1", "1", "2", "3", "4", "5", "6", "7", None]
    colours = ["red", "red", "green", "blue", "mauve", None, None, "red", "red"]
    assert [row["colour"] for _, row in found] == colours
    assert [row["@label"] for _, row in found] == [1, 1, 0, 0, 1, 1, 1, -1, 1]
    assert [row["@predicted"] for _, row in found] == [1, 0, 1, 0, 1, 1, 1, 1, 1]


def test_the_decision_threshold_is_the_configs(tmp_path: Path, models: dict[str, str]) -> None:
    evaluation = {"slices": [], "dp": {"epsilon": 1.0, "delta": 1e-5, "decision_threshold": 0.97}}
    path = write(tmp_path / "rows.gz", RAW[:4])
    found = predict(rows_of(dp_config(tmp_path, evaluation=evaluation), models["Model"]), path)
    assert [row["@predicted"] for _, row in found] == [1, 0, 0, 0]  # sigmoid(3) is 0.953


@pytest.mark.parametrize("keyed", [False, True])
def test_exact_sums_bound_each_unit(tmp_path: Path, models: dict[str, str], keyed: bool) -> None:
    config = dp_config(tmp_path, dataset={"privacy_unit": {"key": "person"}} if keyed else {})
    release = release_for(config, unit="person" if keyed else "row")
    files = [write(tmp_path / "a.gz", RAW[:5]), write(tmp_path / "b.gz", RAW[5:])]
    # Six rows are labelled 1. As persons: one of person 1's two rows, and none of nobody's.

    def check(sums: list[Any]) -> None:
        overall = counts("0", sums[0])
        positives = {"tp": overall[cell_name("11")], "fn": overall.get(cell_name("10"), 0)}
        if keyed:  # which of person 1's rows counts is chance
            assert sum(positives.values()) == 4 and positives["fn"] in (0, 1)
        else:
            assert positives == {"tp": 5, "fn": 1}
        assert (overall[cell_name("01")], overall[cell_name("00")]) == (1, 1)
        red = {cell: n for cell, n in counts("1", sums[0]).items() if json.loads(cell)[0] == "red"}
        assert sum(red.values()) == (1 if keyed else 3)

    with beam.Pipeline() as pipeline:
        pairs = pipeline | beam.Create(files) | beam.ParDo(rows_of(config, models["Model"]))
        assert_that(pairs | ExactSums(release), check)


def test_only_noisy_counts_are_written_and_they_are_near(tmp_path: Path, models: dict[str, str]) -> None:
    config = dp_config(tmp_path)
    release = release_for(config)
    target = tmp_path / "counts.json"
    with beam.Pipeline() as pipeline:
        rows = rows_of(config, models["Model"])
        files = [write(tmp_path / "a.gz", RAW * 100)]
        write_noisy(pipeline, files=files, rows=rows, release=release, to=str(target))
    answers = from_text(release, target.read_text())
    assert json.loads(to_text(answers)) == json.loads(target.read_text())
    exact = {"tp": 500, "fp": 100, "tn": 100, "fn": 100}
    cells = {"tp": "11", "fp": "01", "tn": "00", "fn": "10"}
    overall = answers["overall"]
    assert len(overall.values) == 4 and overall.scale == release.scales[0] > 3
    errors = [overall.values[cell_name(cells[name])] - count for name, count in exact.items()]
    errors += [value - 0 for cell, value in answers["colour"].values.items() if json.loads(cell) == ["blue", "1", "1"]]
    assert all(abs(error) < 7 * overall.scale for error in errors)
    assert any(errors), "no noise was added"


@pytest.mark.parametrize("use", ["my.module", "tabular"])
def test_a_model_sees_one_row_at_a_time(tmp_path: Path, models: dict[str, str], use: str) -> None:
    """Else a row could move the predictions of all others, and the noise would be too small."""
    path = write(tmp_path / "rows.gz", RAW[:4])
    config = dp_config(tmp_path, model={"use": use})
    assert [row["@predicted"] for _, row in predict(rows_of(config, models["Nosy"]), path)] == [1, 0, 1, 0]
    together = tf.saved_model.load(models["Nosy"]).signatures["serving_default"]
    probabilities = together(tf.constant([example(row) for row in RAW[:4]]))["probability"].numpy()
    assert (probabilities > 0.5).all()  # what must not happen


@pytest.mark.slow
def test_one_row_less_moves_the_counts_by_one(tmp_path: Path, models: dict[str, str]) -> None:
    """4,096 and 4,095 equal rows, and a threshold that an analyst chose between two values of the same row."""
    together = tf.saved_model.load(models["Rounding"]).signatures["serving_default"]
    told = 0
    for size in np.linspace(1, 50, 200):
        row = {"size": float(size), "bought": "yes"}
        values = [together(tf.constant([example(row)] * n))["probability"].numpy().ravel() for n in (4096, 4095)]
        for threshold in np.unique(np.concatenate(values)):
            moved = abs(int((values[0] > threshold).sum()) - int((values[1] > threshold).sum()))
            if moved > told:
                told, worst = moved, (row, float(threshold))
    assert told > 1, "no row tells of its place: this test shows nothing on this machine"
    row, threshold = worst
    evaluation = {"slices": [], "dp": {"epsilon": 1.0, "delta": 1e-5, "decision_threshold": threshold}}
    rows = rows_of(dp_config(tmp_path, evaluation=evaluation), models["Rounding"])
    files = [write(tmp_path / f"{n}.gz", [row] * n) for n in (4096, 4095)]
    found = [[pair["@predicted"] for _, pair in predict(rows, path)] for path in files]
    assert [len(predicted) for predicted in found] == [4096, 4095]
    assert len(set(found[0] + found[1])) == 1


def test_a_row_without_a_number_moves_no_other(tmp_path: Path, models: dict[str, str]) -> None:
    raw = [{**row, "size": size} for row, size in zip(RAW, [9.0, float("nan"), 8.0, float("inf")], strict=False)]
    found = predict(rows_of(dp_config(tmp_path), models["Model"]), write(tmp_path / "rows.gz", raw))
    assert [row["@predicted"] for _, row in found] == [1, 0, 1, 1]


def test_a_model_that_counts_its_rows_is_refused_before_any_budget_is_reserved(
    tmp_path: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor.path_utils, "serving_model_dir", lambda uri: models["Counting"])
    monkeypatch.setattr(executor, "evaluate_charged", lambda *_, **__: pytest.fail("budget was reserved"))
    model = artifact(standard_artifacts.Model, tmp_path / "model")
    examples = artifact(standard_artifacts.Examples, tmp_path / "examples")
    bind_to_data([examples], DIGEST)
    properties = {"config": dp_config(tmp_path).model_dump_json(by_alias=True), "data_digest": DIGEST}
    with pytest.raises(BadInputError, match="does more than to read: AssignAddVariableOp"):
        executor.Executor().Do({"model": [model], "examples": [examples]}, {}, properties)


@dataclasses.dataclass
class Project:
    """A registered dataset with a budget for its eval split."""

    config: PipelineConfig
    ledger: Ledger
    calls: int = 0

    def count(self, release: Release) -> dict[str, Noisy]:
        """Answers of an empty split; looks at the ledger while it counts."""
        self.calls += 1
        assert self.entry.state is State.STARTED
        return release.noised({})

    @property
    def entry(self) -> Entry:
        return self.ledger.entries("things")[-1]

    def evaluate(self, **changes: Any) -> DpEvaluation:
        given: dict[str, Any] = {"data_digest": DIGEST, "run_id": "run-1", "count": self.count, **changes}
        return evaluate_charged(self.config, domains=slice_domains(self.config), node="DpEvaluator", **given)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    config = dp_config(tmp_path)
    ledger = Ledger.open(config.ledger, create=True)
    ledger.register(make_registration("things"), epsilon=3.0, delta=1e-5)
    ledger.apply_policy(Policy(dataset="things", epsilon=3.0, delta=1e-5, unit="row", eval_epsilon=1.2))
    return Project(config, ledger)


def test_a_copy_of_the_ledger_does_not_undo_an_evaluation(project: Project, tmp_path: Path) -> None:
    config = project.config
    config.workspace.mkdir(exist_ok=True)
    pins.note(project.ledger, [config.workspace, config.dataset.path])
    shutil.copytree(tmp_path / "ledger", tmp_path / "copy")
    project.evaluate()
    project.config = config.model_copy(update={"ledger": f"sqlite:///{tmp_path}/copy/ledger.db"})
    with pytest.raises(BudgetRefusedError, match="was rolled back"):
        project.evaluate(run_id="run-2")
    assert project.calls == 1


def test_the_eval_split_pays(project: Project) -> None:
    found = project.evaluate()
    entry = project.entry
    assert (entry.split, entry.purpose, entry.state, entry.run_id) == ("eval", "evaluate", State.COMMITTED, "run-1")
    assert entry.event == found.event and entry.epsilon == pytest.approx(1.0, abs=1e-3)
    assert (found.ledger_entry, found.budget) == (entry.id, "things/eval/row")
    assert found.composition is not None and found.composition.journal_seq is not None
    assert found.composition.epsilon_after == pytest.approx(entry.epsilon)
    spent = {status.split: status.spent_epsilon for status in project.ledger.status("things")}
    assert spent == {"train": 0.0, "eval": pytest.approx(1.0, abs=1e-3)}


@pytest.mark.parametrize("changes", [{}, {"data_digest": "e" * 64}], ids=["budget", "data"])
def test_what_is_refused_reads_nothing(project: Project, changes: dict[str, Any]) -> None:
    if not changes:
        project.evaluate(run_id="earlier")
    before = project.calls
    with pytest.raises(BudgetRefusedError):
        project.evaluate(**changes)
    assert project.calls == before


def test_a_crash_while_counting_stays_charged(project: Project) -> None:
    def crash(release: Release) -> dict[str, Noisy]:
        raise ValueError("the worker died")

    with pytest.raises(ValueError, match="died"):
        project.evaluate(count=crash)
    assert project.entry.state is State.STARTED
    with pytest.raises(BudgetRefusedError):  # a retry is a release of its own
        project.evaluate()


def test_another_unit_than_the_registered_one_is_refused(tmp_path: Path) -> None:
    config = dp_config(tmp_path, dataset={"privacy_unit": {"key": "person"}})
    with pytest.raises(BudgetRefusedError, match="registered with privacy unit 'row', the config has 'person'"):
        release_for(config)


def test_a_slice_without_a_public_domain_is_refused(tmp_path: Path) -> None:
    evaluation = {"slices": ["size"], "dp": {"epsilon": 1.0, "delta": 1e-5}}
    with pytest.raises(BadInputError, match=r"evaluation\.slices: 'size' has no public domain"):
        release_for(dp_config(tmp_path, evaluation=evaluation))


def artifact(kind: Any, uri: Path, **numbers: int) -> Any:
    uri.mkdir(parents=True, exist_ok=True)
    made = kind()
    made.uri = str(uri)
    made.id = numbers.pop("id", 1)
    for name, value in numbers.items():
        made.set_int_custom_property(name, value)
    return made


def test_the_executor_writes_what_the_gate_reads(
    project: Project, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = artifact(standard_artifacts.Model, tmp_path / "model", id=7)
    monkeypatch.setattr(executor.path_utils, "serving_model_dir", lambda uri: models["Model"])
    examples = artifact(standard_artifacts.Examples, tmp_path / "examples")
    examples.split_names = '["train", "eval"]'
    for split in ("train", "eval"):
        (tmp_path / "examples" / f"Split-{split}").mkdir()
    write(tmp_path / "examples" / "Split-train" / "rows.gz", [{"colour": "red"}])  # would not parse
    write(tmp_path / "examples" / "Split-eval" / "rows.gz", RAW * 100)
    bind_to_data([examples], DIGEST)
    evaluation = artifact(standard_artifacts.ModelEvaluation, tmp_path / "evaluation")
    made = executor.Executor()
    context = SimpleNamespace(
        pipeline_run_id="run-1",
        pipeline_node=SimpleNamespace(node_info=SimpleNamespace(id="DpEvaluator")),
        get_tmp_path=lambda: str(tmp_path / "tmp"),
    )
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(made, "_context", context)
    monkeypatch.setattr(made, "_get_tmp_dir", context.get_tmp_path)
    monkeypatch.setattr(made, "_make_beam_pipeline", beam.Pipeline)
    properties = {
        "config": project.config.model_dump_json(by_alias=True),
        "domains": json.dumps(slice_domains(project.config)),
        "data_digest": DIGEST,
    }
    made.Do({"model": [model], "examples": [examples]}, {"evaluation": [evaluation]}, properties)
    found = read_evaluation(Path(evaluation.uri))
    assert found is not None and found.ledger_entry == project.entry.id
    assert found.overall.metrics["accuracy"].value == pytest.approx(0.75, abs=0.1)
    assert [part.name for part in found.slices] == ["overall", "colour=red", "colour=green", "colour=blue"]
    assert evaluation.get_int_custom_property(MODEL_ID) == 7
    assert not list((tmp_path / "tmp").iterdir())

    def reasons(least: float) -> list[str]:
        thresholds = json.dumps({"accuracy": least})
        return gate._reasons({"model": [model], "evaluation": [evaluation]}, {"thresholds": thresholds})

    low, value = found.overall.metrics["accuracy"].low, found.overall.metrics["accuracy"].value
    assert value is not None and reasons(low - 1e-6) == []
    assert "with noise" in reasons((low + value) / 2)[0]
    model.id = 8
    assert reasons(0.0) == ["the DP evaluation is one of another model"]


def test_an_exact_evaluation_is_none(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path) is None
