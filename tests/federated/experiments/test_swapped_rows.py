"""An experiment trains on the rows that were digested: a swap between two readings reaches nothing."""

import pytest

from federated.experiments import run as running
from federated.experiments.charging import register as registering
from federated.experiments.charging.register import register_clients
from federated.experiments.config import load_experiment
from federated.experiments.run import run_point
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.ledger import Ledger
from tests.federated.experiments import logistic
from tests.federated.experiments.experiment_files import PRIVACY, load_bound, write_experiment, write_people
from tests.federated.experiments.test_experiment_runs import register
from tests.federated.experiments.test_stale_results import LEARNS, edit_schema, flip_labels


@pytest.fixture
def people(tmp_path):
    write_people(tmp_path)
    return tmp_path


def swapped_while(monkeypatch, module, name, folder):
    """Flips the labels for the time of one function."""
    real = getattr(module, name)

    def wrapped(*given, **more):
        for split in ("train", "eval"):
            flip_labels(folder, split)
        try:
            return real(*given, **more)
        finally:
            for split in ("train", "eval"):
                flip_labels(folder, split)

    monkeypatch.setattr(module, name, wrapped)


@pytest.mark.parametrize("name", ["load_clients", "look_through"])
def test_rows_that_are_swapped_while_they_are_read_are_not_trained_on(people, monkeypatch, name):
    honest = run_point(load_bound(write_experiment(people, **LEARNS))[0], build=logistic.build)
    swapped_while(monkeypatch, running, name, people)
    path = write_experiment(people, name="again.yaml", **LEARNS, **{f"folder: {people}/runs": f"folder: {people}/2"})
    attacked = run_point(load_bound(path)[0], build=logistic.build)
    assert (attacked["accuracy"], attacked["loss"]) == (honest["accuracy"], honest["loss"])


@pytest.mark.slow  # a private run measures its noise first
def test_a_charged_run_has_the_registered_rows_and_leaves_no_copy(people, monkeypatch):
    path = write_experiment(people, PRIVACY)
    ledger = register(people, load_experiment(path)[1][0])
    read = []
    real = running.load_clients

    def loaded(*given, **more):
        read.append(real(*given, **more).labels.mean())
        return real(*given, **more)

    monkeypatch.setattr(running, "load_clients", loaded)
    swapped_while(monkeypatch, running, "load_clients", people)
    summary = run_point(load_bound(path)[0], build=logistic.build)
    assert len(ledger.entries("people")) == 1
    text = (people / "people/span-1/train/people.csv").read_text()
    assert read[0] == pytest.approx(text.count(",yes\n") / (text.count("\n") - 1))
    assert str(people / "people/span-1/train/people.csv") in summary["clients"]["client_is"]
    assert [found.name for found in (people / "runs/.reading").iterdir()] == ["lock"]


def test_a_registration_counts_the_clients_that_it_digests(people, monkeypatch):
    file = people / "people/span-1/train/people.csv"
    whole = file.read_text()
    real = registering.read_contents

    def counted(**given):
        file.write_text("\n".join(whole.splitlines()[:9]) + "\n")
        try:
            return real(**given)
        finally:
            file.write_text(whole)

    monkeypatch.setattr(registering, "read_contents", counted)
    config = load_experiment(write_experiment(people, PRIVACY))[0]
    assert register_clients(config, epsilon=10.0, delta=1e-3).splits["train"].units == 60


def test_a_schema_that_is_swapped_after_it_was_digested_is_not_used(people, monkeypatch):
    (point, *_) = load_bound(write_experiment(people))
    real, plans = running.feature_plan, []

    def planned(data):
        edit_schema(people)
        plans.append(real(data))
        return plans[-1]

    monkeypatch.setattr(running, "feature_plan", planned)
    run_point(point, build=logistic.build)
    assert {(column.minimum, column.maximum) for column in plans[0].columns if column.name == "x"} == {(-1.0, 1.0)}


def test_rows_that_change_before_the_copy_are_refused_for_nothing(people):
    path = write_experiment(people, PRIVACY)
    register(people, load_experiment(path)[1][0])
    point = load_bound(path)[0]
    flip_labels(people)
    with pytest.raises(BadInputError, match="the data changed while the command ran"):
        run_point(point, build=logistic.build)
    assert Ledger.open(f"sqlite:///{people}/ledger.db").entries("people") == []
