"""The real engine under an experiment: it learns, resumes to the same weights, and predicts as Keras does."""

import numpy as np
import pytest

from federated.experiments.compare import compare
from federated.experiments.engines import build, logits, perceptron
from federated.experiments.run import run_point
from federated.experiments.run_folder import RunFolder
from privacy_pipeline.reports.render.federated_page import notes
from tests.federated.experiments.experiment_files import PRIVACY, write_people
from tests.federated.experiments.test_experiment_runs import Killed, kill_at, points, register


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_people(folder)
    return folder


def test_predictions_are_those_of_keras():
    from federated.contract import RoundState

    model = perceptron(width=3, hidden_units=[5, 4], seed=7)
    features = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    state = RoundState(round_number=0, weights=tuple(np.array(w) for w in model.trainable_weights))
    np.testing.assert_allclose(logits(state, {"features": features}), model(features).numpy(), atol=1e-6)


def test_a_resumed_run_ends_with_the_same_weights(people):
    changes = {"every: 2": "every: 1", "rounds: 6": "model: {hidden_units: []}\nrounds: 20"}
    straight = points(people, **changes)[0]
    summary = run_point(straight, build=build)
    assert summary["accuracy"] > 0.75
    resumed = points(people, **changes, **{f"folder: {people}/runs": f"folder: {people}/two"})[0]
    with pytest.raises(Killed):
        run_point(resumed, build=build, report=kill_at(13))
    run_point(resumed, build=build)
    for left, right in zip(
        RunFolder(straight.folder).restore().weights, RunFolder(resumed.folder).restore().weights, strict=True
    ):
        np.testing.assert_array_equal(left, right)


@pytest.mark.slow
def test_a_private_run_of_the_real_engine(people):
    point = points(people, PRIVACY, **{"rounds: 6": "rounds: 3"})[0]
    register(people, point)
    summary = run_point(point, build=build)
    assert summary["rounds"] == 3
    assert summary["unit"] == "who"
    rounds = RunFolder(point.folder).rounds()
    assert all(set(line) <= {"round", "bytes_up", "bytes_down", "eval", "epsilon"} for line in rounds)


def test_clients_of_the_eval_split_fine_tune_the_final_model(people):
    changes = {"every: 2": "every: 6, personalize: 5", "seeds: [1, 2]": "seeds: [3]"}
    (point,) = points(people, **changes, **{f"folder: {people}/runs": f"folder: {people}/own"})
    before = run_point(points(people, **{f"folder: {people}/runs": f"folder: {people}/none"})[0], build=build)
    own = run_point(point, build=build)["personalized"]
    assert "personalized" not in before
    assert own["clients"] == 4 and 0 <= own["worse_off"] <= 1  # one of the five has a single row
    gain = own["after"]["accuracy"]["mean"] - own["before"]["accuracy"]["mean"]
    assert gain == pytest.approx(own["gain"]["mean"], abs=1e-6)
    assert own["after"]["loss"]["mean"] != own["before"]["loss"]["mean"]  # the clients did train
    (row,), _ = compare([point])
    assert row.personalized is not None and row.personalized.after == own["after"]["accuracy"]["mean"]
    assert any("4 clients of the eval split alone" in note for note in notes([row]))


@pytest.mark.slow
def test_both_engines_make_the_same_rounds(people):
    changes = {"rounds: 6": "model: {hidden_units: []}\nrounds: 3", "seeds: [1, 2]": "seeds: [5]"}
    found = []
    for engine in ("fast", "tff"):
        point = points(people, **changes, **{"algorithm:\n": f"algorithm:\n  engine: {engine}\n"})[0]
        run_point(point, build=build)
        found.append(RunFolder(point.folder).restore().weights)
    for left, right in zip(*found, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
