"""A private experiment that is killed at any moment ends under one charge, with the numbers of one that was not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from federated.driver.rounds import Rounds
from federated.experiments import binding as experiment_binding
from federated.experiments import private_run, run
from federated.experiments.config import Point
from federated.experiments.run import run_point
from federated.experiments.run_folder import RunFolder
from privacy_pipeline.dp import attempts
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.training import run_state
from privacy_pipeline.errors import BadInputError, BudgetRefusedError, PipelineError
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.charging.grants import Grant
from privacy_pipeline.ledger.charging.sequence import Charging
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from tests.federated.experiments import logistic
from tests.federated.experiments.experiment_files import (
    DISTRIBUTED,
    PRIVACY,
    load_bound,
    write_experiment,
    write_people,
)
from tests.federated.experiments.test_experiment_runs import Killed, kill_at, register

KEY = bytes(range(32))


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_people(tmp_path)
    # What is measured before a charge has tests of its own, and takes seconds.
    monkeypatch.setattr(private_run, "verified", lambda config, charge: ())
    return tmp_path


def point_in(folder: Path, *more: str, runs: str = "runs", **replaced: str) -> Point:
    text = more or (PRIVACY,)
    path = write_experiment(
        folder, *text, name=f"{runs}.yaml", **{f"folder: {folder}/runs": f"folder: {folder}/{runs}"}, **replaced
    )
    return load_bound(path)[0]


def states(ledger: Ledger) -> list[State]:
    return [entry.state for entry in ledger.entries("people")]


def results(point: Point) -> tuple[Any, ...]:
    """All that a run leaves, but for the times and numbers of the ledger's records."""
    record = json.loads((point.folder / "privacy_record.json").read_text())
    for name in ("created", "composition"):
        del record[name]
    return RunFolder(point.folder).summary(), RunFolder(point.folder).rounds(), record


def kept(point: Point) -> set[str]:
    """Files of the run's attempts: a lock at least, which holds nothing."""
    return {file.name for file in (point.folder / attempts.ROOT).rglob("*") if file.is_file()}


@contextlib.contextmanager
def dying(change: Callable[[pytest.MonkeyPatch], None]) -> Iterator[None]:
    """Ends a run at a statement, as a SIGKILL would: nothing is given back on the way out."""
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Grant, "release", lambda self: None)
        patched.setattr(private_run._Charged, "give_up", lambda self: None)
        change(patched)
        yield


def before(owner: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def kill(*given: Any, **more: Any) -> None:
        raise Killed

    return lambda patched: patched.setattr(owner, name, kill)


def after(owner: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    real = getattr(owner, name)

    def kill(*given: Any, **more: Any) -> None:
        real(*given, **more)
        raise Killed

    return lambda patched: patched.setattr(owner, name, kill)


MOMENTS = {
    "before its ticket": before(attempts.Attempt, "begin"),
    "before its key": after(attempts.Attempt, "begin"),
    "before its first checkpoint": before(Rounds, "begin"),
    "before its start": before(Charging, "start"),
    "after its start": after(Charging, "start"),
    "after its last round": before(Charging, "commit"),
    "after its commit": after(Charging, "commit"),
    "before its record": before(private_run, "write_atomically"),
    "after its record": after(private_run, "write_atomically"),
    "before its summary": before(RunFolder, "finish"),
    "after its summary": after(RunFolder, "finish"),
    "before the end of its key": before(attempts, "clear"),
}


@pytest.mark.slow_but("after its start", "after its commit", "before its summary")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_dies_at_a_statement_pays_once(people: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunKey, "from_system", lambda: RunKey(KEY, seed_fixed=False))
    point = point_in(people)
    ledger = register(people, point)
    with dying(MOMENTS[moment]):
        run_point(point, build=logistic.build)
    summary = run_point(point, build=logistic.build)
    assert states(ledger) == [State.COMMITTED]
    record = json.loads((point.folder / "privacy_record.json").read_text())
    assert record["composition"]["ledger_entry"] == summary["ledger_entry"] == ledger.entries("people")[0].id
    assert record["composition"]["journal_seq"] and record["composition"]["entries_before"] == 0
    left = results(point)
    assert kept(point) == {"lock"}
    whole = point_in(people, runs="whole")
    run_point(whole, build=logistic.build)
    assert results(whole)[1:] == left[1:]
    assert {**results(whole)[0], "ledger_entry": 1} == left[0]
    assert ledger.verify().ok


@pytest.mark.slow_but("gaussian-3-evaluated rounds kept")
@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["each round kept", "evaluated rounds kept"])
@pytest.mark.parametrize("number", [1, 3, 4, 6])
@pytest.mark.parametrize("privacy", [PRIVACY, DISTRIBUTED], ids=["gaussian", "skellam"])
def test_a_run_that_dies_between_rounds_goes_on_to_the_same_numbers(
    people: Path, privacy: str, number: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_state, "CHECKPOINT_SECONDS", seconds)
    monkeypatch.setattr(RunKey, "from_system", lambda: RunKey(KEY, seed_fixed=False))
    point = point_in(people, privacy)
    ledger = register(people, point)
    whole = point_in(people, privacy, runs="whole")  # bound under the ledger's secret
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(number))
    with (point.folder / "rounds.jsonl").open("a") as stream:
        stream.write('{"round": 9')  # a line that was cut off
    spent = ledger.status()[0].spent_epsilon
    seen: list[int] = []
    run_point(point, build=logistic.build, report=lambda name, done, total: seen.append(done))
    saved = number if seconds == 0.0 else number - number % 2  # evaluated after each second round
    assert seen == list(range(saved + 1, 7))
    assert states(ledger) == [State.COMMITTED] and ledger.status()[0].spent_epsilon == spent
    left = results(point)
    run_point(whole, build=logistic.build)
    assert results(whole)[1:] == left[1:]


def test_what_lies_on_the_disk_meanwhile_is_private_and_ends_with_the_run(people: Path) -> None:
    point = point_in(people)
    register(people, point)
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(3))
    held = [file for file in (point.folder / attempts.ROOT).rglob("*") if file.is_file()]
    assert kept(point) == {"lock", "ticket.json", "key.json", "checkpoint.npz"}
    for file in held:
        assert file.name == "lock" or stat.S_IMODE(file.stat().st_mode) == 0o600  # a lock holds nothing
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    key = json.loads(next(file for file in held if file.name == "key.json").read_text())["key"]
    run_point(point, build=logistic.build)
    assert kept(point) == {"lock"}
    left = b"".join(file.read_bytes() for file in people.rglob("*") if file.is_file())
    assert key.encode() not in left and bytes.fromhex(key) not in left


def test_a_copied_folder_that_goes_on_after_the_other_one_pays(people: Path) -> None:
    point = point_in(people)
    ledger = register(people, point)
    copy = point_in(people, runs="copy")
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(3))
    shutil.copytree(people / "runs", people / "copy")
    first = run_point(point, build=logistic.build)
    assert states(ledger) == [State.COMMITTED]
    second = run_point(copy, build=logistic.build)
    assert states(ledger) == [State.COMMITTED, State.COMMITTED]
    assert (first["ledger_entry"], second["ledger_entry"]) == (1, 2)
    assert results(copy)[1] != results(point)[1]  # under a key of its own


def test_of_two_copies_that_go_on_at_once_one_is_committed(people: Path) -> None:
    point = point_in(people)
    ledger = register(people, point)
    copy = point_in(people, runs="copy")
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(3))
    shutil.copytree(people / "runs", people / "copy")

    def meanwhile(name: str, done: int, total: int) -> None:
        if done == 5:
            run_point(point, build=logistic.build)

    with pytest.raises(BudgetRefusedError, match="no longer started"):
        run_point(copy, build=logistic.build, report=meanwhile)
    assert states(ledger) == [State.COMMITTED]
    assert RunFolder(copy.folder).summary() is None and not (copy.folder / "privacy_record.json").exists()
    # Both made the same rounds under one key: what lies in the copy is one release with the other's.
    assert RunFolder(copy.folder).rounds() == RunFolder(point.folder).rounds()


def test_a_copy_that_holds_the_last_round_writes_the_same_result(people: Path) -> None:
    point = point_in(people)
    ledger = register(people, point)
    copy = point_in(people, runs="copy")
    with dying(before(Charging, "commit")):
        run_point(point, build=logistic.build)
    shutil.copytree(people / "runs", people / "copy")
    for one in (point, copy):
        run_point(one, build=logistic.build)
    assert states(ledger) == [State.COMMITTED]
    assert results(copy) == results(point)


def test_two_processes_never_make_one_run(people: Path) -> None:
    point = point_in(people)
    ledger = register(people, point)

    def again(name: str, done: int, total: int) -> None:
        if done == 2:
            with pytest.raises(PipelineError, match="executed by another process"):
                run_point(point, build=logistic.build)

    run_point(point, build=logistic.build, report=again)
    assert states(ledger) == [State.COMMITTED]


def test_a_process_that_waited_takes_the_result_of_the_other(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = point_in(people)
    ledger = register(people, point)
    real, ran = run.run_charged, []

    def overtaken(given: Any) -> dict[str, Any]:
        if not ran:
            ran.append(True)
            run_point(point, build=logistic.build)
        return real(given)

    monkeypatch.setattr(run, "run_charged", overtaken)
    assert run_point(point, build=logistic.build)["ledger_entry"] == 1
    assert states(ledger) == [State.COMMITTED]


@pytest.mark.parametrize("change", ["settings", "data", "code"])
def test_other_content_is_another_run_that_pays(people: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = point_in(people)
    ledger = register(people, point)
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(3))
    replaced = {"learning_rate: 5.0": "learning_rate: 4.0"} if change == "settings" else {}
    if change == "code":
        monkeypatch.setattr(experiment_binding, "hash_of_framework", lambda: "other")
    if change == "data":
        file = people / "people/span-1/train/people.csv"
        head, *rows = file.read_text().splitlines()
        file.write_text("\n".join([head, *reversed(rows)]) + "\n")
        with pytest.raises(BudgetRefusedError, match="is not what was registered"):
            run_point(point_in(people), build=logistic.build)
        assert states(ledger) == [State.STARTED]
        return
    other = point_in(people, **replaced)
    assert other.folder != point.folder
    run_point(other, build=logistic.build)
    assert states(ledger) == [State.STARTED, State.COMMITTED] and "key.json" in kept(point)


@pytest.mark.parametrize("planted", [("engine",), ("engine", "ticket.json")], ids=["key", "key and ticket"])
def test_the_key_of_another_run_is_not_used(people: Path, planted: tuple[str, ...]) -> None:
    point = point_in(people)
    ledger = register(people, point)
    other = point_in(people, **{"learning_rate: 5.0": "learning_rate: 4.0"})
    for one in (point, other):
        with pytest.raises(Killed):
            run_point(one, build=logistic.build, report=kill_at(3))
    (source,), (target,) = ((one.folder / attempts.ROOT).iterdir() for one in (point, other))
    for name in planted:
        if name == "engine":
            shutil.rmtree(target / name)
            shutil.copytree(source / name, target / name)
        else:
            shutil.copy(source / name, target / name)
    run_point(other, build=logistic.build)
    assert states(ledger) == [State.STARTED, State.STARTED, State.COMMITTED]
    assert kept(other) == {"lock"}


@pytest.mark.slow_but("machine", "ticket")
@pytest.mark.parametrize("spoilt", ["machine", "checkpoint", "key", "ticket", "rights"])
def test_a_state_that_does_not_fit_is_destroyed_and_the_run_pays_again(
    people: Path, spoilt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = point_in(people)
    ledger = register(people, point)
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(3))
    names = {"checkpoint": "checkpoint.npz", "key": "key.json", "ticket": "ticket.json", "rights": "key.json"}
    (folder,) = (point.folder / attempts.ROOT).iterdir()
    key = json.loads((folder / "engine" / "key.json").read_text())["key"]
    if spoilt == "machine":
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
    elif spoilt == "rights":
        (folder / "engine" / "key.json").chmod(0o644)
    else:
        (file,) = folder.rglob(names[spoilt])
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    keys: list[str] = []
    run_point(
        point,
        build=logistic.build,
        report=lambda *_: keys.append(json.loads((folder / "engine" / "key.json").read_text())["key"]),
    )
    assert len(keys) == 6 and key not in keys
    assert states(ledger) == [State.STARTED, State.COMMITTED]


def test_a_key_without_a_started_charge_is_not_used_under_another_ticket(people: Path) -> None:
    point = point_in(people)
    ledger = register(people, point)
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(3))
    (folder,) = (point.folder / attempts.ROOT).iterdir()
    ticket = (folder / "ticket.json").read_bytes()
    attempts.Attempt(folder, "").destroy()
    with dying(before(Charging, "start")):
        run_point(point, build=logistic.build)
    assert states(ledger) == [State.STARTED, State.RESERVED]
    key = json.loads((folder / "engine" / "key.json").read_text())["key"]
    (folder / "ticket.json").write_bytes(ticket)  # as a copy that was restored in part
    keys: list[str] = []
    run_point(
        point,
        build=logistic.build,
        report=lambda *_: keys.append(json.loads((folder / "engine" / "key.json").read_text())["key"]),
    )
    assert len(keys) == 6 and key not in keys
    assert states(ledger) == [State.STARTED, State.COMMITTED]


@pytest.mark.parametrize("other", ["tanh", "wider"])
def test_another_model_of_the_callers_own_destroys_the_key(people: Path, other: str) -> None:
    import tensorflow as tf

    from federated.experiments.engines import logits
    from federated.experiments.simulation import Simulation
    from federated.fast.engine import FastEngine
    from federated.model import FederatedModel

    def built(activation: str, units: int) -> Any:
        def build(config: Any, clients: Any, aggregator: Any, *, width: int, seed: int) -> Simulation:
            tf.keras.utils.set_random_seed(seed)
            given = tf.keras.Input((width,), name="features")
            middle = tf.keras.layers.Dense(units, activation=activation)(given)
            model = FederatedModel(tf.keras.Model(given, tf.keras.layers.Dense(1)(middle)), loss="mse")
            combine = aggregator(model.shapes)
            engine = FastEngine(model=model, clients=clients, algorithm=config.algorithm, aggregator=combine)
            return Simulation(engine=engine, predict=logits, model=model)

        return build

    point = point_in(people)
    ledger = register(people, point)
    with pytest.raises(Killed):
        run_point(point, build=built("relu", 4), report=kill_at(3))
    with pytest.raises(Killed):
        run_point(point, build=built("relu", 4), report=kill_at(5))  # the same: it goes on
    assert states(ledger) == [State.STARTED]
    seen: list[int] = []
    run_point(
        point,
        build=built("tanh", 4) if other == "tanh" else built("relu", 5),
        report=lambda name, done, total: seen.append(done),
    )
    assert seen == [1, 2, 3, 4, 5, 6]
    assert states(ledger) == [State.STARTED, State.COMMITTED]


def test_a_start_that_a_killed_run_could_not_note_is_noted_by_the_next_one(people: Path) -> None:
    """Else a ledger that is put back to before the start would pass, with rounds made since."""
    point = point_in(people)
    ledger = register(people, point)
    pins.leave(ledger, data=people / "people", workspace=people / "runs", tell=print)
    shutil.copy(people / "ledger.db", people / "before.db")
    with dying(after(Grant, "start")):
        run_point(point, build=logistic.build)
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(3))
    assert {pin.seq for pin in pins.pinned([people / "people", people / "runs"]).values()} == {ledger.lineage().seq}
    shutil.copy(people / "before.db", people / "ledger.db")
    with pytest.raises(BudgetRefusedError, match="rolled back"):
        run_point(point, build=logistic.build)


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_copied_to_the_name_of_another_run_is_refused(people: Path, finished: bool) -> None:
    point = point_in(people)
    ledger = register(people, point)
    other = point_in(people, **{"seeds: [1, 2]": "seeds: [2]"})
    if finished:
        run_point(point, build=logistic.build)
    else:
        with pytest.raises(Killed):
            run_point(point, build=logistic.build, report=kill_at(3))
    shutil.copytree(point.folder, other.folder)
    with pytest.raises(BadInputError, match="run of other content"):
        run_point(other, build=logistic.build)
    assert states(ledger) == [State.COMMITTED if finished else State.STARTED]


def test_a_run_that_lost_its_lines_is_refused_and_not_charged_again(people: Path) -> None:
    point = point_in(people)
    ledger = register(people, point)
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(4))
    (point.folder / "rounds.jsonl").unlink()
    with pytest.raises(PipelineError, match="lacks rounds that were made"):
        run_point(point, build=logistic.build)
    assert states(ledger) == [State.STARTED]


def test_a_budget_that_the_run_itself_has_filled_does_not_stop_it(people: Path) -> None:
    from federated.experiments.charging import privacy
    from privacy_pipeline.ledger.state.entries import price

    point = point_in(people)
    charge = privacy.charged(point.config, units=60)
    ledger = register(people, point, cap=1.2 * price(charge.event, charge.relation).epsilon(1e-3))
    with pytest.raises(Killed):
        run_point(point, build=logistic.build, report=kill_at(3))
    run_point(point, build=logistic.build)
    assert states(ledger) == [State.COMMITTED]


def test_an_error_before_the_start_leaves_no_key_and_gives_the_budget_back(people: Path) -> None:
    point = point_in(people)
    ledger = register(people, point)

    def build(*given: Any, **more: Any) -> Any:
        logistic.build(*given, **more)  # the aggregator is made: the key is there
        (key,) = point.folder.rglob("key.json")
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        raise PipelineError("the engine cannot be built")

    with pytest.raises(PipelineError, match="cannot be built"):
        run_point(point, build=build)
    assert states(ledger) == [State.EXPIRED]
    assert kept(point) == {"lock"}
    run_point(point, build=logistic.build)
    assert states(ledger) == [State.EXPIRED, State.COMMITTED]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from federated.experiments import private_run
from federated.experiments.engines import build
from federated.experiments.run import run_point
from privacy_pipeline.dp.graphs.randomness import RunKey
from tests.federated.experiments.experiment_files import load_bound

RunKey.from_system = lambda: RunKey(bytes(range(32)), seed_fixed=False)
private_run.verified = lambda config, charge: ()
(point,) = load_bound(Path(sys.argv[1]))

def report(name, done, total):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

run_point(point, build=build, report=report)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["clients", pytest.param("silos", marks=pytest.mark.slow)])
def test_processes_that_are_killed_end_with_the_numbers_of_one_that_was_not(people: Path, kind: str) -> None:
    """The engines of real runs: each process goes on from the last one's checkpoint, bit by bit."""
    from tests.federated.experiments import test_silo_experiments as silo

    def point_of(runs: str) -> Point:
        if kind == "clients":
            return point_in(people, runs=runs, **{"seeds: [1, 2]": "seeds: [1]"})
        return silo.point_of(people, **{f"folder: {people}/runs": f"folder: {people}/{runs}"})

    if kind == "silos":
        silo.everyone_in_one_town(people)
    point = point_of("runs")
    ledger = register(people, point)
    left = []
    for runs, moments in (("runs", (1, 2, -1)), ("whole", (-1,))):
        point = point_of(runs)
        path = people / ("small.yaml" if kind == "silos" else f"{runs}.yaml")
        for moment in moments:
            command = [sys.executable, "-c", SCRIPT, str(path), str(moment)]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ.copy())
            assert ran.returncode == (0 if moment < 0 else -9), ran.stderr[-2000:]
        left.append(results(point)[1:])
    assert left[0] == left[1]
    assert states(ledger) == [State.COMMITTED, State.COMMITTED]
