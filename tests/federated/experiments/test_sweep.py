"""Many runs: one that fails stops nothing, what was begun is found again, every run is tracked."""

import os
import signal

import pytest

from federated.experiments import compare as comparison
from federated.experiments import engines, sweep
from federated.experiments.run_folder import RunFolder
from federated.experiments.tracking import track, tracked
from privacy_pipeline.errors import BadInputError
from tests.federated.experiments import logistic
from tests.federated.experiments.experiment_files import load_bound, write_experiment, write_people

GRID = "sweep: {clients_per_round: [5, 10, 61]}\n"


@pytest.fixture
def points(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "build", logistic.build)
    write_people(tmp_path)
    return load_bound(write_experiment(tmp_path, GRID))


def test_one_failure_stops_nothing_and_all_is_told(points):
    seen = []
    found = sweep.run_points(points, processes=1, watch=seen.append)
    assert [status.state for status in found] == ["done"] * 4 + ["failed"] * 2
    assert "cohort of 61" in found[-1].error
    assert found[-1].exit_code == 2
    assert [status.state for status in seen[:6]] == ["waiting"] * 6
    assert [s.rounds for s in seen if s.point == points[0] and s.state == "running"] == [0, 1, 2, 3, 4, 5, 6]
    rows, missing = comparison.compare(points)
    assert [row.name for row in rows] == ["clients_per_round 5", "clients_per_round 10"]
    assert [row.seeds for row in rows] == [(1, 2), (1, 2)]
    assert missing == list(points[4:])
    means = [sum(s.summary["accuracy"] for s in found[i : i + 2]) / 2 for i in (0, 2)]
    assert [row.accuracy for row in rows] == pytest.approx(means)
    assert rows[0].curve.rounds == (2, 4, 6)
    assert rows[1].curve.bytes_sent[-1] == 2 * 6 * 10 * 24


def test_what_was_begun_is_resumed(points):
    def die(status):
        if status.rounds == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run_points(points[:2], processes=1, watch=die)
    assert sweep.begun(points) == [points[0]]
    assert RunFolder(points[0].folder).rounds_done() == 3
    sweep.run_points(sweep.begun(points), processes=1, watch=lambda status: None)
    assert sweep.begun(points) == []
    assert RunFolder(points[0].folder).rounds_done() == 6


def test_runs_are_in_ml_metadata_once_and_in_tensorboard(points):
    (status,) = sweep.run_points(points[:1], processes=1, watch=lambda status: None)
    track(points[0], status.summary)
    track(points[0], status.summary)
    (found,) = tracked(points[0].config.folder)
    assert found["accuracy"] == pytest.approx(status.summary["accuracy"], abs=1e-5)  # SQLite gets six digits
    assert (found["experiment"], found["seed"], found["rounds"]) == ("small", 1, 6)
    assert "epsilon" not in found
    assert list((points[0].folder / "tensorboard").glob("events.*"))


def test_nothing_to_compare_is_an_error(points):
    with pytest.raises(BadInputError, match="no run of the experiment is finished"):
        comparison.compare(points)


@pytest.mark.slow
def test_processes_run_side_by_side_and_a_dead_one_is_an_error(tmp_path):
    write_people(tmp_path)
    points = load_bound(write_experiment(tmp_path))
    found = sweep.run_points(points, processes=2, watch=lambda status: None)
    assert [status.state for status in found] == ["done", "done"]

    def kill(status):
        if status.state == "running" and status.rounds:
            for child in sweep.multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    longer = load_bound(write_experiment(tmp_path, **{"rounds: 6": "rounds: 100000"}))
    found = sweep.run_points(longer, processes=2, watch=kill)
    assert {status.state for status in found} == {"failed"}
    assert {status.error for status in found} == {"its process died"}
    assert sweep.multiprocessing.active_children() == []
