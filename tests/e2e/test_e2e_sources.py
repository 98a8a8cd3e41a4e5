"""Partial runs, inferred schemas, and data of the user's own: a single CSV, and TFRecord spans."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Background, Project, Shared

_TO_TFRECORD = """
import csv, sys
import tensorflow as tf

def feature(text):
    try:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(text)]))
    except ValueError:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))

for source, target in zip(sys.argv[1::2], sys.argv[2::2]):
    with tf.io.TFRecordWriter(target, "GZIP") as writer:
        for row in csv.DictReader(open(source)):
            features = tf.train.Features(feature={k: feature(v) for k, v in row.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())
"""


@pytest.fixture(scope="module")
def started(
    shared: Shared,
    new_project: Callable[[], Project],
    run_python: Callable[..., str],
    in_background: Callable[..., Background],
) -> Background:
    def infer() -> Any:
        project = new_project()
        project.edit("configs/plain.yaml", "schema: configs/schemas/adult.pbtxt", "schema: infer")
        return project, project.cli("run", "configs/plain.yaml")

    def own_csv() -> Any:
        project = new_project()
        (project.root / "people.csv").write_text(project.train.read_text())
        made = project.done("init", "people.csv", "--label", "income", "--json").json
        options = ("--set", "training.epochs=1", "--set", "evaluation.thresholds.auc.min=0")
        return project, made, project.cli("run", made["config"], *options)

    def tfrecord() -> Any:
        project = new_project()
        pairs = []
        for span in (1, 2):
            for source in (project.train, project.eval):
                folder = project.root / f"data/records/span-{span}/{source.parent.name}"
                folder.mkdir(parents=True)
                pairs += [str(source), str(folder / "part-0.gz")]
        run_python(_TO_TFRECORD, *pairs)
        project.edit("configs/plain.yaml", "path: data/adult", "path: data/records\n  format: tfrecord")
        return project, project.cli("run", "configs/plain.yaml")

    def partial(*options: str) -> Callable[[], Any]:
        return lambda: shared.project.cli("run", "configs/plain.yaml", *options, "--json")

    return in_background(
        {
            "infer": infer,
            "own_csv": own_csv,
            "tfrecord": tfrecord,
            "first": lambda: new_project().cli("run", "configs/plain.yaml", "--to", "ExampleGen", "--json"),
            "to": partial("--to", "Transform"),
            "from": partial("--from", "Evaluator"),
        },
        later=("infer", "tfrecord"),
    )


@pytest.mark.slow
def test_a_schema_may_be_inferred_for_a_plain_run(started: Background) -> None:
    project, ended = started["infer"].result()
    assert ended.code == 0, ended.text
    (run,) = project.runs()
    record = project.done("show", run["run_id"], "--json").json["summary"]["record"]
    covered = {access["what"]: access["covered"] for access in record["data_accesses"]}
    assert not covered["schema and vocabularies"]
    assert len(project.pushed()) == 1


@pytest.mark.slow
def test_a_single_csv_runs_after_init_split_by_hash(started: Background) -> None:
    project, made, ended = started["own_csv"].result()
    assert made == {"config": "configs/people.yaml", "schema": "configs/schemas/people.pbtxt", "notes": []}
    assert ended.code == 0, ended.text
    (run,) = project.runs()
    detail = project.run_json(run["run_id"])["nodes"]["ExampleGen"]["detail"]
    rows = {part.split()[0]: int(part.split()[1].replace(",", "")) for part in detail.split(", ")}
    assert sum(rows.values()) == 1_200
    assert 150 < rows["eval"] < 330
    assert len(project.pushed("people")) == 1


@pytest.mark.slow
def test_tfrecord_spans_run_and_the_latest_span_is_taken(started: Background) -> None:
    project, ended = started["tfrecord"].result()
    assert ended.code == 0, ended.text
    (run,) = project.runs()
    state = project.run_json(run["run_id"])
    assert "train 1,200 rows" in state["nodes"]["ExampleGen"]["detail"]
    assert project.done("check", "configs/plain.yaml", "--json").json["span"] == 2


@pytest.mark.slow
def test_tfrecord_and_csv_of_the_same_rows_train_the_same_model(started: Background, shared: Shared) -> None:
    project, _ = started["tfrecord"].result()
    (run,) = project.runs()
    slices = shared.plain.json["summary"]["slices"]
    overall = next(part["metrics"] for part in slices if part["name"] == "overall")
    assert run["accuracy"] == pytest.approx(overall["accuracy"], abs=0.1)


def test_the_first_run_of_a_workspace_may_stop_at_a_node(started: Background) -> None:
    ended = started["first"].result()
    assert ended.code == 0, ended.text
    nodes = {name: node["status"] for name, node in ended.json["run"]["nodes"].items()}
    assert nodes.pop("ExampleGen") == "done" and set(nodes.values()) == {"skipped"}


@pytest.mark.slow
def test_a_run_to_a_node_stops_there(started: Background) -> None:
    ended = started["to"].result()
    assert ended.code == 0, ended.text
    nodes = {name: node["status"] for name, node in ended.json["run"]["nodes"].items()}
    assert {nodes[name] for name in ("ExampleGen", "SchemaGen", "Transform")} <= {"done", "cached"}
    assert {nodes[name] for name in ("Trainer", "Evaluator", "PrivacyGate", "RunMetrics", "Pusher")} == {"skipped"}
    assert ended.json["summary"] is None


@pytest.mark.slow
def test_a_run_from_a_node_takes_the_model_that_is_there(started: Background, shared: Shared) -> None:
    ended = started["from"].result()
    assert ended.code == 0, ended.text
    nodes = {name: node["status"] for name, node in ended.json["run"]["nodes"].items()}
    assert nodes["Trainer"] in ("skipped", "cached")
    assert nodes["PrivacyGate"] == "done"
    assert ended.json["summary"]["training_run"] == shared.plain_id
    assert ended.json["summary"]["slices"] == shared.plain.json["summary"]["slices"]


@pytest.mark.slow
def test_a_dp_run_waits_until_the_schema_is_reviewed(project: Project) -> None:
    (project.root / "people.csv").write_text(project.train.read_text())
    made = project.done("init", "people.csv", "--label", "income", "--json").json
    project.edit(made["config"], "backend: plain", "backend: dp_sgd")
    text = (project.root / made["config"]).read_text()
    block = ("dp_sgd:", "  target_epsilon:", "  delta:", "  clipping_norm:")
    for key in block:
        text = text.replace(f"  # {key}", f"  {key}")
    (project.root / made["config"]).write_text(text)
    for command in ("check", "run"):
        ended = project.cli(command, made["config"])
        assert ended.code == 2, ended.text
        assert "people.pbtxt: features not reviewed yet: age" in ended.text
        assert "unreviewed" in ended.text
    assert project.runs() == []
    assert project.entries() == []
    # The plain check of the same files passes: the tag asks for a review, it does not break the schema.
    project.edit(made["config"], "backend: dp_sgd", "backend: plain")
    plain = (project.root / made["config"]).read_text()
    for key in block:
        plain = plain.replace(f"  {key}", f"  # {key}")
    (project.root / made["config"]).write_text(plain)
    project.done("check", made["config"])


def test_init_does_not_overwrite(project: Project) -> None:
    (project.root / "people.csv").write_text(project.train.read_text())
    made = project.done("init", "people.csv", "--label", "income", "--json").json
    before = (project.root / made["config"]).read_text()
    ended = project.cli("init", "people.csv", "--label", "income")
    assert ended.code == 2
    assert "exists already" in ended.text
    assert (project.root / made["config"]).read_text() == before
