"""A result is used again only where data, schema, code and packages are those that it came from."""

import json
import os
import shutil

import pytest

from federated.experiments import binding
from federated.experiments.binding import bound, told_again, told_begun
from federated.experiments.compare import compare, not_of_today, setting_name
from federated.experiments.config import load_experiment, point_from_json, point_to_json
from federated.experiments.run import run_point
from federated.experiments.sweep import begun
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from tests.federated.experiments import logistic
from tests.federated.experiments.experiment_files import PRIVACY, load_bound, write_experiment, write_people
from tests.federated.experiments.test_experiment_runs import Killed, kill_at, register

LEARNS = {"rounds: 6": "rounds: 40", "seeds: [1, 2]": "seeds: [1]"}


@pytest.fixture
def people(tmp_path):
    write_people(tmp_path)
    return tmp_path


def flip_labels(folder, split="train"):
    """Flips the labels in place: as many bytes, and the same time of change."""
    path = folder / f"people/span-1/{split}/people.csv"
    before = path.stat()
    text = path.read_text().replace(",yes\n", ",TMP\n").replace(",no\n", ",yes\n").replace(",TMP\n", ",no\n")
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def edit_schema(folder):
    path = folder / "people.pbtxt"
    path.write_text(path.read_text().replace("min: -1 max: 1", "min: -100 max: 100"))


def trained(path):
    (point,) = load_bound(path)
    return point, run_point(point, build=logistic.build)


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_flipped_labels_are_trained_on_and_the_old_result_stays(people, private):
    path = write_experiment(people, *([PRIVACY.replace("1.0,", "0.6,")] if private else []), **LEARNS)
    if private:
        register(people, load_experiment(path)[1][0])
    first, right = trained(path)
    kept = (first.folder / "summary.json").read_bytes()
    flip_labels(people)
    if private:  # other data than was registered: refused, and never the old epsilon
        with pytest.raises(BudgetRefusedError):
            trained(path)
        return
    (again,) = load_bound(path)
    (line,) = told_again([again])
    assert line == f"{first.folder}: not used again, since the data changed since; it stays there"
    wrong = run_point(again, build=logistic.build)
    assert right["accuracy"] > 0.85 and wrong["accuracy"] < 0.15
    assert again.folder != first.folder and (first.folder / "summary.json").read_bytes() == kept
    assert told_again([again]) == []
    flip_labels(people)
    assert trained(path) == (first, json.loads(kept))


def changed_code(folder, monkeypatch):
    monkeypatch.setattr(binding, "hash_of_framework", lambda: "0" * 64)


def changed_packages(folder, monkeypatch):
    monkeypatch.setattr(binding, "environment_hash", lambda: "0" * 64)


CHANGES = {
    "the data": lambda folder, _: flip_labels(folder),
    "the data of the eval split": lambda folder, _: flip_labels(folder, "eval"),
    "a row more": lambda folder, _: append(folder),
    "the schema": lambda folder, _: edit_schema(folder),
    "the code": changed_code,
    "the installed packages": changed_packages,
}


def append(folder):
    with (folder / "people/span-1/eval/people.csv").open("a") as stream:
        stream.write("9998,0.1,0.1,1,no\n")


@pytest.mark.parametrize("what", CHANGES)
def test_each_kind_of_input_names_the_run(people, monkeypatch, what):
    path = write_experiment(people)
    before = load_bound(path)[0]
    run_point(before, build=logistic.build)
    CHANGES[what](people, monkeypatch)
    after = load_bound(path)[0]
    assert after.name != before.name and after.folder != before.folder
    said = {"the data of the eval split": "the data", "a row more": "the data"}.get(what, what)
    assert told_again([after])[0].endswith(f"since {said} changed since; it stays there")
    assert run_point(after, build=logistic.build)["run"] == after.name


def test_what_did_not_change_is_used_again(people):
    path = write_experiment(people)
    first = load_bound(path)[0]
    run_point(first, build=logistic.build)
    data = people / "people/span-1/train/people.csv"
    data.touch()  # another time, the same content
    (people / "people/span-1/eval/people.csv").rename(people / "people/span-1/eval/other.csv")
    again = load_bound(path)[0]
    assert again == first and told_again([again]) == []
    assert point_from_json(point_to_json(again)) == again


def test_a_checkpoint_of_other_data_is_not_gone_on_with(people):
    path = write_experiment(people, **LEARNS)
    (point,) = load_bound(path)
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(20))
    flip_labels(people)
    (again,) = load_bound(path)
    assert begun([again]) == []
    assert "begun, and not gone on with, since the data changed since" in told_begun([again])[0]
    assert run_point(again, build=logistic.build)["accuracy"] < 0.15
    assert begun([point]) == [point]


def test_data_that_changes_while_the_command_runs_is_refused_and_costs_nothing(people):
    path = write_experiment(people, PRIVACY)
    ledger = register(people, load_experiment(path)[1][0])
    point = load_bound(path)[0]

    def build(*arguments, **more):
        raise AssertionError("an engine was made of it")

    edit_schema(people)
    with pytest.raises(BadInputError, match="the schema changed while the command ran"):
        run_point(point, build=build)
    assert ledger.entries("people") == []  # before anything is reserved


def test_a_run_of_an_older_version_is_not_used_again_and_stays_readable(people):
    path = write_experiment(people, **LEARNS)
    (plain,) = load_experiment(path)[1]
    plain.folder.mkdir(parents=True)
    (plain.folder / "point.json").write_text(point_to_json(plain))
    (plain.folder / "summary.json").write_text('{"accuracy": 0.5}')
    (point,) = load_bound(path)
    assert "older version" in told_again([point])[0]
    assert run_point(point, build=logistic.build)["accuracy"] > 0.85
    assert json.loads((plain.folder / "summary.json").read_text()) == {"accuracy": 0.5}


def test_a_folder_that_was_copied_under_another_name_is_refused(people):
    path = write_experiment(people, **LEARNS)
    first, _ = trained(path)
    flip_labels(people)
    (again,) = load_bound(path)
    shutil.copytree(first.folder, again.folder)
    with pytest.raises(BadInputError, match="holds a run of other content"):
        run_point(again, build=logistic.build)


def test_a_comparison_shows_no_result_of_other_data(people, monkeypatch):
    path = write_experiment(people, **LEARNS)
    trained(path)
    with monkeypatch.context() as patched:
        changed_code(people, patched)
        points = load_bound(path)
        rows, missing = compare(points)
        assert rows[0].accuracy > 0.85 and missing == []
        assert "shown, though the code changed since" in not_of_today(points)[0]
    flip_labels(people)
    points = load_bound(path)
    with pytest.raises(BadInputError, match="no run of the experiment is finished"):
        compare(points)
    assert "not shown, since the data changed since" in not_of_today(points)[0]


def test_names_hold_covered_digests_alone(people):
    """Whoever knows all rows but one can try values of it until a plain digest is the same."""
    path = write_experiment(people)
    (point, _) = load_bound(path)
    source = binding.source_of(point.config.data)
    assert point.inputs.data.startswith("hmac-sha256:")
    run_point(point, build=logistic.build)
    plain = source.plain_digest()
    for file in point.folder.rglob("*"):
        assert plain not in str(file) and (file.is_dir() or plain.encode() not in file.read_bytes())
    (people / "runs/digests.key").unlink()
    assert load_bound(path)[0].name != point.name  # under another secret: not a function of the data alone


SGD = {"name": "fedavg", "server_optimizer": {"name": "sgd", "learning_rate": 0.1}}


@pytest.mark.parametrize(
    "other",
    [
        {**SGD, "server_optimizer": {"name": "adam", "learning_rate": 0.1}},
        {**SGD, "server_optimizer": {"name": "sgd", "learning_rate": 0.2}},
        {**SGD, "client_optimizer": {"schedule": {"kind": "linear", "rounds": 3}}},
        {**SGD, "server_optimizer": {"name": "sgd", "learning_rate": "0.1"}},
        {**SGD, "hidden": [1, [2, 3]]},
        {**SGD, "hidden": None},
        {**SGD, "hidden": "none"},
    ],
)
def test_names_of_rows_are_of_the_whole_row(other):
    names = {setting_name({"algorithm": row, "rounds": 3}) for row in (SGD, other)}
    assert len(names) == 2


def test_names_tell_keys_with_one_ending_apart():
    key = "algorithm.{}_optimizer.learning_rate"
    name = setting_name({key.format("client"): 0.1, key.format("server"): 1.0, "rounds": 3})
    assert name == "client_optimizer.learning_rate 0.1, server_optimizer.learning_rate 1.0, rounds 3"
    assert setting_name({"a": "1"}) != setting_name({"a": 1}) and setting_name({"a": None}) != setting_name(
        {"a": "none"}
    )
    assert setting_name({}) == "as written"


def test_binding_reads_the_data_of_a_grid_once(people, monkeypatch):
    path = write_experiment(people, "sweep: {clients_per_round: [5, 6, 7, 8]}\n")
    seen = []
    real = binding.inputs_of
    monkeypatch.setattr(binding, "inputs_of", lambda *args: seen.append(1) or real(*args))
    points = bound(load_experiment(path)[1])
    assert len(points) == len({point.name for point in points}) == 8 and len(seen) == 1
    assert bound(points) == points


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_bad_cell_costs_nothing_in_either_split(people, split):
    path = write_experiment(people, PRIVACY)
    file = people / f"people/span-1/{split}/people.csv"
    lines = file.read_text().splitlines()
    lines[4] = lines[4].rpartition(",")[0] + ",maybe"
    file.write_text("\n".join(lines) + "\n")
    ledger = register(people, load_experiment(path)[1][0])
    told = rf"{split}/people.csv:5: column 'y': 'maybe' is not in the schema's domain"
    for _ in range(3):
        with pytest.raises(BadInputError, match=told):  # before anything is reserved
            run_point(load_bound(path)[0], build=logistic.build)
    assert ledger.entries("people") == []
    assert Ledger.open(f"sqlite:///{people}/ledger.db").status()[0].spent_epsilon == 0


def test_personalization_of_clients_with_one_row_costs_nothing(people):
    path = write_experiment(people, PRIVACY, **{"every: 2": "every: 2, personalize: 2"})
    file = people / "people/span-1/eval/people.csv"
    head, *rows = file.read_text().splitlines()
    firsts = {row.split(",")[0]: row for row in rows}
    file.write_text("\n".join([head, *firsts.values()]) + "\n")
    ledger = register(people, load_experiment(path)[1][0])
    with pytest.raises(BadInputError, match="has two rows"):
        run_point(load_bound(path)[0], build=logistic.build)
    assert [entry.state for entry in ledger.entries("people")] == [State.EXPIRED]


def test_a_full_disk_is_found_before_the_charge(people, monkeypatch):
    from privacy_pipeline.files import atomic

    path = write_experiment(people, PRIVACY)
    ledger = register(people, load_experiment(path)[1][0])
    full = shutil._ntuple_diskusage(10, 9, 1 << 20)  # room for the copy of the rows alone
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: full)
    with pytest.raises(BadInputError, match=r"MB are to be written, and 1\.0 MB are free"):
        run_point(load_bound(path)[0], build=logistic.build)
    assert [entry.state for entry in ledger.entries("people")] == [State.EXPIRED]
