"""The real engine under an experiment: it learns, resumes to the same weights, and predicts as Keras does."""

import numpy as np
import pytest

from federated.experiments.engines import build, logits, perceptron
from federated.experiments.run import run_point
from federated.experiments.run_folder import RunFolder
from tests.federated.experiment_files import PRIVACY, write_people
from tests.federated.test_experiment_runs import Killed, kill_at, points, register


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


def test_a_private_run_of_the_real_engine(people):
    point = points(people, PRIVACY, **{"rounds: 6": "rounds: 3"})[0]
    register(people, point)
    summary = run_point(point, build=build)
    assert summary["rounds"] == 3
    assert summary["unit"] == "who"
    rounds = RunFolder(point.folder).rounds()
    assert all(set(line) <= {"round", "bytes_up", "bytes_down", "eval", "epsilon"} for line in rounds)
